//! Fields of a form for the parameters of a template: what a schema says becomes attributes, and what was typed becomes
//! arguments. What the browser checks is a courtesy; what counts is checked by the template.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::{Map, Value};

use super::show::said;
use super::visit::Form;
use crate::dashboard::job::spec::Fault;
use crate::dashboard::job::template::Template;

/// What is wrong, by the field where it is said; what is of none is at the empty name.
pub(super) type Faults = BTreeMap<String, Vec<String>>;

/// How a parameter is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A line of text, of this type of field.
    Text(&'static str),
    /// Several lines of text.
    Lines,
    Secret,
    Integer,
    Number,
    Choice,
    Check,
    /// A list of texts, one a line.
    List,
    /// Anything else, as JSON.
    Json,
}

fn word<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn kind(schema: &Value) -> Kind {
    if schema.get("enum").is_some_and(Value::is_array) {
        return Kind::Choice;
    }
    match word(schema, "type") {
        "boolean" => Kind::Check,
        "integer" => Kind::Integer,
        "number" => Kind::Number,
        "string" => match word(schema, "format") {
            "password" => Kind::Secret,
            _ if schema.get("writeOnly") == Some(&Value::Bool(true)) => Kind::Secret,
            "email" => Kind::Text("email"),
            "date" => Kind::Text("date"),
            "uri" => Kind::Text("url"),
            "multiline" => Kind::Lines,
            _ => Kind::Text("text"),
        },
        "array" if schema.get("items").is_some_and(|items| word(items, "type") == "string") => Kind::List,
        _ => Kind::Json,
    }
}

/// Returns an argument as it stands in its field.
fn typed(schema: &Value, value: &Value) -> String {
    match (kind(schema), value) {
        (Kind::Secret, _) => String::new(),
        (Kind::Check, value) => if value == &Value::Bool(true) { "on" } else { "" }.to_owned(),
        (Kind::List, Value::Array(values)) => {
            let lines: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            lines.join("\n")
        }
        (Kind::Json, value) => serde_json::to_string_pretty(value).unwrap_or_default(),
        (_, Value::String(text)) => text.clone(),
        (_, value) => value.to_string(),
    }
}

/// What stands in the fields, by parameter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inputs(BTreeMap<String, String>);

impl Inputs {
    /// Fills the fields with arguments, and with defaults where there are none.
    pub(super) fn of(template: &Template, given: &Map<String, Value>) -> Self {
        let fields = template.properties().filter_map(|(name, schema)| {
            let value = given.get(name).or_else(|| schema.get("default"))?;
            Some((name.to_owned(), typed(schema, value)))
        });
        Self(fields.collect())
    }

    /// Takes what was typed.
    pub(super) fn from_form(template: &Template, form: &Form) -> Self {
        let fields = template
            .properties()
            .map(|(name, _)| (name.to_owned(), form.one(&field(name)).replace("\r\n", "\n")));
        Self(fields.collect())
    }

    fn one(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Returns the arguments. An empty field is one that is not given; what is not of its type is left as it was typed,
    /// for the schema to refuse. Secrets that are not typed again are those in `before`.
    pub(super) fn arguments(&self, template: &Template, before: &Map<String, Value>) -> (Map<String, Value>, Faults) {
        let mut out = Map::new();
        let mut faults = Faults::new();
        for (name, schema) in template.properties() {
            let text = self.one(name);
            let value = match kind(schema) {
                Kind::Check => Value::Bool(text == "on"),
                Kind::Secret if text.is_empty() => match before.get(name) {
                    Some(kept) => kept.clone(),
                    None => continue,
                },
                _ if text.is_empty() => continue,
                Kind::Text(_) | Kind::Lines | Kind::Secret => Value::String(text.to_owned()),
                Kind::Integer => match text.trim().parse::<i64>() {
                    Ok(number) => number.into(),
                    Err(_) => Value::String(text.to_owned()),
                },
                Kind::Number => match serde_json::from_str(text.trim()) {
                    Ok(Value::Number(number)) => Value::Number(number),
                    _ => Value::String(text.to_owned()),
                },
                Kind::Choice => {
                    let options = schema.get("enum").and_then(Value::as_array);
                    let chosen = options.and_then(|options| options.iter().find(|one| shown(one) == text));
                    chosen.cloned().unwrap_or_else(|| Value::String(text.to_owned()))
                }
                Kind::List => {
                    let lines = text.lines().filter(|line| !line.trim().is_empty());
                    lines.map(|line| Value::String(line.to_owned())).collect()
                }
                Kind::Json => match serde_json::from_str(text) {
                    Ok(value) => value,
                    Err(error) => {
                        faults.entry(field(name)).or_default().push(format!("no JSON: {error}"));
                        continue;
                    }
                },
            };
            out.insert(name.to_owned(), value);
        }
        (out, faults)
    }

    /// Shows the fields.
    pub(super) fn fields(&self, template: &Template, faults: &Faults) -> Markup {
        html! {
            @for (name, schema) in template.properties() {
                (one(name, schema, template.is_required(name), self.one(name), faults))
            }
        }
    }
}

/// Returns the name of a parameter's field. Other fields of forms have no dot.
fn field(name: &str) -> String {
    format!("p.{name}")
}

/// Returns a value as an option of a choice shows it.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Puts what a template found wrong at its parameters.
pub(super) fn placed(found: &[Fault], faults: &mut Faults) {
    for fault in found {
        let rest = fault.pointer.strip_prefix("/parameters/");
        let (name, within) = match rest.map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
            Some((name, within)) => (name.replace("~1", "/").replace("~0", "~"), within),
            None => (String::new(), ""),
        };
        let (field, text) = match (name.as_str(), within) {
            ("", _) => (String::new(), format!("`{}`: {}", fault.pointer, fault.detail)),
            (name, "") => (field(name), fault.detail.clone()),
            (name, _) => (field(name), format!("{within}: {}", fault.detail)),
        };
        faults.entry(field).or_default().push(text);
    }
}

