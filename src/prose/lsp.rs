//! A small language server: findings while you write, and their fixes as code actions.
//!
//! It speaks the Language Server Protocol 3.17 over two streams: `initialize`, `initialized`, `didOpen`, `didChange`
//! (whole texts), `didSave`, `didClose`, `codeAction`, `shutdown`, `exit`. A `prose.toml` that has changed is read again
//! with the next of these. Places are counted in UTF-16 units, as the protocol has it where nothing else is agreed.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::finding::{Finding, Fix};
use super::rule::Strength;
use super::{Checker, config};

/// The largest message that is read, in bytes.
const LARGEST: usize = 64 << 20;

/// The errors of JSON-RPC and of the protocol that are used here.
mod code {
    pub(super) const PARSE: i64 = -32700;
    pub(super) const INVALID: i64 = -32600;
    pub(super) const UNKNOWN: i64 = -32601;
    pub(super) const NOT_INITIALIZED: i64 = -32002;
}

/// Serves one editor until it says `exit` or goes away; returns whether it said goodbye properly, with `shutdown`.
///
/// `checker` makes what looks at the files of a project, given its folder.
///
/// # Errors
/// The streams fail, or the project's settings cannot be read.
pub fn serve(
    input: &mut dyn BufRead,
    output: &mut dyn Write,
    checker: &dyn Fn(Option<PathBuf>) -> Result<Checker>,
) -> Result<bool> {
    let mut server = Server {
        output,
        make: checker,
        checker: None,
        folder: None,
        settings: None,
        open: HashMap::new(),
        down: false,
    };
    while let Some(message) = receive(input)? {
        match serde_json::from_slice::<Value>(&message) {
            Ok(message) if message["method"] == "exit" => return Ok(server.down),
            Ok(message) => server.take(&message)?,
            Err(error) => server.refuse(&Value::Null, code::PARSE, &error.to_string())?,
        }
    }
    Ok(server.down)
}

/// Returns when the project's settings were written, and their size.
fn settings_of(checker: &Checker) -> Option<(SystemTime, u64)> {
    let file = std::fs::metadata(checker.config().root.join(config::FILE)).ok()?;
    Some((file.modified().ok()?, file.len()))
}

/// Reads one message; nothing at the end of the stream.
fn receive(input: &mut dyn BufRead) -> Result<Option<Vec<u8>>> {
    let mut length = None;
    loop {
        let mut line = Vec::new();
        // A header is short; a stream without line ends is not one.
        let read = std::io::Read::take(&mut *input, 8192)
            .read_until(b'\n', &mut line)
            .context("read a header")?;
        if read == 0 {
            ensure!(length.is_none(), "the stream ended within a message's headers");
            return Ok(None);
        }
        ensure!(line.ends_with(b"\n"), "a header has no end");
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if line.is_empty() {
            if let Some(length) = length {
                ensure!(length <= LARGEST, "a message of {length} bytes is too large");
                let mut body = vec![0; length];
                input.read_exact(&mut body).context("read a message")?;
                return Ok(Some(body));
            }
            continue;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(
                value
                    .trim()
                    .parse()
                    .with_context(|| format!("read the length `{}`", value.trim()))?,
            );
        }
    }
}

struct Open {
    path: PathBuf,
    text: String,
    version: Value,
    findings: Vec<Finding>,
}

struct Server<'s> {
    output: &'s mut dyn Write,
    make: &'s dyn Fn(Option<PathBuf>) -> Result<Checker>,
    checker: Option<Checker>,
    /// The folder that the editor named.
    folder: Option<PathBuf>,
    /// What `prose.toml` was when it was read; nothing where there was none.
    settings: Option<(SystemTime, u64)>,
    open: HashMap<String, Open>,
    down: bool,
}

