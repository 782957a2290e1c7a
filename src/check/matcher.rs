//! The closed set of matchers: what a spec may ask of one value.
//!
//! A bare value means `eq`. A mapping holds one operator or several, and several mean all of them. A value that is not
//! there satisfies nothing but `missing`, so a misspelt path can never pass by being absent.

use std::fmt;

use regex::Regex;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json_path::JsonPath;

/// What is asked of a value.
#[derive(Debug, Clone)]
pub enum Matcher {
    /// Is this value; 1 and 1.0 are the same number, 1 and "1" are not the same value.
    Eq(Value),
    /// Is there and is another value.
    Ne(Value),
    /// Is a number above this.
    Gt(f64),
    /// Is a number not below this.
    Gte(f64),
    /// Is a number below this.
    Lt(f64),
    /// Is a number not above this.
    Lte(f64),
    /// Is a number from the first to the second, both included.
    Between(f64, f64),
    /// Is text in which the expression is found.
    Matches(Regex),
    /// Is text with this part, an array with this element, or an object with these entries.
    Contains(Value),
    /// Is not there.
    Missing,
    /// Is there, be it null.
    Present,
    /// Has this length: characters of text, elements of an array, entries of an object.
    Len(Box<Matcher>),
    /// Is of this JSON type.
    Type(Kind),
    /// Is a version (a leading `v` is dropped) that satisfies the requirement in Cargo's notation.
    Semver(semver::VersionReq),
    /// Is one of these values.
    OneOf(Vec<Value>),
    /// Is there and does not match.
    Not(Box<Matcher>),
    /// Matches all of these.
    All(Vec<Matcher>),
    /// Matches at least one of these.
    Any(Vec<Matcher>),
}

/// The type of a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Boolean,
    /// A number.
    Number,
    /// Text.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl Matcher {
    /// Returns whether a value, or its absence, is what is asked.
    pub fn accepts(&self, value: Option<&Value>) -> bool {
        let Some(value) = value else {
            return self.accepts_absence();
        };
        match self {
            Self::Eq(wanted) => equal(value, wanted),
            Self::Ne(unwanted) => !equal(value, unwanted),
            Self::Gt(limit) => value.as_f64().is_some_and(|n| n > *limit),
            Self::Gte(limit) => value.as_f64().is_some_and(|n| n >= *limit),
            Self::Lt(limit) => value.as_f64().is_some_and(|n| n < *limit),
            Self::Lte(limit) => value.as_f64().is_some_and(|n| n <= *limit),
            Self::Between(low, high) => value.as_f64().is_some_and(|n| *low <= n && n <= *high),
            Self::Matches(expression) => value.as_str().is_some_and(|text| expression.is_match(text)),
            Self::Contains(part) => contains(value, part),
            Self::Missing => false,
            Self::Present => true,
            Self::Len(inner) => length(value).is_some_and(|n| inner.accepts(Some(&Value::from(n)))),
            Self::Type(kind) => kind_of(value) == *kind,
            Self::Semver(wanted) => value
                .as_str()
                .and_then(|text| semver::Version::parse(text.trim_start_matches('v')).ok())
                .is_some_and(|version| wanted.matches(&version)),
            Self::OneOf(values) => values.iter().any(|wanted| equal(value, wanted)),
            Self::Not(inner) => !inner.accepts(Some(value)),
            Self::All(all) => all.iter().all(|inner| inner.accepts(Some(value))),
            Self::Any(any) => any.iter().any(|inner| inner.accepts(Some(value))),
        }
    }

    fn accepts_absence(&self) -> bool {
        match self {
            Self::Missing => true,
            // `not: {eq: 3}` must not pass on a path that leads nowhere; only a statement about presence can be turned
            // round for an absent value.
            Self::Not(inner) => matches!(**inner, Self::Present),
            Self::All(all) => all.iter().all(Self::accepts_absence),
            Self::Any(any) => any.iter().any(Self::accepts_absence),
            _ => false,
        }
    }

    /// Returns a copy in which `f` was applied to every text of a literal value; expressions stay as they are.
    #[must_use]
    pub fn map_text(&self, f: &dyn Fn(&str) -> String) -> Self {
        fn value(v: &Value, f: &dyn Fn(&str) -> String) -> Value {
            match v {
                Value::String(text) => Value::String(f(text)),
                Value::Array(items) => items.iter().map(|item| value(item, f)).collect(),
                Value::Object(entries) => {
                    Value::Object(entries.iter().map(|(k, item)| (k.clone(), value(item, f))).collect())
                }
                other => other.clone(),
            }
        }
        match self {
            Self::Eq(v) => Self::Eq(value(v, f)),
            Self::Ne(v) => Self::Ne(value(v, f)),
            Self::Contains(v) => Self::Contains(value(v, f)),
            Self::OneOf(values) => Self::OneOf(values.iter().map(|v| value(v, f)).collect()),
            Self::Len(inner) => Self::Len(Box::new(inner.map_text(f))),
            Self::Not(inner) => Self::Not(Box::new(inner.map_text(f))),
            Self::All(all) => Self::All(all.iter().map(|m| m.map_text(f)).collect()),
            Self::Any(any) => Self::Any(any.iter().map(|m| m.map_text(f)).collect()),
            other => other.clone(),
        }
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || (x.as_f64().is_some() && x.as_f64() == y.as_f64()),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(p, q)| equal(p, q)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, p)| y.get(key).is_some_and(|q| equal(p, q)))
        }
        _ => a == b,
    }
}

