//! What a check asks: one type for each kind of check. Plain data; the probes do the asking.
//!
//! A new kind is a struct here, a variant of [`Ask`], a key of the spec and a probe; the compiler names the places.

mod file;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde_json::Value;

pub use self::file::{File, FileExpect};
pub use self::stream::{AtFirstLine, LogStream, StreamExpect};
use super::matcher::{Fields, Matcher, Path};
use super::spec::Span;

/// What a check asks of the world.
#[derive(Debug, Clone)]
pub enum Ask {
    /// Objects of a Kubernetes API.
    K8s(K8s),
    /// An answer to an HTTP request.
    Http(Http),
    /// What a program does.
    Exec(Exec),
    /// A file of the learner's.
    File(File),
    /// Lines that come while something happens.
    LogStream(LogStream),
}

/// How many of the candidates must be as expected. There must be at least one in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quantifier {
    /// Every one.
    #[default]
    All,
    /// At least one.
    Any,
    /// This many, and the others not.
    Exactly(usize),
    /// Not one of those that are there.
    None,
}

impl<'de> Deserialize<'de> for Quantifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "all" => return Ok(Self::All),
            "any" => return Ok(Self::Any),
            "none" => return Ok(Self::None),
            _ => {}
        }
        text.strip_prefix("exactly ")
            .and_then(|n| n.trim().parse().ok())
            .filter(|n| *n > 0)
            .map(Self::Exactly)
            .ok_or_else(|| de::Error::custom(format!("`{text}` is not one of `all`, `any`, `none`, `exactly N`")))
    }
}

/// A condition in an object's status, written `Available` or `Available=False`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its type.
    pub kind: String,
    /// The status it must have: `True`, `False` or `Unknown`.
    pub status: String,
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (kind, status) = text.split_once('=').unwrap_or((&text, "True"));
        if kind.is_empty() || !["True", "False", "Unknown"].contains(&status) {
            return Err(de::Error::custom(format!(
                "`{text}` is not a condition such as `Available` or `Available=False`"
            )));
        }
        Ok(Self {
            kind: kind.to_owned(),
            status: status.to_owned(),
        })
    }
}

/// Objects of a Kubernetes API.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct K8s {
    /// The kind, such as `Deployment`.
    pub kind: String,
    /// The API group, where more than one has the kind.
    pub group: Option<String>,
    /// The namespace; without it, all of them, or none for kinds without one.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: Option<String>,
    /// A label selector, as `kubectl -l` takes it.
    pub selector: Option<String>,
    /// Parts of each object that are to be judged one by one, instead of the object.
    pub each: Option<Path>,
    /// How many candidates must be as expected.
    #[serde(default, rename = "match")]
    pub quantifier: Quantifier,
    /// What is expected.
    pub expect: K8sExpect,
}

/// What is expected of objects.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct K8sExpect {
    /// A condition of its status.
    pub condition: Option<Condition>,
    /// Whether the status must be of the newest spec. Without it: yes, as far as the object says.
    pub fresh: Option<bool>,
    /// Values within the candidate.
    pub fields: Option<Fields>,
    /// How many candidates there are.
    pub count: Option<Matcher>,
}

/// An HTTP request and the answer that is expected.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// The URL of a GET; with `via`, its path.
    pub get: Option<String>,
    /// The URL of a POST; with `via`, its path.
    pub post: Option<String>,
    /// The URL of a PUT; with `via`, its path.
    pub put: Option<String>,
    /// The URL of a PATCH; with `via`, its path.
    pub patch: Option<String>,
    /// The URL of a DELETE; with `via`, its path.
    pub delete: Option<String>,
    /// The Service whose pod is asked through a port-forward.
    pub via: Option<Via>,
    /// Headers of the request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The JSON body of the request.
    pub json: Option<Value>,
    /// What is expected.
    pub expect: HttpExpect,
}

/// A Service to be reached by a port-forward to a ready pod behind it.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Via {
    /// The Service's name.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// Its port.
    pub port: Port,
}

/// A Service's port, by name or by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// By name.
    Name(String),
    /// By number.
    Number(u16),
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PortVisitor;
        impl Visitor<'_> for PortVisitor {
            type Value = Port;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port's name or number")
            }

            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Port, E> {
                u16::try_from(v)
                    .ok()
                    .filter(|n| *n > 0)
                    .map(Port::Number)
                    .ok_or_else(|| E::custom(format!("{v} is not a port (1 to 65535)")))
            }

            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Port, E> {
                self.visit_u64(u64::try_from(v).unwrap_or(0))
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<Port, E> {
                Ok(Port::Name(v.to_owned()))
            }
        }
        deserializer.deserialize_any(PortVisitor)
    }
}

