//! The order of headings and of numbered steps.

use crate::prose::Look;
use crate::prose::finding::Said;

/// Finds headings that skip a level, and steps that are out of order.
pub(super) fn look(look: &mut Look<'_, '_>) {
    let document = look.document;
    if look.runs("heading-order") {
        let mut last = 0;
        for heading in &document.headings {
            if last > 0 && heading.level > last + 1 {
                let said = Said::message(format!(
                    "a heading of level {} stands below one of level {last}",
                    heading.level
                ))
                .instead(format!(
                    "make it level {}, or give it the heading that is missing above it",
                    last + 1
                ));
                look.add("heading-order", first_line(document.text, &heading.source), said);
            }
            last = heading.level;
        }
    }
    if !look.runs("step-order") {
        return;
    }
    // Where the last list at each depth ended, and behind which heading.
    let mut ended: Vec<Option<(u64, usize)>> = Vec::new();
    let mut lists: Vec<_> = document.lists.iter().collect();
    lists.sort_by_key(|list| list.items.first().map_or(0, |item| item.1.start));
    for list in lists {
        let (Some(first), Some(final_item)) = (list.items.first(), list.items.last()) else {
            continue;
        };
        let section = document
            .headings
            .partition_point(|heading| heading.source.start < first.1.start);
        ended.truncate(list.depth + 1);
        ended.resize(list.depth + 1, None);
        let before = ended[list.depth].filter(|(_, of)| *of == section);
        if first.0 > 1 && before.is_none_or(|(number, _)| number + 1 != first.0) {
            let said = match before {
                Some((number, _)) => Said::message(format!("step {} comes after step {number}", first.0)),
                None => Said::message(format!("the steps begin with {}", first.0)),
            };
            look.add("step-order", first.1.clone(), said);
        }
        // `1. 1. 1.` is a way to let the renderer count.
        let counts_itself = list.items.iter().all(|item| item.0 == first.0);
        if !counts_itself {
            for pair in list.items.windows(2) {
                if let [a, b] = pair
                    && b.0 != a.0 + 1
                {
                    let said = Said::message(format!("step {} comes after step {}", b.0, a.0));
                    look.add("step-order", b.1.clone(), said);
                }
            }
        }
        let last = if counts_itself {
            first.0 + list.items.len() as u64 - 1
        } else {
            final_item.0
        };
        ended[list.depth] = Some((last, section));
    }
}

/// Returns the range of the first line of something.
fn first_line(text: &str, range: &std::ops::Range<usize>) -> std::ops::Range<usize> {
    let line = text[range.clone()].lines().next().unwrap_or_default();
    range.start..range.start + line.len()
}