fn contains(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
        (Value::Array(items), part) => items.iter().any(|item| equal(item, part)),
        (Value::Object(entries), Value::Object(part)) => part
            .iter()
            .all(|(key, wanted)| entries.get(key).is_some_and(|found| equal(found, wanted))),
        _ => false,
    }
}

fn length(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => Some(text.chars().count()),
        Value::Array(items) => Some(items.len()),
        Value::Object(entries) => Some(entries.len()),
        _ => None,
    }
}

fn kind_of(value: &Value) -> Kind {
    match value {
        Value::Null => Kind::Null,
        Value::Bool(_) => Kind::Boolean,
        Value::Number(_) => Kind::Number,
        Value::String(_) => Kind::String,
        Value::Array(_) => Kind::Array,
        Value::Object(_) => Kind::Object,
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, all: &[Self], word: &str| {
            for (i, one) in all.iter().enumerate() {
                if i > 0 {
                    write!(f, " {word} ")?;
                }
                write!(f, "{one}")?;
            }
            Ok(())
        };
        match self {
            Self::Eq(v) => write!(f, "{v}"),
            Self::Ne(v) => write!(f, "anything but {v}"),
            Self::Gt(n) => write!(f, "> {n}"),
            Self::Gte(n) => write!(f, ">= {n}"),
            Self::Lt(n) => write!(f, "< {n}"),
            Self::Lte(n) => write!(f, "<= {n}"),
            Self::Between(low, high) => write!(f, "{low} to {high}"),
            Self::Matches(expression) => write!(f, "text that matches /{expression}/"),
            Self::Contains(v) => write!(f, "something that contains {v}"),
            Self::Missing => f.write_str("nothing"),
            Self::Present => f.write_str("any value"),
            Self::Len(inner) => write!(f, "length {inner}"),
            Self::Type(kind) => write!(f, "a value of type {}", format!("{kind:?}").to_lowercase()),
            Self::Semver(wanted) => write!(f, "a version {wanted}"),
            Self::OneOf(values) => {
                f.write_str("one of ")?;
                for (i, v) in values.iter().enumerate() {
                    write!(f, "{}{v}", if i > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Self::Not(inner) => write!(f, "not {inner}"),
            Self::All(all) => list(f, all, "and"),
            Self::Any(any) => list(f, any, "or"),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Operator {
    Eq,
    Ne,
    Gt,
    Gte,
    Lt,
    Lte,
    Between,
    Matches,
    Contains,
    Missing,
    Present,
    Len,
    Type,
    Semver,
    OneOf,
    Not,
    All,
    Any,
}

struct MatcherVisitor;

impl<'de> Visitor<'de> for MatcherVisitor {
    type Value = Matcher;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, or a mapping from matchers to their operands")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Matcher, E> {
        Ok(Matcher::Eq(Value::from(v)))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Matcher, E> {
        Ok(Matcher::Eq(Value::from(v)))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Matcher, E> {
        Ok(Matcher::Eq(Value::from(v)))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Matcher, E> {
        Ok(Matcher::Eq(Value::from(v)))
    }

    fn visit_str<E>(self, v: &str) -> Result<Matcher, E> {
        Ok(Matcher::Eq(Value::from(v)))
    }

    fn visit_unit<E>(self) -> Result<Matcher, E> {
        Ok(Matcher::Eq(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Matcher, E> {
        Ok(Matcher::Eq(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Matcher, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element::<Value>()? {
            out.push(item);
        }
        Ok(Matcher::Eq(Value::Array(out)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Matcher, A::Error> {
        fn some<T, E: de::Error>(list: Vec<T>, name: &str) -> Result<Vec<T>, E> {
            if list.is_empty() {
                return Err(E::custom(format!(
                    "`{name}: []` asks nothing; give it at least one entry"
                )));
            }
            Ok(list)
        }
        fn affirmed<E: de::Error>(value: bool, name: &str, opposite: &str) -> Result<(), E> {
            if value {
                return Ok(());
            }
            Err(E::custom(format!(
                "write `{opposite}: true` instead of `{name}: false`"
            )))
        }
        let mut all = Vec::new();
        while let Some(operator) = map.next_key::<Operator>()? {
            all.push(match operator {
                Operator::Eq => Matcher::Eq(map.next_value()?),
                Operator::Ne => Matcher::Ne(map.next_value()?),
                Operator::Gt => Matcher::Gt(map.next_value()?),
                Operator::Gte => Matcher::Gte(map.next_value()?),
                Operator::Lt => Matcher::Lt(map.next_value()?),
                Operator::Lte => Matcher::Lte(map.next_value()?),
                Operator::Between => {
                    let (low, high) = map.next_value::<(f64, f64)>()?;
                    if low > high {
                        return Err(de::Error::custom(format!(
                            "`between: [{low}, {high}]` holds for no number: the smaller one comes first"
                        )));
                    }
                    Matcher::Between(low, high)
                }
                Operator::Matches => Matcher::Matches(map.next_value::<Pattern>()?.0),
                Operator::Contains => {
                    let part: Value = map.next_value()?;
                    if part.as_str() == Some("") || part.as_object().is_some_and(serde_json::Map::is_empty) {
                        return Err(de::Error::custom(
                            "everything contains nothing; give `contains` something to find",
                        ));
                    }
                    Matcher::Contains(part)
                }
                Operator::Missing => {
                    affirmed(map.next_value()?, "missing", "present")?;
                    Matcher::Missing
                }
                Operator::Present => {
                    affirmed(map.next_value()?, "present", "missing")?;
                    Matcher::Present
                }
                Operator::Len => Matcher::Len(Box::new(map.next_value()?)),
                Operator::Type => Matcher::Type(map.next_value()?),
                Operator::Semver => Matcher::Semver(map.next_value::<Requirement>()?.0),
                Operator::OneOf => Matcher::OneOf(some(map.next_value()?, "one_of")?),
                Operator::Not => Matcher::Not(Box::new(map.next_value()?)),
                Operator::All => Matcher::All(some(map.next_value()?, "all")?),
                Operator::Any => Matcher::Any(some(map.next_value()?, "any")?),
            });
        }
        match all.len() {
            0 => Err(de::Error::custom(
                "`{}` asks nothing; write a value or a matcher such as `{gte: 1}`",
            )),
            1 => Ok(all.remove(0)),
            _ => Ok(Matcher::All(all)),
        }
    }
}

impl<'de> Deserialize<'de> for Matcher {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MatcherVisitor)
    }
}

struct Pattern(Regex);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Regex::new(&text).map(Self).map_err(|error| {
            let why = error.to_string();
            let last = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
            de::Error::custom(format!("`{text}` is not a regular expression: {last}"))
        })
    }
}

struct Requirement(semver::VersionReq);

impl<'de> Deserialize<'de> for Requirement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        semver::VersionReq::parse(&text)
            .map(Self)
            .map_err(|error| de::Error::custom(format!("`{text}` is not a version requirement: {error}")))
    }
}

/// A JSONPath of RFC 9535, as it was written.
#[derive(Debug, Clone)]
pub struct Path {
    text: String,
    path: JsonPath,
}

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// It is not a JSONPath; the text says where.
    pub fn parse(text: &str) -> Result<Self, String> {
        match JsonPath::parse(text) {
            Ok(path) => Ok(Self {
                text: text.to_owned(),
                path,
            }),
            Err(error) => Err(format!(
                "`{text}` is not a JSONPath (RFC 9535), at character {}: {}",
                error.position() + 1,
                error.message()
            )),
        }
    }

    /// Returns the path of the value itself, `$`.
    pub fn root() -> Self {
        Self::parse("$").expect("`$` is a JSONPath")
    }

    /// Returns the values that the path leads to, with where each of them is.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<(String, &'v Value)> {
        self.path
            .query_located(value)
            .iter()
            .map(|node| (node.location().to_string(), node.node()))
            .collect()
    }

    /// Returns the path as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns a copy to whose text `f` was applied; the path itself where that gives no path.
    #[must_use]
    fn map_text(&self, f: &dyn Fn(&str) -> String) -> Self {
        let text = f(&self.text);
        if text == self.text {
            return self.clone();
        }
        Self::parse(&text).unwrap_or_else(|_| self.clone())
    }
}

impl<'de> Deserialize<'de> for Path {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// Paths with what is asked of the values there, in the order in which they were written.
#[derive(Debug, Clone)]
pub struct Fields(pub Vec<(Path, Matcher)>);

impl Fields {
    /// Returns a copy in which `f` was applied to every text that is asked for, and to the paths: a placeholder may stand
    /// within the quotes of a filter, such as `$.jobs[?@.id == '{{job}}']`.
    #[must_use]
    pub fn map_text(&self, f: &dyn Fn(&str) -> String) -> Self {
        Self(
            self.0
                .iter()
                .map(|(path, m)| (path.map_text(f), m.map_text(f)))
                .collect(),
        )
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping from JSONPaths to what is expected there")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut out = Vec::new();
                while let Some(entry) = map.next_entry::<Path, Matcher>()? {
                    out.push(entry);
                }
                if out.is_empty() {
                    return Err(de::Error::custom(
                        "`{}` asks nothing; give at least one JSONPath with what is expected",
                    ));
                }
                Ok(Fields(out))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matcher(yaml: &str) -> Matcher {
        serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"))
    }

    #[test]
    fn each_matcher_accepts_and_refuses() {
        // Matcher, a value it accepts, a value it refuses.
        let table = [
            ("200", json!(200), json!("200")),
            ("200", json!(200.0), json!(201)),
            ("ok", json!("ok"), json!("okay")),
            ("null", json!(null), json!(0)),
            ("true", json!(true), json!("true")),
            ("[1, 2]", json!([1, 2]), json!([2, 1])),
            ("{eq: {a: 1}}", json!({"a": 1}), json!({"a": 1, "b": 2})),
            ("{ne: 3}", json!(4), json!(3)),
            ("{gt: 1}", json!(1.5), json!(1)),
            ("{gte: 1}", json!(1), json!(0)),
            ("{gte: 1}", json!(2), json!("2")),
            ("{lt: 1}", json!(0), json!(1)),
            ("{lte: 1}", json!(1), json!(1.01)),
            ("{between: [1, 3]}", json!(3), json!(4)),
            ("{matches: '^v1\\.'}", json!("v1.2"), json!("v2.1.")),
            ("{matches: '^1'}", json!("1"), json!(1)),
            ("{contains: ell}", json!("hello"), json!("world")),
            ("{contains: 2}", json!([1, 2]), json!([1, 22])),
            ("{contains: {a: 1}}", json!({"a": 1, "b": 2}), json!({"b": 2})),
            ("{present: true}", json!(null), Value::String("absent".into())),
            ("{len: 2}", json!("äb"), json!("abc")),
            ("{len: {gte: 1}}", json!([0]), json!([])),
            ("{type: object}", json!({}), json!([])),
            ("{semver: '~1.37'}", json!("v1.37.9"), json!("v1.38.0")),
            ("{semver: '>=1'}", json!("1.0.0"), json!("one")),
            ("{one_of: [a, b]}", json!("b"), json!("c")),
            ("{not: {contains: x}}", json!("y"), json!("xy")),
            ("{all: [{gt: 1}, {lt: 3}]}", json!(2), json!(3)),
            ("{any: [1, 5]}", json!(5), json!(3)),
            ("{gt: 1, lt: 3}", json!(2), json!(1)),
        ];
        for (yaml, good, bad) in table {
            let m = matcher(yaml);
            assert!(m.accepts(Some(&good)), "{yaml} must accept {good}");
            if bad != "absent" {
                assert!(!m.accepts(Some(&bad)), "{yaml} must refuse {bad}");
                let negated = Matcher::Not(Box::new(m.clone()));
                assert!(
                    negated.accepts(Some(&bad)) && !negated.accepts(Some(&good)),
                    "not {yaml}"
                );
            }
        }
    }

    #[test]
    fn only_missing_accepts_a_value_that_is_not_there() {
        for yaml in [
            "1",
            "null",
            "{ne: 1}",
            "{gte: 0}",
            "{present: true}",
            "{not: {eq: 1}}",
            "{not: {contains: x}}",
            "{len: 0}",
            "{any: [1, {ne: 2}]}",
            "{not: {missing: true}}",
        ] {
            assert!(!matcher(yaml).accepts(None), "{yaml}");
        }
        for yaml in [
            "{missing: true}",
            "{not: {present: true}}",
            "{any: [{missing: true}, {eq: 0}]}",
        ] {
            assert!(matcher(yaml).accepts(None), "{yaml}");
        }
        assert!(!matcher("{missing: true}").accepts(Some(&Value::Null)));
    }

    #[test]
    fn what_asks_nothing_is_refused() {
        for (yaml, part) in [
            ("{}", "asks nothing"),
            ("{all: []}", "`all: []` asks nothing"),
            ("{one_of: []}", "`one_of: []` asks nothing"),
            ("{contains: ''}", "everything contains nothing"),
            ("{missing: false}", "`present: true` instead of `missing: false`"),
            ("{between: [3, 1]}", "holds for no number"),
            ("{matches: '('}", "is not a regular expression: unclosed group"),
            ("{semver: 'x.y'}", "is not a version requirement"),
            ("{gte: many}", "gte"),
            ("{gte: 1, gte: 2}", "uplicate"),
            ("{equals: 1}", "equals"),
        ] {
            let error = serde_saphyr::from_str::<Matcher>(yaml)
                .err()
                .unwrap_or_else(|| panic!("{yaml} was taken"));
            assert!(
                yaml.contains("many") || error.to_string().contains(part),
                "{yaml}: {error}"
            );
        }
    }

    #[test]
    fn a_placeholder_in_a_filter_is_filled() {
        let fields: Fields = serde_saphyr::from_str("{\"$.jobs[?@.id == '{{job}}'].state\": running}").expect("fields");
        let filled = fields.map_text(&|text| text.replace("{{job}}", "b"));
        let jobs = json!({"jobs": [{"id": "a", "state": "failed"}, {"id": "b", "state": "running"}]});
        let found: Vec<_> = filled.0[0]
            .0
            .find(&jobs)
            .into_iter()
            .map(|(_, value)| value.clone())
            .collect();
        assert_eq!(found, [json!("running")]);
        // What would be no path any more stays as it was, and then finds nothing.
        let broken = fields.map_text(&|text| text.replace("{{job}}", "'"));
        assert!(broken.0[0].0.find(&jobs).is_empty());
    }

    #[test]
    fn text_in_literals_is_mapped_and_expressions_are_not() {
        let mapped =
            matcher("{any: [{eq: [a, {k: a}]}, {matches: a}, {one_of: [a]}]}").map_text(&|t| t.replace('a', "b"));
        assert_eq!(
            mapped.to_string(),
            r#"["b",{"k":"b"}] or text that matches /a/ or one of "b""#
        );
    }
}
