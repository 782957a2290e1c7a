//! The description as a page: HTML without scripts, so that it can be read wherever the server is reached.

use maud::{DOCTYPE, Markup, html};
use serde_json::{Map, Value};

use crate::dashboard::http::problem::Kind;

/// The page's style; a file of its own, because the server's policy allows none within pages.
pub(super) const STYLE: &str = include_str!("style.css");

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn object<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value[name].as_object().into_iter().flat_map(Map::iter)
}

fn array<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// Writes the little Markdown that descriptions have: paragraphs and code.
fn prose(text: &str) -> Markup {
    html! {
        @for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
            p { (inline(paragraph)) }
        }
    }
}

fn inline(text: &str) -> Markup {
    html! {
        @for (place, part) in text.split('`').enumerate() {
            @if place % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// Returns what a schema allows, in a few words.
fn kind(schema: &Value) -> Markup {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|reference| reference.rsplit('/').next())
    {
        return html! { a href={ "#schema-" (name) } { (name) } };
    }
    for (word, between) in [("oneOf", " or "), ("allOf", " and ")] {
        let parts = array(schema, word);
        if !parts.is_empty() {
            return html! {
                @for (place, part) in parts.iter().enumerate() {
                    @if place > 0 { (between) }
                    (kind(part))
                }
            };
        }
    }
    let words = match &schema["type"] {
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        word => word.as_str().unwrap_or("anything").to_owned(),
    };
    let limits: Vec<String> = [
        ("format", ""),
        ("minimum", "at least "),
        ("maximum", "at most "),
        ("minLength", "at least this long: "),
        ("maxLength", "at most this long: "),
        ("minItems", "at least so many: "),
        ("maxItems", "at most so many: "),
    ]
    .into_iter()
    .filter_map(|(name, before)| match &schema[name] {
        Value::String(word) => Some(format!("{before}{word}")),
        Value::Number(number) => Some(format!("{before}{number}")),
        _ => None,
    })
    .collect();
    html! {
        (words)
        @if schema["items"].is_object() { " of " (kind(&schema["items"])) }
        @if schema["additionalProperties"].is_object() { " of " (kind(&schema["additionalProperties"])) }
        @if !array(schema, "enum").is_empty() {
            ": "
            @for (place, value) in array(schema, "enum").iter().enumerate() {
                @if place > 0 { ", " }
                code { (value.as_str().unwrap_or_default()) }
            }
        }
        @if !limits.is_empty() { " (" (limits.join(", ")) ")" }
    }
}

fn bodies(content: &Value) -> Markup {
    let all: Vec<_> = content.as_object().into_iter().flat_map(Map::iter).collect();
    html! {
        @for (place, (media_type, body)) in all.into_iter().enumerate() {
            @if place > 0 { "; " }
            code { (media_type) } " " (kind(&body["schema"]))
        }
    }
}

fn operation(method: &str, path: &str, operation: &Value) -> Markup {
    let parameters = array(operation, "parameters");
    html! {
        section.operation id=(text(operation, "operationId")) {
            h3 { span.method.(method) { (method.to_uppercase()) } " " code { (path) } }
            p.summary { (text(operation, "summary")) }
            (prose(text(operation, "description")))
            @if !parameters.is_empty() {
                table {
                    caption { "Parameters" }
                    thead { tr { th scope="col" { "Name" } th scope="col" { "In" } th scope="col" { "Kind" } th scope="col" { "What it does" } } }
                    tbody {
                        @for parameter in parameters {
                            tr {
                                th scope="row" { code { (text(parameter, "name")) } }
                                td { (text(parameter, "in")) @if parameter["required"] == true { ", required" } }
                                td { (kind(&parameter["schema"])) }
                                td { (inline(text(parameter, "description"))) }
                            }
                        }
                    }
                }
            }
            @if operation["requestBody"].is_object() {
                p { "Body: " (bodies(&operation["requestBody"]["content"])) }
            }
            table {
                caption { "Answers" }
                thead { tr { th scope="col" { "Status" } th scope="col" { "What it means" } th scope="col" { "Body" } } }
                tbody {
                    @for (status, answer) in object(operation, "responses") {
                        tr {
                            th scope="row" { (status) }
                            td { (inline(text(answer, "description"))) }
                            td { (bodies(&answer["content"])) }
                        }
                    }
                }
            }
        }
    }
}

fn schema(name: &str, schema: &Value) -> Markup {
    // What is put together shows the parts' own fields and names the rest.
    let parts: Vec<&Value> = std::iter::once(schema).chain(array(schema, "allOf")).collect();
    let required = |name: &str| {
        parts
            .iter()
            .any(|part| array(part, "required").iter().any(|known| known == name))
    };
    html! {
        section id={ "schema-" (name) } {
            h3 { code { (name) } }
            (prose(text(schema, "description")))
            @if parts.iter().all(|part| part["properties"].is_null()) {
                p { (kind(schema)) }
            } @else {
                @for part in parts.iter().filter(|part| part["$ref"].is_string()) { p { "All of " (kind(part)) ", and:" } }
                table {
                    thead { tr { th scope="col" { "Field" } th scope="col" { "Kind" } th scope="col" { "What it is" } } }
                    tbody {
                        @for (field, about) in parts.iter().flat_map(|part| object(part, "properties")) {
                            tr {
                                th scope="row" { code { (field) } @if !required(field) { " (optional)" } }
                                td { (kind(about)) }
                                td { (inline(text(about, "description"))) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Writes the page of a description.
pub(super) fn html(document: &Value) -> String {
    let info = &document["info"];
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (text(info, "title")) " API" }
                link rel="stylesheet" href="/docs/style.css";
            }
            body {
                header {
                    h1 { (text(info, "title")) " API " small { (text(info, "version")) } }
                    (prose(text(info, "description")))
                    p { "For programs: " a href="/openapi.json" { "/openapi.json" } " (OpenAPI " (text(document, "openapi")) ")." }
                }
                nav aria-label="Routes" {
                    ul {
                        @for (path, item) in object(document, "paths") {
                            @for (method, about) in item.as_object().into_iter().flat_map(Map::iter) {
                                li { a href={ "#" (text(about, "operationId")) } { span.method.(method) { (method.to_uppercase()) } " " (path) } }
                            }
                        }
                    }
                }
                main {
                    @for tag in array(document, "tags") {
                        h2 { (text(tag, "description")) }
                        @for (path, item) in object(document, "paths") {
                            @for (method, about) in item.as_object().into_iter().flat_map(Map::iter) {
                                @if array(about, "tags").contains(&tag["name"]) { (operation(method, path, about)) }
                            }
                        }
                    }
                    h2 { "Documents" }
                    @for (name, about) in object(&document["components"], "schemas") { (schema(name, about)) }
                    h2 { "Problems" }
                    p { "What " code { "code" } " of a problem can be. Codes do not change; titles may." }
                    table {
                        thead { tr { th scope="col" { "Code" } th scope="col" { "Status" } th scope="col" { "Title" } } }
                        tbody {
                            @for known in Kind::ALL {
                                tr id=(known.code()) {
                                    th scope="row" { code { (known.code()) } }
                                    td { (known.status().as_u16()) }
                                    td { (known.title()) }
                                }
                            }
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}