/// Returns what the field of a parameter is called.
pub(super) fn title(template: &Template, field: &str) -> String {
    let name = field.strip_prefix("p.").unwrap_or(field);
    let schema = template.property(name);
    let title = schema.map_or("", |schema| word(schema, "title"));
    if title.is_empty() {
        name.to_owned()
    } else {
        title.to_owned()
    }
}

/// Says what is wrong on top of a form, and leads to where.
pub(super) fn summary(heading: &str, faults: &Faults, title: impl Fn(&str) -> String) -> Markup {
    html! {
        @if !faults.is_empty() {
            div #faults .faults role="alert" tabindex="-1" {
                h2 { (heading) }
                ul { @for (name, texts) in faults { @for text in texts {
                    li { @if !name.is_empty() { a href={ "#" (name) } { (title(name)) } ": " } (said(text)) }
                } } }
            }
        }
    }
}

/// Says what is wrong at a field.
pub(super) fn fault(name: &str, faults: &Faults) -> Markup {
    html! {
        @if let Some(texts) = faults.get(name) {
            span.fault id={ (name) "-fault" } { @for text in texts { span { (said(text)) } } }
        }
    }
}

/// Returns what says more of a field, and whether it is wrong.
pub(super) fn described(name: &str, faults: &Faults) -> (String, Option<&'static str>) {
    if faults.contains_key(name) {
        (format!("{name}-fault {name}-hint"), Some("true"))
    } else {
        (format!("{name}-hint"), None)
    }
}

