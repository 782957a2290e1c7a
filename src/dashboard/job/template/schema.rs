//! The schemas of parameters: which ones are taken, what they say about arguments, and what they say to a form.

use std::collections::BTreeMap;

use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Value, json};

use super::{fault, is_parameter};
use crate::dashboard::job::spec::{Fault, escaped};

/// How many bytes a schema may have.
const BYTES: usize = 32 << 10;
/// How deep a schema may be nested.
const DEPTH: u32 = 24;
/// How many keywords a schema may have when every reference is replaced by what it refers to. Checking arguments takes
/// about so many steps for each of their parts.
const WEIGHT: u64 = 4000;
/// How many parameters there may be.
const PARAMETERS: usize = 64;
/// How large a pattern may become when it is compiled.
const PATTERN_BYTES: usize = 256 << 10;
/// The dialect.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Keywords that let a schema be referred to, or refer, in ways that are not looked at here.
const REFUSED: [&str; 7] = [
    "$id",
    "$anchor",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$vocabulary",
];

fn validator(schema: &Value) -> Result<Validator, jsonschema::ValidationError<'static>> {
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .offline()
        .should_validate_formats(true)
        .with_pattern_options(
            PatternOptions::regex()
                .size_limit(PATTERN_BYTES)
                .dfa_size_limit(PATTERN_BYTES),
        )
        .build(schema)
}

/// Measures a schema with its references followed.
struct Scale<'a> {
    root: &'a Value,
    /// References that are being followed.
    open: Vec<&'a str>,
    /// What is behind a reference weighs so much.
    known: BTreeMap<&'a str, u64>,
}

impl<'a> Scale<'a> {
    fn weigh(&mut self, value: &'a Value, at: &str, depth: u32) -> Result<u64, Fault> {
        if depth > DEPTH {
            return Err(fault(at, format!("a schema is nested at most {DEPTH} levels deep")));
        }
        let mut weight: u64 = 1;
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let at = format!("{at}/{}", escaped(key));
                    if let Value::String(text) = value {
                        if key == "$ref" {
                            weight = weight.saturating_add(self.follow(text, &at, depth)?);
                            continue;
                        }
                        if key == "$schema" && text.trim_end_matches('#') != DIALECT {
                            return Err(fault(at, format!("the dialect is {DIALECT}")));
                        }
                        if REFUSED.contains(&key.as_str()) {
                            return Err(fault(
                                at,
                                "parameters do not use this keyword: only `$ref` with `#/$defs/NAME` refers to other schemas",
                            ));
                        }
                    }
                    weight = weight.saturating_add(self.weigh(value, &at, depth + 1)?);
                }
            }
            Value::Array(values) => {
                for (place, value) in values.iter().enumerate() {
                    weight = weight.saturating_add(self.weigh(value, &format!("{at}/{place}"), depth + 1)?);
                }
            }
            _ => {}
        }
        if weight > WEIGHT {
            return Err(fault(
                at,
                format!("a schema has at most {WEIGHT} parts, with every `$ref` replaced by what it refers to"),
            ));
        }
        Ok(weight)
    }

    fn follow(&mut self, reference: &'a str, at: &str, depth: u32) -> Result<u64, Fault> {
        if let Some(weight) = self.known.get(reference) {
            return Ok(*weight);
        }
        let name = reference.strip_prefix("#/$defs/").filter(|name| is_parameter(name));
        let Some(name) = name else {
            return Err(fault(
                at,
                "a reference is `#/$defs/NAME`: nothing outside the schema is read",
            ));
        };
        let Some(target) = self.root.get("$defs").and_then(|defs| defs.get(name)) else {
            return Err(fault(at, format!("`$defs` has no `{name}`")));
        };
        if self.open.contains(&reference) {
            return Err(fault(at, "a schema may not contain itself"));
        }
        self.open.push(reference);
        let weight = self.weigh(target, at, depth + 1)?;
        self.open.pop();
        self.known.insert(reference, weight);
        Ok(weight)
    }
}

