//! The queries of `/audit`.

use super::{PAGE_DEFAULT, Result, Wrong, number, once, parameters, rows, unknown, wrong};

/// Which entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acts {
    /// Those of this object, such as `job/ID`.
    pub object: Option<String>,
    /// Those before this number.
    pub before: Option<i64>,
    /// How many at most.
    pub limit: u32,
}

impl Acts {
    const KNOWN: [&'static str; 5] = ["job", "template", "schedule", "limit", "cursor"];

    /// Reads the query.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn parse(query: &str) -> Result<Self> {
        let (mut object, mut limit, mut before) = (None, None, None);
        for (name, value) in parameters(query)? {
            let name = name.as_str();
            match name {
                "job" | "template" | "schedule" => {
                    if value.is_empty() {
                        return wrong(name, "must not be empty");
                    }
                    if object.replace(format!("{name}/{value}")).is_some() {
                        return wrong(name, "one of job, template and schedule may be given, once");
                    }
                }
                "limit" => rows(&mut limit, &value)?,
                "cursor" => {
                    let number: i64 = value.parse().map_err(|_| Wrong::Cursor)?;
                    once(&mut before, name, number)?;
                }
                _ => return Err(unknown(name, &Self::KNOWN)),
            }
        }
        Ok(Self {
            object,
            before,
            limit: limit.unwrap_or(PAGE_DEFAULT),
        })
    }
}

/// Which seals are looked at: those after this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AfterSeal(pub i64);

impl AfterSeal {
    /// Reads the query.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn parse(query: &str) -> Result<Self> {
        let mut after = None;
        for (name, value) in parameters(query)? {
            match name.as_str() {
                "after" => {
                    let place: u32 = number("after", &value, "the place of a seal")?;
                    once(&mut after, "after", place)?;
                }
                _ => return Err(unknown(&name, &["after"])),
            }
        }
        Ok(Self(after.map_or(0, i64::from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_is_named_once() {
        let acts = Acts::parse("job=0abc&limit=3&cursor=17").expect("good");
        assert_eq!(
            (acts.object.as_deref(), acts.before, acts.limit),
            (Some("job/0abc"), Some(17), 3)
        );
        assert_eq!(Acts::parse("").expect("good").limit, PAGE_DEFAULT);
        for bad in [
            "job=a&template=b",
            "job=a&job=a",
            "job=",
            "limit=0",
            "limit=501",
            "cursor=x",
            "cursor=99999999999999999999",
            "owner=a",
        ] {
            assert!(Acts::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn seals_are_looked_at_from_the_first_one_on() {
        assert_eq!(AfterSeal::parse(""), Ok(AfterSeal(0)));
        assert_eq!(AfterSeal::parse("after=7"), Ok(AfterSeal(7)));
        for bad in ["after=-1", "after=x", "after=1&after=2", "before=1"] {
            assert!(AfterSeal::parse(bad).is_err(), "{bad}");
        }
    }
}
