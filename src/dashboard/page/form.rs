//! The form of a new job: fields, or the whole document as JSON; either becomes the other, with or without scripts.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};

use super::show::said;
use super::visit::{Failure, Form, Visit, Work, secret, see_other};
use super::words;
use crate::dashboard::job::JobId;
use crate::dashboard::job::spec::{Fault, Limits, Priority, Spec};
use crate::dashboard::service::ServiceError;
use crate::dashboard::store::Created;

/// What is in the form, as it was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Draft {
    name: String,
    command: String,
    shell: bool,
    image: String,
    env: String,
    labels: String,
    retries: String,
    suspend: bool,
    priority: String,
    seconds: String,
    memory_mib: String,
    cpu_milli: String,
    output_mib: String,
}

/// The form as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Typed {
    Fields(Box<Draft>),
    Json(String),
}

/// What is wrong, by the field where it is said.
type Faults = BTreeMap<&'static str, Vec<String>>;

/// The fields in their order, with the beginning of the JSON Pointers that they stand for.
const FIELDS: [(&str, &str, &str); 10] = [
    ("name", "/name", "Name"),
    ("command", "/command", "Command"),
    ("image", "/image", "Image"),
    ("env", "/env", "Environment"),
    ("labels", "/labels", "Labels"),
    ("retries", "/retries", "Retries"),
    ("seconds", "/limits/seconds", "Time"),
    ("memory_mib", "/limits/memory_mib", "Memory"),
    ("cpu_milli", "/limits/cpu_milli", "Processor"),
    ("output_mib", "/limits/output_mib", "Output"),
];

/// What a script that is run by a shell is handed to.
const SHELL: [&str; 2] = ["sh", "-c"];

impl Draft {
    fn from_spec(spec: &Spec) -> Self {
        let lines = |pairs: &BTreeMap<String, String>| {
            let lines: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            lines.join("\n")
        };
        let (shell, command) = match spec.command.as_slice() {
            [sh, c, script] if [sh.as_str(), c.as_str()] == SHELL => (true, script.clone()),
            words => (false, words::join(words)),
        };
        let limits = &spec.limits;
        Self {
            name: spec.name.clone(),
            command,
            shell,
            image: spec.image.clone().unwrap_or_default(),
            env: lines(&spec.env),
            labels: lines(&spec.labels),
            retries: spec.retries.to_string(),
            suspend: spec.suspend,
            priority: spec.priority.name().to_owned(),
            seconds: limits.seconds.to_string(),
            memory_mib: limits.memory_mib.to_string(),
            cpu_milli: limits.cpu_milli.to_string(),
            output_mib: limits.output_mib.to_string(),
        }
    }

    fn from_form(form: &Form) -> Self {
        let text = |name: &str| form.one(name).replace("\r\n", "\n");
        let word = |name: &str| form.one(name).trim().to_owned();
        Self {
            name: word("name"),
            command: text("command"),
            shell: form.one("shell") == "on",
            image: word("image"),
            env: text("env"),
            labels: text("labels"),
            retries: word("retries"),
            suspend: form.one("suspend") == "on",
            priority: word("priority"),
            seconds: word("seconds"),
            memory_mib: word("memory_mib"),
            cpu_milli: word("cpu_milli"),
            output_mib: word("output_mib"),
        }
    }

