//! Which of the forms that a route has a client wants, by its `Accept` header (RFC 9110, section 12.5.1). Pure.

/// Returns the place of the media type in `offers` that a client wants most: the first one where it does not say, or
/// wants none of them. An answer in another form is more use than a refusal.
pub(super) fn choose(accept: Option<&str>, offers: &[&str]) -> usize {
    let ranges: Vec<(&str, u32)> = accept.unwrap_or_default().split(',').filter_map(range).collect();
    let mut best = (0, 0);
    for (place, offer) in offers.iter().enumerate() {
        let quality = quality(&ranges, offer);
        if quality > best.1 {
            best = (place, quality);
        }
    }
    best.0
}

/// Reads a range and its weight in thousandths.
fn range(text: &str) -> Option<(&str, u32)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().filter(|range| range.contains('/'))?;
    let mut weight = 1000;
    for part in parts {
        let Some((name, value)) = part.split_once('=') else {
            continue;
        };
        if name.trim().eq_ignore_ascii_case("q") {
            let value: f64 = value.trim().parse().ok()?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is between 0 and 1000, and `as` makes 0 of what is no number"
            )]
            let thousandths = (value.clamp(0.0, 1.0) * 1000.0) as u32;
            weight = thousandths;
        }
    }
    Some((range, weight))
}

/// Returns the weight of the narrowest range that has the media type in it.
fn quality(ranges: &[(&str, u32)], offer: &str) -> u32 {
    let (kind, _) = offer.split_once('/').unwrap_or((offer, ""));
    let fits = |range: &str| {
        if range.eq_ignore_ascii_case(offer) {
            return 3;
        }
        match range.split_once('/') {
            Some(("*", "*")) => 1,
            Some((wanted, "*")) if wanted.eq_ignore_ascii_case(kind) => 2,
            _ => 0,
        }
    };
    let narrowest = ranges
        .iter()
        .map(|(range, weight)| (fits(range), *weight))
        .max_by_key(|found| found.0);
    narrowest.filter(|found| found.0 > 0).map_or(0, |found| found.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_given_what_it_wants_most() {
        let offers = ["text/plain", "application/x-ndjson", "text/event-stream"];
        for (accept, place) in [
            (None, 0),
            (Some("*/*"), 0),
            (Some("text/event-stream"), 2),
            (Some("Text/Event-Stream"), 2),
            (Some("application/x-ndjson, */*;q=0.1"), 1),
            (Some("text/plain;q=0.5, text/event-stream;q=0.9"), 2),
            (Some("text/*, text/plain;q=0"), 2),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), 0),
            (Some("image/png"), 0),
            // Hostile ones.
            (Some(""), 0),
            (Some(";q=,;;/,=,q=2"), 0),
            (Some("text/event-stream;q=nan"), 0),
            (Some("text/event-stream;q=-5"), 0),
            (Some("text/event-stream;q=inf"), 2),
            (Some("text/event-stream;q=1e999"), 2),
        ] {
            assert_eq!(choose(accept, &offers), place, "{accept:?}");
        }
        assert_eq!(choose(Some(&"a/b,".repeat(50_000)), &offers), 0);
    }
}