/// Looks whether a schema can be that of parameters.
pub(super) fn checked(schema: &Value) -> Result<(), Fault> {
    let wrong = |at: &str, why: String| Err(fault(format!("/parameters{at}"), why));
    if !schema.is_object() || schema.get("type") != Some(&json!("object")) {
        return wrong(
            "",
            "the parameters are a JSON Schema with `\"type\": \"object\"`".to_owned(),
        );
    }
    if schema.to_string().len() > BYTES {
        return wrong("", format!("a schema has at most {BYTES} bytes"));
    }
    let properties = match schema.get("properties") {
        None => None,
        Some(Value::Object(properties)) => Some(properties),
        Some(_) => {
            return wrong(
                "/properties",
                "it is an object with a schema for each parameter".to_owned(),
            );
        }
    };
    if properties.is_some_and(|properties| properties.len() > PARAMETERS) {
        return wrong("/properties", format!("at most {PARAMETERS} parameters"));
    }
    for (name, schema) in properties.into_iter().flatten() {
        let at = format!("/properties/{}", escaped(name));
        if !is_parameter(name) {
            return wrong(
                &at,
                "a parameter's name has 1 to 63 letters, digits, `_` and `-`, and begins with a letter or `_`"
                    .to_owned(),
            );
        }
        if !schema.is_object() {
            return wrong(&at, "a parameter's schema is an object".to_owned());
        }
    }
    let mut scale = Scale {
        root: schema,
        open: Vec::new(),
        known: BTreeMap::new(),
    };
    scale.weigh(schema, "/parameters", 0)?;
    match validator(schema) {
        Ok(_) => Ok(()),
        Err(error) => {
            // The place is one within the schema, which is the instance of the schema of schemas.
            let at = error.instance_path().to_string();
            wrong(&at, format!("no valid JSON Schema (draft 2020-12): {error}"))
        }
    }
}

/// Returns what arguments break; the values themselves are in no message, for they may be secrets.
pub(super) fn violations(schema: &Value, arguments: &Value, most: usize) -> Vec<Fault> {
    let validator = match validator(schema) {
        Ok(validator) => validator,
        // It was checked when the template was stored; another version of labctl may know better.
        Err(error) => return vec![fault("/template", format!("its schema cannot be used: {error}"))],
    };
    let mut out = Vec::new();
    for error in validator.iter_errors(arguments).take(most) {
        let at = format!("/parameters{}", error.instance_path());
        match error.kind() {
            Kind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                out.push(fault(format!("{at}/{}", escaped(name)), "it must be given"));
            }
            Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
                let names = unexpected.iter();
                out.extend(names.map(|name| fault(format!("{at}/{}", escaped(name)), "there is no such property")));
            }
            _ => out.push(fault(at, said(&error))),
        }
    }
    out.truncate(most);
    out
}

/// Says what is wrong with a value, without the value.
fn said(error: &jsonschema::ValidationError<'_>) -> String {
    let list = |values: &Value| {
        let values = values.as_array().map_or(&[][..], Vec::as_slice);
        let values: Vec<String> = values
            .iter()
            .map(|value| format!("`{}`", super::text_of(value)))
            .collect();
        values.join(", ")
    };
    let characters = |limit: &u64| if *limit == 1 { "character" } else { "characters" };
    match error.kind() {
        Kind::Type { .. } => {
            let wanted = error.masked().to_string();
            let wanted = wanted.split("of type").nth(1).unwrap_or_default();
            let words: Vec<&str> = wanted
                .split('"')
                .filter(|word| word.chars().all(char::is_alphabetic) && !word.is_empty())
                .collect();
            match words[..] {
                [] => error.masked().to_string(),
                ["integer"] => "it must be a whole number".to_owned(),
                _ => format!("it must be of type {}", words.join(" or ")),
            }
        }
        Kind::Enum { options } => format!("it must be one of {}", list(options)),
        Kind::Minimum { limit } => format!("it must be at least {limit}"),
        Kind::Maximum { limit } => format!("it must be at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("it must be more than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("it must be less than {limit}"),
        Kind::MinLength { limit } => format!("it must have at least {limit} {}", characters(limit)),
        Kind::MaxLength { limit } => format!("it must have at most {limit} {}", characters(limit)),
        Kind::Pattern { pattern } => format!("it must match the pattern `{pattern}`"),
        Kind::Format { format } => format!("it must have the format `{format}`"),
        _ => error.masked().to_string(),
    }
}

/// Returns the schema that a schema refers to, where it is nothing but that.
pub(super) fn followed<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut found = schema;
    // A chain is as long as there are definitions at most; a stored one has no circle.
    for _ in 0..DEPTH {
        let target = found
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| root.pointer(reference.strip_prefix('#')?));
        match target {
            Some(target) => found = target,
            None => break,
        }
    }
    found
}

/// Returns whether what a schema describes is not to be shown again.
pub(super) fn is_secret(schema: &Value) -> bool {
    schema.get("format") == Some(&json!("password")) || schema.get("writeOnly") == Some(&json!(true))
}

/// Returns an argument that a schema is likely to allow.
pub(super) fn likely(schema: &Value) -> Value {
    let first = |name: &str| schema.get(name).and_then(|values| values.get(0)).cloned();
    let said = schema.get("default").or(schema.get("const")).cloned();
    if let Some(value) = said.or_else(|| first("enum")).or_else(|| first("examples")) {
        return value;
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first(),
        kind => kind,
    };
    match kind.and_then(Value::as_str).unwrap_or_default() {
        "integer" | "number" => schema
            .get("minimum")
            .or(schema.get("maximum"))
            .cloned()
            .unwrap_or(json!(1)),
        "boolean" => json!(true),
        "array" => json!(["x"]),
        "object" => json!({}),
        _ => json!("x"),
    }
}
