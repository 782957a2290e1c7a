//! Templates: jobs with parameters, and how arguments become a job. Pure.
//!
//! A template's job is a job's document in which texts may have placeholders, `${{ name }}`. A text that is nothing but
//! one placeholder stands for the argument as it is: `"${{ count }}"` for a number is that number where the document
//! wants one, and a list among the parts of a command becomes several parts. Within a longer text an argument is its
//! text. No shell and no HTML takes part: an argument can never become more than one part of a command, unless it is a
//! list. `$${{` writes `${{` itself.
//!
//! The parameters are a JSON Schema (draft 2020-12). It is read by whoever may use the dashboard and checked for every
//! job, so it may refer to nothing outside itself and not to itself in a circle, and its patterns are of the kind that
//! takes linear time.

mod schema;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::spec::{Fault, Spec, escaped, is_name, pointer};

/// How many bytes a template's job may have as JSON.
const JOB_BYTES: usize = 128 << 10;
/// How many bytes the arguments of one job may have as JSON.
const ARGUMENTS_BYTES: usize = 64 << 10;
/// How many bytes a description may have.
const DESCRIPTION_BYTES: usize = 4096;
/// How many faults are told at most.
const FAULTS: usize = 64;

/// A job with parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The name under which jobs are made from it. Letters, digits, `-`, `_` and `.`, at most 63.
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
    )]
    pub name: String,
    /// What it is for, in a sentence or two.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 4096)]
    pub description: String,
    /// The parameters: a JSON Schema (draft 2020-12) of type `object`. Its `properties` are the parameters; it refers to
    /// nothing but its own `$defs`. `format: password` marks what is not shown again.
    #[serde(default = "no_parameters")]
    #[schema(value_type = Object)]
    pub parameters: Value,
    /// Whether a job of it may be run again as it was. What must not happen twice, such as a payment, says `false`; a new
    /// job can be made from it all the same.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub allow_rerun: bool,
    /// The job's document, with placeholders such as `${{ name }}` in its texts.
    #[schema(value_type = Object)]
    pub job: Value,
}

fn yes() -> bool {
    true
}

fn no_parameters() -> Value {
    serde_json::json!({"type": "object", "properties": {}})
}

/// How a job was made from a template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Origin {
    /// The template's name.
    pub template: String,
    /// The version of the template; 0 where it is not known.
    pub version: i64,
    /// The arguments, without those that are not shown again.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub parameters: Map<String, Value>,
}

impl From<&str> for Origin {
    /// An origin of which nothing but the template's name is known.
    fn from(template: &str) -> Self {
        Self {
            template: template.to_owned(),
            version: 0,
            parameters: Map::new(),
        }
    }
}

fn fault(pointer: impl Into<String>, detail: impl Into<String>) -> Fault {
    Fault {
        pointer: pointer.into(),
        detail: detail.into(),
    }
}

/// A piece of a text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Parameter(&'a str),
}

/// Returns whether a text can be the name of a parameter.
fn is_parameter(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
}

/// Takes a text apart.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(place) = rest.find("${{") {
        if rest[..place].ends_with('$') {
            // `$${{` is `${{` itself: the first `$` is left out.
            out.push(Piece::Text(&rest[..place - 1]));
            out.push(Piece::Text("${{"));
            rest = &rest[place + 3..];
            continue;
        }
        out.push(Piece::Text(&rest[..place]));
        let within = &rest[place + 3..];
        let Some(end) = within.find("}}") else {
            return Err("`${{` has no `}}`; write `$${{` for the characters themselves".to_owned());
        };
        let name = within[..end].trim();
        if !is_parameter(name) {
            return Err(format!(
                "`${{{{{}}}}}` must name a parameter, such as `${{{{ count }}}}`",
                &within[..end]
            ));
        }
        out.push(Piece::Parameter(name));
        rest = &within[end + 2..];
    }
    out.push(Piece::Text(rest));
    out.retain(|piece| *piece != Piece::Text(""));
    Ok(out)
}

/// Returns what an argument is within a text.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Returns whether the document wants something else than a text at a place.
fn is_typed(at: &str) -> bool {
    ["/command", "/env", "/labels", "/limits", "/retries", "/suspend"].contains(&at) || at.starts_with("/limits/")
}