    /// Returns the document, and what of the fields could not be understood. What could not has its default.
    fn spec(&self) -> (Spec, Faults) {
        let mut faults = Faults::new();
        let command = if self.shell {
            let mut words = SHELL.map(str::to_owned).to_vec();
            words.push(self.command.clone());
            words
        } else {
            words::split(&self.command).unwrap_or_else(|error| {
                faults.entry("command").or_default().push(error.to_string());
                Vec::new()
            })
        };
        if self.shell && self.command.trim().is_empty() {
            faults
                .entry("command")
                .or_default()
                .push("there is nothing to run".to_owned());
        }
        let usual = Limits::default();
        let mut number = |name: &'static str, text: &str, usual: u32| {
            if text.is_empty() {
                return usual;
            }
            text.parse().unwrap_or_else(|_| {
                faults
                    .entry(name)
                    .or_default()
                    .push(format!("`{text}` is not a whole number"));
                usual
            })
        };
        let limits = Limits {
            seconds: number("seconds", &self.seconds, usual.seconds),
            memory_mib: number("memory_mib", &self.memory_mib, usual.memory_mib),
            cpu_milli: number("cpu_milli", &self.cpu_milli, usual.cpu_milli),
            output_mib: number("output_mib", &self.output_mib, usual.output_mib),
        };
        let retries = number("retries", &self.retries, 0);
        let priority = chosen(self);
        let spec = Spec {
            name: self.name.clone(),
            command,
            image: (!self.image.is_empty()).then(|| self.image.clone()),
            env: pairs("env", &self.env, &mut faults),
            labels: pairs("labels", &self.labels, &mut faults),
            retries,
            suspend: self.suspend,
            priority,
            limits,
        };
        (spec, faults)
    }

    fn value(&self, field: &str) -> &str {
        match field {
            "name" => &self.name,
            "command" => &self.command,
            "image" => &self.image,
            "env" => &self.env,
            "labels" => &self.labels,
            "retries" => &self.retries,
            "seconds" => &self.seconds,
            "memory_mib" => &self.memory_mib,
            "cpu_milli" => &self.cpu_milli,
            _ => &self.output_mib,
        }
    }
}

/// Reads `name=value` lines.
fn pairs(field: &'static str, text: &str, faults: &mut Faults) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let mut wrong = |what: String| faults.entry(field).or_default().push(format!("line {number}: {what}"));
        match line.split_once('=') {
            Some((name, value)) if out.insert(name.trim().to_owned(), value.to_owned()).is_some() => {
                wrong(format!("`{}` is there twice", name.trim()));
            }
            Some(_) => {}
            None => wrong(format!("`{line}` is not `name=value`")),
        }
    }
    out
}