/// What is expected of an HTTP answer.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpExpect {
    /// The status code.
    pub status: Matcher,
    /// The media type; where `json` is asked it must be JSON in any case.
    pub content_type: Option<Matcher>,
    /// Headers of the answer, by name in lower case.
    #[serde(default)]
    pub headers: BTreeMap<String, Matcher>,
    /// Values within the JSON body.
    pub json: Option<Fields>,
    /// The body as text.
    pub body: Option<Matcher>,
}

/// A program and what it is expected to do. No shell is involved.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments; `kubectl`, `helm` and `kind` are the lab's own.
    pub run: Vec<String>,
    /// What the program reads.
    pub stdin: Option<String>,
    /// The folder that it runs in; labctl's own without it.
    pub dir: Option<String>,
    /// Environment variables that it gets besides labctl's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How long one run may take; 25 s without it.
    pub within: Option<Span>,
    /// What is expected.
    pub expect: ExecExpect,
}

impl Exec {
    /// Returns how long one run may take.
    pub fn within(&self) -> Duration {
        self.within.map_or(Duration::from_secs(25), |span| span.0)
    }
}

/// What is expected of a program.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecExpect {
    /// The exit code; 0 without it.
    pub exit: Option<Matcher>,
    /// Standard output.
    pub stdout: Option<Matcher>,
    /// Standard error.
    pub stderr: Option<Matcher>,
    /// Standard output and then standard error.
    pub output: Option<Matcher>,
    /// Values within standard output, which must be JSON.
    pub json: Option<Fields>,
}

/// What is expected of a candidate's value, whatever kind it is of: the form that is judged.
#[derive(Debug, Clone)]
pub struct Expect {
    /// What one candidate is called where there is none: `a Deployment "x"`.
    pub subject: String,
    /// Parts of each candidate to be judged instead of it.
    pub each: Option<Path>,
    /// How many must hold.
    pub quantifier: Quantifier,
    /// How many there must be.
    pub count: Option<Matcher>,
    /// Whether status must be fresh; `None` means as far as the object says.
    pub fresh: Option<bool>,
    /// A condition of the object's status.
    pub condition: Option<Condition>,
    /// Values within the candidate.
    pub fields: Vec<Field>,
}

/// A value within a candidate.
#[derive(Debug, Clone)]
pub struct Field {
    /// The entry of the candidate that the path starts from; empty for the candidate itself.
    pub root: String,
    /// The path from there.
    pub path: Path,
    /// What is expected.
    pub matcher: Matcher,
}

impl Field {
    fn at(root: impl Into<String>, path: &Path, matcher: &Matcher) -> Self {
        Self {
            root: root.into(),
            path: path.clone(),
            matcher: matcher.clone(),
        }
    }

    /// Returns where the value is, for people: `status`, `json $.name`, `$.spec.replicas`.
    pub fn place(&self) -> String {
        match (self.root.as_str(), self.path.as_str()) {
            ("", path) => path.to_owned(),
            (root, "$") => root.to_owned(),
            (root, path) => format!("{root} {path}"),
        }
    }
}