/// Puts arguments in; nothing for a text that is but one placeholder, whose argument is not given.
fn filled(value: &Value, at: &str, arguments: &Map<String, Value>) -> Option<Value> {
    Some(match value {
        Value::String(text) => {
            let pieces = pieces(text).unwrap_or_default();
            if let [Piece::Parameter(name)] = pieces[..] {
                let argument = arguments.get(name)?;
                if is_typed(at) {
                    argument.clone()
                } else {
                    Value::String(text_of(argument))
                }
            } else {
                let texts = pieces.into_iter().map(|piece| match piece {
                    Piece::Text(text) => text.to_owned(),
                    Piece::Parameter(name) => arguments.get(name).map(text_of).unwrap_or_default(),
                });
                Value::String(texts.collect())
            }
        }
        Value::Array(values) => {
            let mut out = Vec::new();
            for (place, value) in values.iter().enumerate() {
                if let Value::String(text) = value
                    && let Ok(pieces) = pieces(text)
                    && let [Piece::Parameter(name)] = pieces[..]
                    && let Some(Value::Array(several)) = arguments.get(name)
                {
                    out.extend(several.iter().map(|one| Value::String(text_of(one))));
                } else {
                    out.extend(filled(value, &format!("{at}/{place}"), arguments));
                }
            }
            Value::Array(out)
        }
        Value::Object(map) => {
            let entries = map.iter().filter_map(|(key, value)| {
                Some((
                    key.clone(),
                    filled(value, &format!("{at}/{}", escaped(key)), arguments)?,
                ))
            });
            Value::Object(entries.collect())
        }
        other => other.clone(),
    })
}

/// Calls `see` with every text of a document and where it is.
fn texts<'a>(value: &'a Value, at: &str, see: &mut impl FnMut(&str, &'a str)) {
    match value {
        Value::String(text) => see(at, text),
        Value::Array(values) => {
            for (place, value) in values.iter().enumerate() {
                texts(value, &format!("{at}/{place}"), see);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                texts(value, &format!("{at}/{}", escaped(key)), see);
            }
        }
        _ => {}
    }
}

/// Reads a job's document; says where it is wrong.
fn read(document: Value) -> Result<Spec, Vec<Fault>> {
    let spec: Spec = serde_path_to_error::deserialize(document)
        .map_err(|error| vec![fault(pointer(error.path()), error.inner().to_string())])?;
    let faults = spec.faults();
    if faults.is_empty() { Ok(spec) } else { Err(faults) }
}

impl Template {
    /// Returns everything that is wrong with the template; empty for a good one.
    pub fn faults(&self) -> Vec<Fault> {
        let mut out = Vec::new();
        if !is_name(&self.name) {
            out.push(fault(
                "/name",
                "a name has 1 to 63 letters, digits, `-`, `_` and `.`, and begins and ends with a letter or digit",
            ));
        }
        if self.description.len() > DESCRIPTION_BYTES {
            out.push(fault("/description", format!("at most {DESCRIPTION_BYTES} bytes")));
        }
        if let Err(wrong) = schema::checked(&self.parameters) {
            out.push(wrong);
        }
        if !self.job.is_object() || self.job.to_string().len() > JOB_BYTES {
            out.push(fault(
                "/job",
                format!("a job's document is an object and has at most {JOB_BYTES} bytes"),
            ));
        }
        if !out.is_empty() {
            return out;
        }
        texts(&self.job, "/job", &mut |at, text| match pieces(text) {
            Err(why) => out.push(fault(at, why)),
            Ok(pieces) => {
                for piece in pieces {
                    if let Piece::Parameter(name) = piece
                        && self.property(name).is_none()
                    {
                        out.push(fault(
                            at,
                            format!("`/parameters` has no property `{name}` for `${{{{ {name} }}}}`"),
                        ));
                    }
                }
            }
        });
        if out.is_empty() {
            out = self.usual_faults();
        }
        if out.is_empty() {
            out = self.trial();
        }
        out.truncate(FAULTS);
        out
    }

    /// Returns the defaults that the schema itself does not allow.
    fn usual_faults(&self) -> Vec<Fault> {
        let usual = self
            .properties()
            .filter_map(|(name, schema)| Some((name.to_owned(), schema.get("default")?.clone())));
        let usual = Value::Object(usual.collect());
        let found = schema::violations(&self.parameters, &usual, FAULTS).into_iter();
        let found = found.filter_map(|found| {
            // What has no default is missing here, and not wrong.
            let rest = found.pointer.strip_prefix("/parameters")?;
            usual.pointer(rest).filter(|_| !rest.is_empty())?;
            let (name, within) = rest[1..]
                .split_once('/')
                .map_or((&rest[1..], String::new()), |(name, within)| {
                    (name, format!("/{within}"))
                });
            Some(fault(
                format!("/parameters/properties/{name}/default{within}"),
                found.detail,
            ))
        });
        found.collect()
    }