/// Says each fault at its field; one that is of no field is said on top.
fn placed(found: &[Fault], faults: &mut Faults) {
    for fault in found {
        let field = FIELDS.iter().find(|(_, pointer, _)| {
            let rest = fault.pointer.strip_prefix(pointer);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        let (name, pointer) = field.map_or(("", ""), |(name, pointer, _)| (*name, *pointer));
        let part = fault.pointer[pointer.len()..]
            .trim_start_matches('/')
            .replace("~1", "/")
            .replace("~0", "~");
        let text = match (name, part.parse::<usize>()) {
            (_, _) if part.is_empty() => fault.detail.clone(),
            ("command", Ok(place)) => format!("part {}: {}", place + 1, fault.detail),
            _ => format!("`{part}`: {}", fault.detail),
        };
        faults.entry(name).or_default().push(text);
    }
}

impl Typed {
    fn from_form(form: &Form) -> Self {
        if form.one("as") == "json" {
            Self::Json(form.one("json").replace("\r\n", "\n"))
        } else {
            Self::Fields(Box::new(Draft::from_form(form)))
        }
    }

    /// Returns the document, where it can be understood at all, and what is wrong.
    fn spec(&self) -> (Option<Spec>, Faults) {
        match self {
            Self::Fields(draft) => {
                let (spec, faults) = draft.spec();
                (Some(spec), faults)
            }
            Self::Json(text) => match serde_json::from_str(text) {
                Ok(spec) => (Some(spec), Faults::new()),
                Err(error) => (None, Faults::from([("json", vec![error.to_string()])])),
            },
        }
    }
}

/// Shows the form: empty, or with what another job ran (`?from=`).
pub(super) async fn empty(visit: Visit, Work(service): Work, RawQuery(text): RawQuery) -> Response {
    let query = Form::unchecked(&text.unwrap_or_default());
    let draft = match query.one("from") {
        "" => Draft::default(),
        from => {
            let Ok(id) = from.parse::<JobId>() else {
                return visit.failure(Failure::no_job());
            };
            match service.spec(&visit.caller, id).await {
                Ok(spec) => Draft::from_spec(&spec),
                Err(error) => return visit.failure(error),
            }
        }
    };
    show(&visit, &Typed::Fields(Box::new(draft)), &Faults::new(), None)
}

/// Creates the job, or shows the form again: in its other form, or with what is wrong.
pub(super) async fn create(visit: Visit, Work(service): Work, body: Bytes) -> Response {
    let form = match Form::checked(&visit, &body) {
        Ok(form) => form,
        Err(failure) => return visit.failure(failure),
    };
    let typed = Typed::from_form(&form);
    let key = Some(form.one("key")).filter(|key| !key.is_empty());
    let (spec, mut faults) = typed.spec();
    match (form.one("do"), spec) {
        ("json", Some(spec)) => {
            // Half a form is a document with its faults in it; they are told when it is to be run.
            let json = serde_json::to_string_pretty(&spec).unwrap_or_default();
            show(&visit, &Typed::Json(json), &Faults::new(), key)
        }
        ("fields", Some(spec)) => show(
            &visit,
            &Typed::Fields(Box::new(Draft::from_spec(&spec))),
            &Faults::new(),
            key,
        ),
        (_, Some(spec)) if faults.is_empty() => {
            let sent = key.map(|key| format!("form:{key}"));
            match service.create(&visit.caller, spec, sent).await {
                Ok(Created::New(job) | Created::Replayed(job)) => see_other(&format!("/ui/jobs/{}", job.id)),
                Err(ServiceError::Invalid(found)) => {
                    placed_for(&typed, &found, &mut faults);
                    show(&visit, &typed, &faults, key)
                }
                // The form was sent, and sent again with something else in it: that is another job.
                Err(ServiceError::KeyReused) => {
                    faults
                        .entry("")
                        .or_default()
                        .push("this form has created a job already; send it again to create another one".to_owned());
                    show(&visit, &typed, &faults, None)
                }
                // Nothing that was typed is lost for it.
                Err(error @ (ServiceError::TooFast { .. } | ServiceError::Full(_))) => {
                    faults.entry("").or_default().push(error.to_string());
                    show(&visit, &typed, &faults, key)
                }
                Err(error) => visit.failure(error),
            }
        }
        (_, spec) => {
            if let Some(spec) = spec {
                // What could not be read has its default in the document, and so no second fault.
                let said: Vec<&str> = faults.keys().copied().collect();
                let found: Vec<Fault> = spec.faults();
                let mut more = Faults::new();
                placed(&found, &mut more);
                more.retain(|field, _| !said.contains(field));
                faults.append(&mut more);
            }
            show(&visit, &typed, &faults, key)
        }
    }
}

fn placed_for(typed: &Typed, found: &[Fault], faults: &mut Faults) {
    match typed {
        Typed::Fields(_) => placed(found, faults),
        Typed::Json(_) => {
            let lines = found.iter().map(|fault| format!("{}: {}", fault.pointer, fault.detail));
            faults.entry("json").or_default().extend(lines);
        }
    }
}

fn show(visit: &Visit, typed: &Typed, faults: &Faults, key: Option<&str>) -> Response {
    // The key of a form makes that sending it twice creates one job.
    let key = match key.map_or_else(secret, |key| Ok(key.to_owned())) {
        Ok(key) => key,
        Err(failure) => return visit.failure(failure),
    };
    let status = if faults.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let title = if faults.is_empty() {
        "New job"
    } else {
        "New job: something is wrong"
    };
    visit.page(status, title, None, &content(visit, typed, faults, &key))
}

fn content(visit: &Visit, typed: &Typed, faults: &Faults, key: &str) -> Markup {
    html! {
        section.narrow {
            nav.crumbs aria-label="Where this is" { a href="/" { "Jobs" } }
            h1 { "New job" }
            (summary(typed, faults))
            form.job method="post" action="/ui/jobs" novalidate {
                (visit.token_field())
                input type="hidden" name="key" value=(key);
                // The first button of a form is the one that Enter in a field presses.
                button.unseen name="do" value="create" tabindex="-1" aria-hidden="true" {}
                @match typed {
                    Typed::Fields(draft) => {
                        (fields(draft, faults))
                        div.answer {
                            button.primary name="do" value="create" { "Create job" }
                            button name="do" value="json" { "Edit as JSON" }
                        }
                    }
                    Typed::Json(text) => {
                        input type="hidden" name="as" value="json";
                        (area("json", "The job as JSON", text, faults, 18, &html! { "As " code { "POST /jobs" } " takes it; " a href="/openapi.json" { "openapi.json" } " describes every field." }))
                        div.answer {
                            button.primary name="do" value="create" { "Create job" }
                            button name="do" value="fields" { "Edit as form" }
                        }
                    }
                }
            }
        }
    }
}

/// Says on top that something is wrong, and leads to where.
fn summary(typed: &Typed, faults: &Faults) -> Markup {
    let title = |field: &str| {
        let known = FIELDS.iter().find(|(name, ..)| *name == field);
        known.map_or("JSON", |(_, _, title)| title)
    };
    let order = |field: &str| FIELDS.iter().position(|(name, ..)| *name == field);
    let mut sorted: Vec<_> = faults.iter().collect();
    sorted.sort_by_key(|(field, _)| order(field));
    html! {
        @if !faults.is_empty() {
            div #faults .faults role="alert" tabindex="-1" {
                h2 { @if matches!(typed, Typed::Json(_)) { "This document cannot be run" } @else { "This job cannot be run" } }
                ul { @for (field, texts) in sorted { @for text in texts {
                    li { @if !field.is_empty() { a href={ "#" (field) } { (title(field)) } ": " } (said(text)) }
                } } }
            }
        }
    }
}

fn fields(draft: &Draft, faults: &Faults) -> Markup {
    let usual = Limits::default();
    let number = |name: &'static str, title: &str, hint: String, most: u32| {
        html! { (input(name, title, draft.value(name), faults, "number", &html! { (hint) }, Some(most))) }
    };
    html! {
        (input("name", "Name", &draft.name, faults, "text", &html! { "For people; letters, digits, " code { "-" } ", " code { "_" } " and " code { "." } }, None))
        (area("command", "Command", &draft.command, faults, 4, &html! { "The program and its arguments, quoted as for a shell: " code { "python3 train.py --rate 0.1" } }))
        label.check { input type="checkbox" name="shell" checked[draft.shell]; span { "Run it as a shell script (" code { "sh -c" } "), with variables, pipes and several lines" } }
        details open[!draft.image.is_empty() || !draft.env.is_empty() || !draft.labels.is_empty() || draft.suspend || !["", "normal"].contains(&draft.priority.as_str()) || ["image", "env", "labels"].iter().any(|name| faults.contains_key(name))] {
            summary { "Image, environment, labels, priority" }
            (input("image", "Image", &draft.image, faults, "text", &html! { "Where jobs run in containers; empty for the runner's own" }, None))
            (area("env", "Environment", &draft.env, faults, 3, &html! { "One " code { "NAME=value" } " a line. Nothing of the server's own environment is passed on." }))
            (area("labels", "Labels", &draft.labels, faults, 2, &html! { "One " code { "name=value" } " a line, to find the job by" }))
            label.check { input type="checkbox" name="suspend" checked[draft.suspend]; "Hold it back until it is resumed" }
            div.field {
                label for="priority" { "Priority" }
                select #priority name="priority" aria-describedby="priority-hint" {
                    @for priority in Priority::ALL.into_iter().rev() {
                        option value=(priority.name()) selected[chosen(draft) == priority] { (priority.name()) }
                    }
                }
                span.hint #priority-hint { "Which of the jobs that wait begins first; of those with the same one it is the oldest" }
            }
        }
        fieldset.limits {
            legend { "Limits; a job that wants more is ended" }
            (number("seconds", "Time, s", format!("{} where empty", usual.seconds), 604_800))
            (number("memory_mib", "Memory, MiB", format!("{} where empty", usual.memory_mib), 1 << 20))
            (number("cpu_milli", "Processor, 1/1000 core", format!("{} where empty", usual.cpu_milli), 1_024_000))
            (number("output_mib", "Output, MiB", format!("{} where empty", usual.output_mib), 10_240))
            (number("retries", "Retries", "0 where empty".to_owned(), 100))
        }
    }
}