impl Ask {
    /// Returns what is expected, in the one form that is judged.
    pub fn expect(&self) -> Expect {
        let mut expect = Expect {
            subject: String::new(),
            each: None,
            quantifier: Quantifier::All,
            count: None,
            fresh: Some(false),
            condition: None,
            fields: Vec::new(),
        };
        let root = Path::root();
        let mut add = |name: &str, matcher: &Option<Matcher>| {
            if let Some(matcher) = matcher {
                expect.fields.push(Field::at(name, &root, matcher));
            }
        };
        match self {
            Self::K8s(k8s) => {
                expect.subject = match (&k8s.each, &k8s.name, &k8s.selector) {
                    (Some(each), ..) => format!("{} of {}", each.as_str(), k8s.kind),
                    (None, Some(name), _) => format!("{} {name}", k8s.kind),
                    (None, None, Some(selector)) => format!("{} with {selector}", k8s.kind),
                    (None, None, None) => k8s.kind.clone(),
                };
                expect.each.clone_from(&k8s.each);
                expect.quantifier = k8s.quantifier;
                expect.count.clone_from(&k8s.expect.count);
                expect.fresh = k8s.expect.fresh;
                expect.condition.clone_from(&k8s.expect.condition);
                for (path, matcher) in k8s.expect.fields.iter().flat_map(|fields| &fields.0) {
                    expect.fields.push(Field::at("", path, matcher));
                }
            }
            Self::Http(http) => {
                add("status", &Some(http.expect.status.clone()));
                let json = http.expect.json.is_some().then(json_media_type);
                add("content_type", &http.expect.content_type.clone().or(json));
                add("body", &http.expect.body);
                for (name, matcher) in &http.expect.headers {
                    let path = Path::parse(&format!("$['{name}']")).unwrap_or_else(|_| Path::root());
                    expect.fields.push(Field::at("headers", &path, matcher));
                }
                for (path, matcher) in http.expect.json.iter().flat_map(|fields| &fields.0) {
                    expect.fields.push(Field::at("json", path, matcher));
                }
                "an answer".clone_into(&mut expect.subject);
            }
            Self::Exec(exec) => {
                let zero = || Matcher::Eq(Value::from(0));
                add("exit", &Some(exec.expect.exit.clone().unwrap_or_else(zero)));
                add("stdout", &exec.expect.stdout);
                add("stderr", &exec.expect.stderr);
                add("output", &exec.expect.output);
                for (path, matcher) in exec.expect.json.iter().flat_map(|fields| &fields.0) {
                    expect.fields.push(Field::at("json", path, matcher));
                }
                "a program that ran".clone_into(&mut expect.subject);
            }
            Self::File(file) => {
                expect.fields = file.fields();
                expect.subject = format!("the file {}", file.path);
            }
            Self::LogStream(stream) => {
                expect.fields = stream.fields();
                "an answer".clone_into(&mut expect.subject);
            }
        }
        expect
    }

    /// Returns what is asked, as a person would ask it: with `kubectl`, `curl`, or the program itself.
    pub fn asked(&self) -> String {
        match self {
            Self::K8s(k8s) => {
                let mut text = format!("kubectl get {}", k8s.kind.to_lowercase());
                if let Some(group) = &k8s.group {
                    text = format!("{text}.{group}");
                }
                for (flag, value) in [(" ", &k8s.name), (" -l ", &k8s.selector), (" -n ", &k8s.namespace)] {
                    if let Some(value) = value {
                        text.push_str(flag);
                        text.push_str(value);
                    }
                }
                text
            }
            Self::Http(http) => {
                let (method, target) = http.request();
                match &http.via {
                    None => format!("{method} {target}"),
                    Some(via) => format!(
                        "{method} {target} through a port-forward to service/{} port {} (namespace {})",
                        via.service, via.port, via.namespace
                    ),
                }
            }
            Self::Exec(exec) => exec.run.join(" "),
            Self::File(file) => format!("the file {}", file.path),
            Self::LogStream(stream) => {
                let mut words = vec!["curl -N".to_owned()];
                words.extend(
                    stream
                        .headers
                        .iter()
                        .map(|(name, value)| format!("-H '{name}: {value}'")),
                );
                words.push(stream.get.clone());
                words.join(" ")
            }
        }
    }

    /// Returns a copy in which `f` was applied to every text that may hold placeholders.
    #[must_use]
    pub fn map_text(&self, f: &dyn Fn(&str) -> String) -> Self {
        let optional = |text: &Option<String>| text.as_deref().map(f);
        let matcher = |m: &Option<Matcher>| m.as_ref().map(|m| m.map_text(f));
        let fields = |fields: &Option<Fields>| fields.as_ref().map(|fields| fields.map_text(f));
        match self {
            Self::K8s(k8s) => Self::K8s(K8s {
                namespace: optional(&k8s.namespace),
                name: optional(&k8s.name),
                selector: optional(&k8s.selector),
                expect: K8sExpect {
                    fields: fields(&k8s.expect.fields),
                    count: matcher(&k8s.expect.count),
                    ..k8s.expect.clone()
                },
                ..k8s.clone()
            }),
            Self::Http(http) => Self::Http(Http {
                get: optional(&http.get),
                post: optional(&http.post),
                put: optional(&http.put),
                patch: optional(&http.patch),
                delete: optional(&http.delete),
                via: http.via.as_ref().map(|via| Via {
                    service: f(&via.service),
                    namespace: f(&via.namespace),
                    port: via.port.clone(),
                }),
                headers: http
                    .headers
                    .iter()
                    .map(|(name, value)| (name.clone(), f(value)))
                    .collect(),
                json: http
                    .json
                    .as_ref()
                    .map(|json| match Matcher::Eq(json.clone()).map_text(f) {
                        Matcher::Eq(json) => json,
                        _ => json.clone(),
                    }),
                expect: HttpExpect {
                    status: http.expect.status.map_text(f),
                    content_type: matcher(&http.expect.content_type),
                    headers: http
                        .expect
                        .headers
                        .iter()
                        .map(|(name, m)| (name.clone(), m.map_text(f)))
                        .collect(),
                    json: fields(&http.expect.json),
                    body: matcher(&http.expect.body),
                },
            }),
            Self::Exec(exec) => Self::Exec(Exec {
                run: exec.run.iter().map(|word| f(word)).collect(),
                stdin: optional(&exec.stdin),
                expect: ExecExpect {
                    exit: matcher(&exec.expect.exit),
                    stdout: matcher(&exec.expect.stdout),
                    stderr: matcher(&exec.expect.stderr),
                    output: matcher(&exec.expect.output),
                    json: fields(&exec.expect.json),
                },
                dir: optional(&exec.dir),
                env: exec.env.iter().map(|(name, value)| (name.clone(), f(value))).collect(),
                within: exec.within,
            }),
            Self::File(file) => Self::File(file.map_text(f)),
            Self::LogStream(stream) => Self::LogStream(stream.map_text(f)),
        }
    }