impl Server<'_> {
    fn send(&mut self, message: &Value) -> Result<()> {
        let body = message.to_string();
        write!(self.output, "Content-Length: {}\r\n\r\n{body}", body.len()).context("write to the editor")?;
        self.output.flush().context("write to the editor")
    }

    fn answer(&mut self, id: &Value, result: &Value) -> Result<()> {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "result": result}))
    }

    fn refuse(&mut self, id: &Value, code: i64, message: &str) -> Result<()> {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}))
    }

    fn take(&mut self, message: &Value) -> Result<()> {
        let method = message["method"].as_str().unwrap_or_default();
        let params = &message["params"];
        let Some(id) = message.get("id") else {
            // Notifications before `initialize`, and unknown ones, are dropped without an answer.
            if self.checker.is_some() && !self.down {
                self.notified(method, params)?;
            }
            return Ok(());
        };
        if method.is_empty() {
            // An answer to a question; none was asked.
            return Ok(());
        }
        match method {
            "initialize" if self.checker.is_none() => self.initialize(id, params),
            "initialize" => self.refuse(id, code::INVALID, "initialize came twice"),
            _ if self.checker.is_none() => self.refuse(id, code::NOT_INITIALIZED, "initialize comes first"),
            _ if self.down => self.refuse(id, code::INVALID, "the server was shut down"),
            "shutdown" => {
                self.down = true;
                self.answer(id, &Value::Null)
            }
            "textDocument/codeAction" => {
                let actions = self.actions(params);
                self.answer(id, &actions)
            }
            _ => self.refuse(id, code::UNKNOWN, &format!("`{method}` is not known here")),
        }
    }

    fn initialize(&mut self, id: &Value, params: &Value) -> Result<()> {
        let folder = params["workspaceFolders"][0]["uri"]
            .as_str()
            .or(params["rootUri"].as_str());
        self.folder = folder.and_then(path_of);
        match (self.make)(self.folder.clone()) {
            Ok(checker) => {
                self.settings = settings_of(&checker);
                self.checker = Some(checker);
            }
            Err(error) => return self.refuse(id, code::INVALID, &format!("{error:#}")),
        }
        self.answer(
            id,
            &json!({
                "capabilities": {
                    "positionEncoding": "utf-16",
                    "textDocumentSync": {"openClose": true, "change": 1, "save": true},
                    "codeActionProvider": {"codeActionKinds": ["quickfix", "source.fixAll"]},
                },
                "serverInfo": {"name": "labctl prose", "version": env!("CARGO_PKG_VERSION")},
            }),
        )
    }

    /// Reads `prose.toml` again where it has changed, and looks at all open files by it. What cannot be read is told, and
    /// the settings of before stay.
    fn follow_settings(&mut self) -> Result<()> {
        let now = self.checker.as_ref().and_then(settings_of);
        if now == self.settings {
            return Ok(());
        }
        self.settings = now;
        match (self.make)(self.folder.clone()) {
            Ok(checker) => self.checker = Some(checker),
            Err(error) => {
                let params = json!({"type": 1, "message": format!("labctl prose: {error:#}")});
                return self.send(&json!({"jsonrpc": "2.0", "method": "window/showMessage", "params": params}));
            }
        }
        for (uri, open) in std::mem::take(&mut self.open) {
            self.look(&uri, open.path, &open.text, &open.version)?;
        }
        Ok(())
    }

    fn notified(&mut self, method: &str, params: &Value) -> Result<()> {
        self.follow_settings()?;
        let document = &params["textDocument"];
        let Some(uri) = document["uri"].as_str() else {
            return Ok(());
        };
        let text = match method {
            "textDocument/didOpen" => document["text"].as_str(),
            // Of several whole texts, the last one holds.
            "textDocument/didChange" => params["contentChanges"]
                .as_array()
                .and_then(|all| all.last()?["text"].as_str()),
            "textDocument/didClose" => {
                self.open.remove(uri);
                return self.publish(uri, &Value::Null, &[]);
            }
            _ => return Ok(()),
        };
        let (Some(text), Some(path)) = (text, path_of(uri)) else {
            return Ok(());
        };
        self.look(uri, path, text, &document["version"])
    }

    /// Looks at a file and tells the editor what is found.
    fn look(&mut self, uri: &str, path: PathBuf, text: &str, version: &Value) -> Result<()> {
        let Some(checker) = &self.checker else { return Ok(()) };
        let excluded = checker.config().exclude.has(&checker.config().relative(&path));
        let findings = if excluded {
            Vec::new()
        } else {
            checker.check(&path, text.as_bytes()).findings
        };
        let diagnostics: Vec<Value> = {
            let lines = Lines::new(text);
            findings.iter().map(|finding| diagnostic(&lines, finding)).collect()
        };
        let open = Open {
            path,
            text: text.to_owned(),
            version: version.clone(),
            findings,
        };
        self.open.insert(uri.to_owned(), open);
        self.publish(uri, version, &diagnostics)
    }

    fn publish(&mut self, uri: &str, version: &Value, diagnostics: &[Value]) -> Result<()> {
        let mut params = json!({"uri": uri, "diagnostics": diagnostics});
        if version.is_i64() {
            params["version"] = version.clone();
        }
        self.send(&json!({"jsonrpc": "2.0", "method": "textDocument/publishDiagnostics", "params": params}))
    }

    /// Returns the fixes that touch a range, and one that makes all fixes of the file.
    fn actions(&self, params: &Value) -> Value {
        let uri = params["textDocument"]["uri"].as_str().unwrap_or_default();
        let (Some(open), Some(checker)) = (self.open.get(uri), &self.checker) else {
            return json!([]);
        };
        let lines = Lines::new(&open.text);
        let (start, end) = (
            lines.offset(&params["range"]["start"]),
            lines.offset(&params["range"]["end"]),
        );
        let only: Option<Vec<&str>> = params["context"]["only"]
            .as_array()
            .map(|kinds| kinds.iter().filter_map(Value::as_str).collect());
        let wants = |kind: &str| {
            only.as_ref().is_none_or(|only| {
                only.iter().any(|wanted| {
                    kind == *wanted || kind.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'))
                })
            })
        };
        let mut out = Vec::new();
        if wants("quickfix") {
            for finding in open
                .findings
                .iter()
                .filter(|finding| finding.span.start <= end && finding.span.end >= start)
            {
                let Some(fix) = &finding.fix else { continue };
                out.push(json!({
                    "title": title(finding, fix),
                    "kind": "quickfix",
                    "isPreferred": true,
                    "diagnostics": [diagnostic(&lines, finding)],
                    "edit": {"changes": {uri: [edit(&lines, fix)]}},
                }));
            }
        }
        if wants("source.fixAll")
            && let Some((text, places)) = checker.fix(&open.path, open.text.as_bytes())
        {
            let whole = Fix {
                span: 0..open.text.len(),
                with: text,
            };
            out.push(json!({
                "title": format!("Make all {places} fixes of this file"),
                "kind": "source.fixAll",
                "edit": {"changes": {uri: [edit(&lines, &whole)]}},
            }));
        }
        Value::Array(out)
    }
}