/// Returns the priority that a draft has.
fn chosen(draft: &Draft) -> Priority {
    let named = |priority: &Priority| priority.name() == draft.priority;
    Priority::ALL.into_iter().find(named).unwrap_or_default()
}

/// Returns the ids of what describes a field, and whether it is wrong.
fn described(name: &str, faults: &Faults) -> (String, Option<&'static str>) {
    if faults.contains_key(name) {
        (format!("{name}-fault {name}-hint"), Some("true"))
    } else {
        (format!("{name}-hint"), None)
    }
}

fn fault(name: &'static str, faults: &Faults) -> Markup {
    html! {
        @if let Some(texts) = faults.get(name) {
            span.fault id={ (name) "-fault" } { @for text in texts { span { (said(text)) } } }
        }
    }
}

fn input(
    name: &'static str,
    title: &str,
    value: &str,
    faults: &Faults,
    kind: &str,
    hint: &Markup,
    most: Option<u32>,
) -> Markup {
    let (by, wrong) = described(name, faults);
    // A field of type number would lose a text that is no number, and with it what was wrong.
    let mode = (kind == "number").then_some("numeric");
    let least = most.map(|most| format!("[0-9]{{1,{}}}", most.to_string().len()));
    html! {
        div.field {
            label for=(name) { (title) }
            input id=(name) name=(name) type="text" value=(value) inputmode=[mode] pattern=[least] autocomplete="off" spellcheck="false"
                aria-describedby=(by) aria-invalid=[wrong];
            (fault(name, faults))
            span.hint id={ (name) "-hint" } { (hint) }
        }
    }
}