    /// Returns the names of the placeholders that the texts hold.
    pub fn placeholders(&self) -> BTreeSet<String> {
        let found = std::cell::RefCell::new(BTreeSet::new());
        _ = self.map_text(&|text| {
            found.borrow_mut().extend(placeholders(text));
            text.to_owned()
        });
        found.into_inner()
    }

    /// Returns how long one look may take.
    pub fn look_limit(&self) -> Duration {
        match self {
            Self::K8s(_) | Self::Http(_) | Self::File(_) => Duration::from_secs(10),
            Self::Exec(exec) => exec.within() + Duration::from_secs(5),
            Self::LogStream(stream) => stream.read_for() + Duration::from_secs(10),
        }
    }
}

impl Http {
    /// Returns the method and its target. The spec made sure that there is exactly one.
    pub fn request(&self) -> (&'static str, &str) {
        self.requests().into_iter().next().unwrap_or(("GET", "/"))
    }

    /// Returns every method that was given, with its target.
    pub fn requests(&self) -> Vec<(&'static str, &str)> {
        [
            ("GET", &self.get),
            ("POST", &self.post),
            ("PUT", &self.put),
            ("PATCH", &self.patch),
            ("DELETE", &self.delete),
        ]
        .into_iter()
        .filter_map(|(method, target)| Some((method, target.as_deref()?)))
        .collect()
    }
}

fn json_media_type() -> Matcher {
    let expression = regex::Regex::new(r"(?i)^application/(json|[a-z0-9.+-]+\+json)\s*(;|$)").expect("a literal");
    Matcher::Matches(expression)
}

/// Returns the names in `{{name}}` of a text.
pub fn placeholders(text: &str) -> Vec<String> {
    text.split("{{")
        .skip(1)
        .filter_map(|rest| rest.split_once("}}"))
        .map(|(name, _)| name.trim().to_owned())
        .collect()
}

/// Replaces `{{name}}` by the text that `fill` gives; a name without one stays as it is.
pub fn fill(text: &str, fill: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((name, behind)) = after.split_once("}}") else {
            out.push_str("{{");
            rest = after;
            continue;
        };
        if let Some(value) = fill.get(name.trim()) {
            out.push_str(value);
        } else {
            out.push_str("{{");
            out.push_str(name);
            out.push_str("}}");
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_and_filled() {
        assert_eq!(placeholders("{{a}}/x/{{ b }}{{"), ["a", "b"]);
        let values = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        assert_eq!(fill("{{a}}/{{b}}/{{ a }} {{", &values), "1/{{b}}/1 {{");
    }

    #[test]
    fn placeholders_in_every_text_of_a_check_are_seen() {
        let http: Http = serde_saphyr::from_str(
            "post: '{{one}}/x'\nheaders: {h: '{{two}}'}\njson: {a: ['{{three}}']}\nexpect: {status: 200, json: {$.a: '{{four}}'}}",
        )
        .expect("a spec");
        let names: Vec<_> = Ask::Http(http).placeholders().into_iter().collect();
        assert_eq!(names, ["four", "one", "three", "two"]);
    }

    #[test]
    fn json_is_asked_of_json_only() {
        let json = json_media_type();
        for good in [
            "application/json",
            "application/json; charset=utf-8",
            "application/problem+json",
        ] {
            assert!(json.accepts(Some(&Value::from(good))), "{good}");
        }
        for bad in ["text/html", "text/json", "application/jsonp"] {
            assert!(!json.accepts(Some(&Value::from(bad))), "{bad}");
        }
    }
}