    /// Makes a job with likely arguments, and returns what is wrong in it for every argument.
    fn trial(&self) -> Vec<Fault> {
        let arguments: Map<String, Value> = self
            .properties()
            .map(|(name, schema)| (name.to_owned(), schema::likely(schema)))
            .collect();
        let document = filled(&self.job, "", &arguments).unwrap_or_default();
        let Err(found) = read(document) else { return Vec::new() };
        found
            .into_iter()
            // What an argument decides is told when there is one.
            .filter(|found| self.parameters_at(&found.pointer).is_empty())
            .map(|found| fault(format!("/job{}", found.pointer), found.detail))
            .collect()
    }

    /// Returns the parameters that a place of the job's document is made of.
    fn parameters_at(&self, at: &str) -> Vec<String> {
        if at.is_empty() {
            return Vec::new();
        }
        // A list among the parts of a command moves what follows it, so a part is taken as of the whole command.
        let at = if at.starts_with("/command/") { "/command" } else { at };
        let Some(value) = self.job.pointer(at) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        texts(value, at, &mut |_, text| {
            for piece in pieces(text).unwrap_or_default() {
                if let Piece::Parameter(name) = piece
                    && !out.iter().any(|known| known == name)
                {
                    out.push(name.to_owned());
                }
            }
        });
        out
    }

    /// Returns the parameters and their schemas, in the order in which they are written.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &Value)> {
        let properties = self.parameters.get("properties").and_then(Value::as_object);
        let properties = properties.into_iter().flatten();
        properties.map(|(name, schema)| (name.as_str(), schema::followed(&self.parameters, schema)))
    }

    /// Returns the schema of a parameter.
    pub fn property(&self, name: &str) -> Option<&Value> {
        self.properties()
            .find_map(|(known, schema)| (known == name).then_some(schema))
    }

    /// Returns whether a parameter must be given.
    pub fn is_required(&self, name: &str) -> bool {
        let required = self.parameters.get("required").and_then(Value::as_array);
        required.is_some_and(|names| names.iter().any(|known| known == name))
    }

    /// Makes a job. Parameters that are not given have the `default` of their schema, where there is one.
    ///
    /// # Errors
    /// Everything that is wrong with the arguments, with pointers that begin with `/parameters`.
    pub fn expand(&self, given: &Map<String, Value>) -> Result<Spec, Vec<Fault>> {
        let mut out = Vec::new();
        if serde_json::to_string(given).map_or(usize::MAX, |text| text.len()) > ARGUMENTS_BYTES {
            return Err(vec![fault(
                "/parameters",
                format!("at most {ARGUMENTS_BYTES} bytes in all"),
            )]);
        }
        for name in given.keys().filter(|name| self.property(name).is_none()) {
            let known: Vec<&str> = self.properties().map(|(name, _)| name).collect();
            let known = if known.is_empty() {
                "it has none".to_owned()
            } else {
                format!("it has {}", known.join(", "))
            };
            out.push(fault(
                format!("/parameters/{}", escaped(name)),
                format!("the template has no such parameter; {known}"),
            ));
        }
        if !out.is_empty() {
            out.truncate(FAULTS);
            return Err(out);
        }
        let mut arguments = given.clone();
        for (name, schema) in self.properties() {
            if let Some(usual) = schema.get("default") {
                arguments.entry(name).or_insert_with(|| usual.clone());
            }
        }
        let wrong = schema::violations(&self.parameters, &Value::Object(arguments.clone()), FAULTS);
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let document = filled(&self.job, "", &arguments).unwrap_or_default();
        read(document).map_err(|found| {
            let mut out: Vec<Fault> = Vec::new();
            for found in found {
                let from = self.parameters_at(&found.pointer);
                let detail = format!("the job's `{}`: {}", found.pointer, found.detail);
                if from.is_empty() {
                    out.push(fault("/template", detail.clone()));
                }
                for name in from {
                    let detail = if self.is_secret(&name) {
                        format!("the job's `{}` cannot be made of it", found.pointer)
                    } else {
                        detail.clone()
                    };
                    out.push(fault(format!("/parameters/{}", escaped(&name)), detail));
                }
            }
            out
        })
    }

    /// Returns whether a parameter's argument is not to be shown again.
    pub fn is_secret(&self, name: &str) -> bool {
        self.property(name).is_some_and(schema::is_secret)
    }

    /// Returns what is kept of the arguments of a job: all but what is not to be shown again.
    pub fn shown(&self, given: &Map<String, Value>) -> Map<String, Value> {
        let shown = given.iter().filter(|(name, _)| !self.is_secret(name));
        shown.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

#[cfg(test)]
mod tests;