fn area(name: &'static str, title: &str, value: &str, faults: &Faults, rows: u32, hint: &Markup) -> Markup {
    let (by, wrong) = described(name, faults);
    html! {
        div.field {
            label for=(name) { (title) }
            // A line break that begins a text area's text is not part of it.
            textarea id=(name) name=(name) rows=(rows) autocomplete="off" spellcheck="false" aria-describedby=(by) aria-invalid=[wrong] { "\n" (value) }
            (fault(name, faults))
            span.hint id={ (name) "-hint" } { (hint) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Form {
        Form::unchecked(text)
    }

    #[test]
    fn fields_become_a_document_and_back() {
        let json = r#"{"name": "a", "command": ["x", "it's", ""], "image": "i:1", "env": {"A": "1=2"}, "labels": {"l": ""},
            "retries": 3, "suspend": true, "limits": {"seconds": 5, "memory_mib": 6, "cpu_milli": 70, "output_mib": 8}}"#;
        let shell = r#"{"name": "b", "command": ["sh", "-c", "echo $X | wc\nexit 3"]}"#;
        for json in [json, shell] {
            let spec: Spec = serde_json::from_str(json).expect("it parses");
            let draft = Draft::from_spec(&spec);
            let (again, faults) = draft.spec();
            assert!(faults.is_empty(), "{faults:?}");
            assert_eq!(again, spec);
        }
        let empty = Draft::from_form(&form("name=x&command=true")).spec().0;
        assert_eq!((empty.limits, empty.retries), (Limits::default(), 0));
    }

    #[test]
    fn what_is_wrong_is_said_at_its_field() {
        let typed = Typed::from_form(&form(
            "name=-x&command=echo+'&env=A&labels=a/b%3D1%0D%0Aa/b%3D2&retries=many&seconds=0&memory_mib=-1",
        ));
        let (spec, faults) = typed.spec();
        let fields: Vec<_> = faults.keys().copied().collect();
        assert_eq!(fields, ["command", "env", "labels", "memory_mib", "retries"]);
        assert_eq!(faults["labels"], ["line 2: `a/b` is there twice"]);
        let mut more = Faults::new();
        placed(&spec.expect("a document").faults(), &mut more);
        let fields: Vec<_> = more.keys().copied().collect();
        assert_eq!(fields, ["command", "labels", "name", "seconds"]);
        assert!(more["labels"][0].starts_with("`a/b`: "), "{more:?}");
    }

    #[test]
    fn no_text_is_html() {
        let draft = Draft::from_form(&form(
            "name=%3Cb%3E%22%27&command=%3C/textarea%3E%3Cscript%3E&env=%3Ci%3E&image=%22onfocus%3Dx&retries=%3Cu%3E",
        ));
        let typed = Typed::Fields(Box::new(draft));
        let (spec, mut faults) = typed.spec();
        placed(&spec.expect("a document").faults(), &mut faults);
        let visit = super::super::visit::tests::visit();
        let page = content(&visit, &typed, &faults, "key").into_string();
        for tag in ["<b>", "<script", "<i>", "<u>", "</textarea><script", "\"onfocus"] {
            assert!(!page.contains(tag), "{tag} in {page}");
        }
        assert!(page.contains("&lt;/textarea&gt;&lt;script&gt;"));
    }

    #[test]
    fn a_document_that_is_no_json_is_shown_again_with_the_place() {
        let typed = Typed::from_form(&form("as=json&json=%7B%0A%22name%22:+1%7D"));
        let (spec, faults) = typed.spec();
        assert!(spec.is_none());
        assert!(faults["json"][0].contains("line 2"), "{faults:?}");
    }
}