fn title(finding: &Finding, fix: &Fix) -> String {
    match finding.rule.id.as_str() {
        "trailing-space" => "Remove the white space at the end of the line".to_owned(),
        _ if fix.with.is_empty() => format!("Remove it ({})", finding.rule.id),
        _ => format!("Write `{}`", fix.with),
    }
}

fn edit(lines: &Lines<'_>, fix: &Fix) -> Value {
    json!({
        "range": {"start": lines.position(fix.span.start), "end": lines.position(fix.span.end)},
        "newText": fix.with,
    })
}

fn diagnostic(lines: &Lines<'_>, finding: &Finding) -> Value {
    json!({
        "range": {"start": lines.position(finding.span.start), "end": lines.position(finding.span.end)},
        "severity": match finding.rule.strength {
            Strength::Strong => 1,
            Strength::Medium => 2,
            Strength::Weak => 3,
        },
        "code": finding.rule.id,
        "source": "labctl prose",
        "message": format!("{}\nInstead: {}", finding.message, finding.instead),
    })
}

/// A text's lines, for places in UTF-16 units.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let ends = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(ends).collect(),
        }
    }

    fn position(&self, offset: usize) -> Value {
        let line = self.starts.partition_point(|start| *start <= offset).max(1) - 1;
        let before = self.text.get(self.starts[line]..offset).unwrap_or_default();
        json!({"line": line, "character": before.encode_utf16().count()})
    }

    fn offset(&self, position: &Value) -> usize {
        let at = |name: &str| {
            position[name]
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(0)
        };
        let Some(start) = self.starts.get(at("line")) else {
            return self.text.len();
        };
        let end = self.starts.get(at("line") + 1).copied().unwrap_or(self.text.len());
        let mut units = at("character");
        for (index, c) in self.text[*start..end].char_indices() {
            if units == 0 || c == '\n' {
                return start + index;
            }
            units = units.saturating_sub(c.len_utf16());
        }
        end
    }
}

/// Returns the path that a `file:` URI names.
fn path_of(uri: &str) -> Option<PathBuf> {
    let path = uri.strip_prefix("file://")?;
    // Of a host, only this machine can be meant.
    let path = path.strip_prefix("localhost").unwrap_or(path);
    Some(PathBuf::from(super::copyedit::decode(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_utf16() {
        let lines = Lines::new("a\u{1f600}b\r\nc");
        assert_eq!(lines.position(5), json!({"line": 0, "character": 3}));
        assert_eq!(lines.offset(&json!({"line": 0, "character": 3})), 5);
        assert_eq!(lines.offset(&json!({"line": 1, "character": 9})), 9);
        assert_eq!(lines.offset(&json!({"line": 7, "character": 0})), 9);
    }

    #[test]
    fn uris_become_paths() {
        assert_eq!(path_of("file:///a%20b/c.md"), Some(PathBuf::from("/a b/c.md")));
        assert_eq!(path_of("untitled:x"), None);
    }
}