fn one(name: &str, schema: &Value, required: bool, value: &str, faults: &Faults) -> Markup {
    let title = match word(schema, "title") {
        "" => name,
        title => title,
    };
    let kind = kind(schema);
    let field = field(name);
    let (by, wrong) = described(&field, faults);
    let number = |limit: &str| schema.get(limit).and_then(Value::as_number).map(ToString::to_string);
    let usual = schema.get("default").filter(|_| kind != Kind::Secret);
    let required = required && usual.is_none() && kind != Kind::Check;
    // A pattern of a schema may be anywhere in the text, one of a field is the whole text.
    let pattern = match word(schema, "pattern") {
        "" => None,
        pattern => Some(format!(".*(?:{pattern}).*")),
    };
    html! {
        div.field {
            @if kind == Kind::Check {
                label.check { input id=(field) type="checkbox" name=(field) checked[value == "on"] aria-describedby=(by); span { (title) } }
            } @else {
                label for=(field) { (title) @if !required { span.hint { " optional" } } }
                @match kind {
                    Kind::Choice => {
                        select id=(field) name=(field) required[required] aria-describedby=(by) aria-invalid=[wrong] {
                            @if usual.is_none() { option value="" { } }
                            @for option in schema.get("enum").and_then(Value::as_array).into_iter().flatten() {
                                @let text = shown(option);
                                option value=(text) selected[text == value] { (text) }
                            }
                        }
                    }
                    Kind::Lines | Kind::List | Kind::Json => {
                        textarea id=(field) name=(field) rows="4" required[required] autocomplete="off" spellcheck="false" aria-describedby=(by) aria-invalid=[wrong] { "\n" (value) }
                    }
                    Kind::Integer | Kind::Number => {
                        input id=(field) name=(field) type="number" value=(value) required[required] autocomplete="off"
                            step=(if kind == Kind::Integer { "1" } else { "any" }) min=[number("minimum")] max=[number("maximum")]
                            aria-describedby=(by) aria-invalid=[wrong];
                    }
                    Kind::Secret => {
                        // It is never sent back to the browser.
                        input id=(field) name=(field) type="password" required[required] autocomplete="new-password"
                            minlength=[number("minLength")] maxlength=[number("maxLength")] aria-describedby=(by) aria-invalid=[wrong];
                    }
                    Kind::Text(_) | Kind::Check => {
                        input id=(field) name=(field) type=(if let Kind::Text(kind) = kind { kind } else { "text" }) value=(value) required[required]
                            autocomplete="off" spellcheck="false" minlength=[number("minLength")] maxlength=[number("maxLength")]
                            pattern=[pattern] aria-describedby=(by) aria-invalid=[wrong];
                    }
                }
            }
            (fault(&field, faults))
            span.hint id={ (field) "-hint" } {
                @let described = word(schema, "description");
                (described)
                @if !described.is_empty() && !described.ends_with(['.', '!', '?']) { "." }
                @if let Some(usual) = usual.filter(|_| kind != Kind::Check) { " Where empty: " code { (typed(schema, usual)) } }
                @if kind == Kind::List { " One a line." }
                @if kind == Kind::Json { " As JSON." }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template() -> Template {
        serde_json::from_value(json!({
            "name": "t",
            "parameters": {
                "type": "object",
                "required": ["who", "token", "size"],
                "properties": {
                    "who": {"type": "string", "minLength": 2, "maxLength": 9, "pattern": "^[a-z]+$", "description": "<i>Who</i>"},
                    "token": {"type": "string", "format": "password"},
                    "size": {"enum": ["small", "large", 3]},
                    "count": {"type": "integer", "minimum": 1, "maximum": 5, "default": 2},
                    "rate": {"type": "number"},
                    "dry": {"type": "boolean", "default": true},
                    "flags": {"type": "array", "items": {"type": "string"}},
                    "more": {"type": "object"},
                },
            },
            "job": {"name": "x", "command": ["true"]},
        }))
        .expect("a template")
    }

    #[test]
    fn what_is_typed_becomes_arguments() {
        let template = template();
        let form = Form::unchecked(
            "p.who=ann&p.token=s3&p.size=3&p.count=4&p.rate=1.5&p.dry=on&p.flags=-a%0D%0A-b&p.more=%7B%22a%22:1%7D",
        );
        let (found, faults) = Inputs::from_form(&template, &form).arguments(&template, &Map::new());
        assert_eq!(faults, Faults::new());
        let expected = json!({"who": "ann", "token": "s3", "size": 3, "count": 4, "rate": 1.5, "dry": true, "flags": ["-a", "-b"], "more": {"a": 1}});
        assert_eq!(Value::Object(found), expected);
    }

    #[test]
    fn what_is_wrong_is_said_at_its_field_and_what_was_typed_is_kept() {
        let template = template();
        let form = Form::unchecked("p.who=A&p.token=hunter2&p.count=many&p.size=huge&p.more=%7B");
        let inputs = Inputs::from_form(&template, &form);
        let (arguments, mut faults) = inputs.arguments(&template, &Map::new());
        assert!(faults["p.more"][0].starts_with("no JSON"), "{faults:?}");
        placed(&template.expand(&arguments).expect_err("it is wrong"), &mut faults);
        let names: Vec<&str> = faults.keys().map(String::as_str).collect();
        assert_eq!(names, ["p.count", "p.more", "p.size", "p.who"]);
        assert_eq!(faults["p.count"], ["it must be a whole number"]);
        let page = inputs.fields(&template, &faults).into_string();
        assert!(
            page.contains("value=\"many\"") && page.contains("value=\"A\""),
            "{page}"
        );
        assert!(!page.contains("hunter2"), "a secret is not sent back: {page}");
    }

    #[test]
    fn a_schema_becomes_attributes_and_no_text_is_html() {
        let template = template();
        let page = Inputs::of(&template, &Map::new())
            .fields(&template, &Faults::new())
            .into_string();
        for part in [
            "id=\"p.who\" name=\"p.who\" type=\"text\" value=\"\" required",
            "minlength=\"2\" maxlength=\"9\" pattern=\".*(?:^[a-z]+$).*\"",
            "type=\"password\" required autocomplete=\"new-password\"",
            "type=\"number\" value=\"2\" autocomplete=\"off\" step=\"1\" min=\"1\" max=\"5\"",
            "type=\"checkbox\" name=\"p.dry\" checked",
            "<option value=\"small\">small</option>",
            "&lt;i&gt;Who",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("<i>"), "{page}");
    }

    #[test]
    fn a_secret_that_is_not_typed_again_is_kept() {
        let template = template();
        let before = json!({"token": "old"}).as_object().expect("an object").clone();
        let inputs = Inputs::from_form(&template, &Form::unchecked("p.token="));
        assert_eq!(inputs.arguments(&template, &before).0["token"], "old");
    }
}
