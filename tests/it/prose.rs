//! `labctl prose` as a program: on files, in git, and speaking to an editor. And this repository, held to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::harness::{Output, TestEnvironment, checkout};

/// Runs `labctl prose` in this world's home.
fn prose(world: &TestEnvironment, args: &[&str]) -> Output {
    let all: Vec<&str> = std::iter::once("prose").chain(args.iter().copied()).collect();
    let mut output = world.run(&all);
    // How long it took is not compared.
    output.stderr = output
        .stderr
        .lines()
        .map(|line| line.split(", in ").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    output
}

const BAD: &str = "# A page\n\nIt was recieved by the\nthe node. \n\n### Too deep\n\nCertainly! See [there](no.md).\n";

#[test]
fn the_repository_keeps_its_own_rules() {
    let world = TestEnvironment::new();
    let mut command = world.command(&["prose", "check", "."]);
    let output = command.current_dir(checkout()).output().expect("labctl starts");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // It has looked at something, and knows the chapters.
    let mut command = world.command(&["prose", "check", "labs", "README.md", "--json"]);
    let output = command.current_dir(checkout()).output().expect("labctl starts");
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(document["words"].as_u64() > Some(2000), "{document}");
}

#[test]
fn a_finding_names_its_place_its_words_its_reason_and_the_way_out() {
    let world = TestEnvironment::new();
    world.write("home/page.md", BAD);
    assert_snapshot!(prose(&world, &["check"]), @r"
    exit 1
    ----- stdout
    page.md:3:8: spelling: `recieved` is misspelt
        | recieved
        why: A reader stops at it, and a search does not find it.
        do:  write `received` (`labctl prose fix` does)
    page.md:3:20: doubled-word: `the` stands here twice
        | the the
        why: It is what is left of an edit.
        do:  remove one of them
    page.md:4:10: trailing-space: white space at the end of the line
        why: Nobody sees it, every diff shows it, and in Markdown two spaces there break the line.
        do:  remove it: `labctl prose fix` does, and keeps what means something
    page.md:6:1: heading-order: a heading of level 3 stands below one of level 1
        | ### Too deep
        why: Screen readers and tables of contents walk the levels.
        do:  make it level 2, or give it the heading that is missing above it
    page.md:8:1: assistant-residue: this answers somebody who asked, and the reader did not
        | Certainly!
        why: It is left from a conversation and says nothing about the subject.
        do:  remove it
    page.md:8:16: broken-link: there is no file `no.md`
        | [there](no.md)
        why: Who follows it loses the thread.
        do:  mend the path, or remove the link
    ----- stderr
    6 findings in 1 file, of which `labctl prose fix` mends 2; read 1 file, 14 words of prose
    ");
}

#[test]
fn findings_in_forms_for_programs() {
    let world = TestEnvironment::new();
    world.write("home/a, b.md", BAD);
    let output = prose(&world, &["check", "--json"]);
    assert_eq!((output.exit, output.stderr.as_str()), (Some(1), ""));
    let document = &output.json()[0];
    let findings = document["files"][0]["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), 6, "{document}");
    let first = &findings[0];
    assert_eq!(
        (&first["rule"], &first["line"], &first["column"]),
        (&json!("spelling"), &json!(3), &json!(8))
    );
    assert_eq!(first["fix"], json!({"bytes": [17, 25], "with": "received"}));

    let sarif: Value = serde_json::from_str(&prose(&world, &["check", "--format", "sarif"]).stdout).expect("JSON");
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    let results = run["results"].as_array().expect("results");
    assert_eq!(results.len(), 6);
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().expect("a number")).expect("small");
        assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "a%2C%20b.md");
        assert!(place["region"]["startLine"].as_u64() >= Some(1));
    }

    let github = prose(&world, &["check", "--format", "github"]).stdout;
    assert_eq!(github.lines().count(), 6);
    let first = "::error file=a%2C b.md,line=3,endLine=3,col=8,title=prose%3A spelling::`recieved` is misspelt. Instead: write `received`";
    assert_eq!(github.lines().next(), Some(first));
}

#[test]
fn only_what_is_asked_for_is_looked_for() {
    let world = TestEnvironment::new();
    world.write("home/page.md", BAD);
    let count = |args: &[&str]| {
        let output = prose(&world, &[&["check", "--json"], args].concat());
        output.json()[0]["findings"].as_u64().expect("a number")
    };
    assert_eq!(count(&["--only", "spelling,doubled-word"]), 2);
    assert_eq!(count(&["--class", "slop"]), 1);
    assert_eq!(count(&["--class", "whitespace"]), 1);
    let output = prose(&world, &["check", "--only", "speling"]);
    assert_eq!(output.exit, Some(2));
    assert!(output.stderr.contains("did you mean `spelling`?"), "{output}");
}

#[test]
fn what_git_ignores_is_left_out_and_what_is_named_is_not() {
    let world = TestEnvironment::new();
    world.write("home/.gitignore", "target/\n");
    world.write("home/target/page.md", BAD);
    world.write("home/prose.toml", "exclude = ['/old/']\n");
    world.write("home/old/page.md", BAD);
    assert_eq!(prose(&world, &["check"]).exit, Some(0));
    assert_eq!(prose(&world, &["check", "target/page.md"]).exit, Some(1));
    assert_eq!(prose(&world, &["check", "old/page.md"]).exit, Some(0));
    assert_eq!(prose(&world, &["check", "none.md"]).exit, Some(3));
}

#[test]
fn a_mistake_in_the_settings_is_refused_where_it_stands() {
    let world = TestEnvironment::new();
    world.write("home/prose.toml", "# ours\n[words]\nacept = ['x']\n");
    assert_snapshot!(prose(&world, &["check"]), @r"
    exit 2
    ----- stderr
    error[LAB-SPEC-002]: $TEST/home/prose.toml:3:1: unknown key `acept`; did you mean `accept`?
      hint: labctl prose rules lists the rules; labctl prose --help lists the keys
    ");
}

#[test]
fn fix_mends_whole_files_and_a_second_run_has_nothing_to_do() {
    let world = TestEnvironment::new();
    let page = world.write(
        "home/page.md",
        "It was recieved. \r\nA break  \r\nis kept.\r\n\r\n```\r\ncode \r\n```",
    );
    std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o640)).expect("set");
    std::os::unix::fs::symlink("page.md", world.path("home/link.md")).expect("linked");
    let binary = world.write("home/data.md", b"a \0 \n");
    let latin = world.write("home/latin.txt", b"caf\xe9 \n");

    let check = prose(&world, &["fix", "--check"]);
    assert_eq!(
        (check.exit, check.stdout.as_str()),
        (Some(1), "would mend page.md: 2 places\n")
    );
    assert_eq!(prose(&world, &["fix", "link.md"]).exit, Some(0));
    let text = std::fs::read_to_string(&page).expect("there");
    assert_eq!(
        text,
        "It was received.\r\nA break  \r\nis kept.\r\n\r\n```\r\ncode \r\n```"
    );
    assert!(
        std::fs::symlink_metadata(world.path("home/link.md"))
            .expect("there")
            .is_symlink()
    );
    assert_eq!(
        std::fs::metadata(&page).expect("there").permissions().mode() & 0o777,
        0o640
    );
    assert_eq!(prose(&world, &["fix", "--check"]).exit, Some(0));
    assert_eq!(std::fs::read(&binary).expect("there"), b"a \0 \n");
    assert_eq!(std::fs::read(&latin).expect("there"), b"caf\xe9 \n");
    let left: Vec<_> = std::fs::read_dir(world.path("home"))
        .expect("readable")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        left.iter().all(|name| !name.to_string_lossy().starts_with(".labctl")),
        "{left:?}"
    );
}

#[test]
fn rules_are_listed_and_explained_with_examples() {
    let world = TestEnvironment::new();
    let list = prose(&world, &["rules"]);
    for class in ["copyedit", "slop", "narrative", "whitespace"] {
        assert!(list.stdout.lines().any(|line| line == class), "{list}");
    }
    let long = list.stdout.lines().find(|line| line.chars().count() > 120);
    assert_eq!(long, None, "a line is too long");
    assert_snapshot!(prose(&world, &["explain", "stacked-hedge"]), @r"
    exit 0
    ----- stdout
    stacked-hedge (slop, medium)
      two words of doubt do the work of one
      why: The reader cannot tell how sure you are.
      do:  keep one, or say under which condition it happens

      found in:
        - It may potentially fail.
        - This could possibly work.

      not found in:
        - It may fail.
        - A potential failure is named.
        - It could not possibly fail.

      looks for:
        may|might|could potentially|possibly|perhaps|conceivably
        can potentially
        potentially|possibly may|might|could
        seems|appears to potentially|possibly|perhaps

      An exception, with its reason:
        <!-- labctl-prose: allow stacked-hedge because ... -->
    ");
    let unknown = prose(&world, &["explain", "stacked-edge"]);
    assert_eq!(unknown.exit, Some(2));
    assert!(unknown.stderr.contains("did you mean `stacked-hedge`?"), "{unknown}");
}

/// Runs git, where the machine has it.
#[expect(clippy::disallowed_methods, reason = "the test stands beside the program, not in it")]
fn git(dir: &Path, args: &[&str]) -> std::process::Output {
    Command::new("git")
        .args([
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@example.com",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", dir)
        .output()
        .expect("git starts")
}

#[test]
fn the_hook_stops_a_commit_by_what_is_staged() {
    let Some(program) = labctl::drive::exec::find_on_path("git") else {
        return;
    };
    let mut world = TestEnvironment::new();
    let without = prose(&world, &["hook", "install"]);
    assert_eq!(without.exit, Some(3), "there is no git on PATH");
    assert!(without.stderr.contains("LAB-ENV-011"), "{without}");
    let bin = Path::new(env!("CARGO_BIN_EXE_labctl"))
        .parent()
        .expect("a directory")
        .display()
        .to_string();
    let tools = program.parent().expect("a directory").display().to_string();
    let path = format!("{bin}:{tools}:/usr/bin:/bin");
    world.set("PATH", path.clone());
    let home = world.path("home");
    assert_eq!(
        prose(&world, &["hook", "install"]).exit,
        Some(2),
        "there is no repository yet"
    );
    assert!(git(&home, &["init", "-q"]).status.success());

    let hook = home.join(".git/hooks/pre-commit");
    world.write("home/.git/hooks/pre-commit", "#!/bin/sh\nexit 0\n");
    let foreign = prose(&world, &["hook", "install"]);
    assert_eq!(foreign.exit, Some(3));
    assert!(foreign.stderr.contains("LAB-ENV-024"), "{foreign}");
    assert_eq!(prose(&world, &["hook", "remove"]).exit, Some(3));
    assert_eq!(std::fs::read_to_string(&hook).expect("kept"), "#!/bin/sh\nexit 0\n");
    std::fs::remove_file(&hook).expect("removed");

    assert!(prose(&world, &["hook", "install"]).stdout.starts_with("installed "));
    assert!(prose(&world, &["hook", "install"]).stdout.starts_with("nothing to do"));
    world.write("home/page.md", "It was recieved.\n");
    assert!(git(&home, &["add", "page.md"]).status.success());
    // What is on disk is mended, what is staged is not: the commit would carry the mistake.
    world.write("home/page.md", "It was received.\n");
    #[expect(clippy::disallowed_methods, reason = "the test stands beside the program, not in it")]
    let commit = || {
        Command::new("git")
            .args([
                "-c",
                "user.name=A",
                "-c",
                "user.email=a@example.com",
                "commit",
                "-qm",
                "A page",
            ])
            .current_dir(&home)
            .env("PATH", &path)
            .env("HOME", &home)
            .env("CI", "true")
            .output()
            .expect("git starts")
    };
    let refused = commit();
    assert!(!refused.status.success());
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&refused.stdout),
        String::from_utf8_lossy(&refused.stderr)
    );
    assert!(said.contains("page.md:1:8: spelling"), "{said}");
    assert!(git(&home, &["add", "page.md"]).status.success());
    let accepted = commit();
    assert!(
        accepted.status.success(),
        "{}",
        String::from_utf8_lossy(&accepted.stderr)
    );

    assert!(prose(&world, &["hook", "remove"]).stdout.starts_with("removed "));
    assert!(!hook.exists());
    assert!(prose(&world, &["hook", "remove"]).stdout.starts_with("nothing to do"));
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a shell sets the limit, as a test must not set its own"
)]
fn a_write_that_fails_leaves_the_file_as_it_was() {
    let world = TestEnvironment::new();
    let text = "# T\n\nIt was recieved.\n\n".to_owned() + &"A sentence that is there to be long.  \n".repeat(9000);
    world.write("home/a.md", &text);
    // No file may be larger than some kilobytes, as on a disk that is full; the signal is ignored so that writing fails.
    let script = r#"trap '' XFSZ; ulimit -f 8; exec "$0" prose fix a.md"#;
    let labctl = world.command(&[]);
    let output = Command::new("/bin/sh")
        .args(["-c", script])
        .arg(labctl.get_program())
        .env_clear()
        .envs(labctl.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(world.path("home"))
        .output()
        .expect("sh starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("a.md"), "{said}");
    assert_eq!(
        std::fs::read_to_string(world.path("home/a.md")).expect("readable"),
        text
    );
    let left = std::fs::read_dir(world.path("home")).expect("a folder");
    let hidden = left.filter(|entry| {
        entry
            .as_ref()
            .is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(".labctl-"))
    });
    assert_eq!(hidden.count(), 0, "a half-written file was left");
}

/// An editor that speaks to `labctl prose lsp`.
struct Editor {
    child: std::process::Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Editor {
    fn start(world: &TestEnvironment) -> Self {
        let mut command = world.command(&["prose", "lsp", "--stdio"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("labctl starts");
        Self {
            to: child.stdin.take().expect("piped"),
            from: BufReader::new(child.stdout.take().expect("piped")),
            child,
        }
    }

    fn send(&mut self, body: &str) {
        write!(self.to, "Content-Length: {}\r\n\r\n{body}", body.len()).expect("written");
        self.to.flush().expect("written");
    }

    fn notify(&mut self, method: &str, params: &Value) {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string());
    }

    fn ask(&mut self, id: u32, method: &str, params: &Value) -> Value {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string());
        let answer = self.receive();
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    fn receive(&mut self) -> Value {
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.from.read_line(&mut line).expect("a header");
            assert!(!line.is_empty(), "the server went away");
            match line.trim().strip_prefix("Content-Length: ") {
                Some(value) => length = value.parse().expect("a number"),
                None if line.trim().is_empty() => break,
                None => {}
            }
        }
        let mut body = vec![0; length];
        self.from.read_exact(&mut body).expect("a message");
        serde_json::from_slice(&body).expect("JSON")
    }

    fn end(mut self) -> Option<i32> {
        drop(self.to);
        self.child.wait().expect("it ends").code()
    }
}

#[test]
fn an_editor_gets_findings_while_it_types_and_fixes_for_them() {
    let world = TestEnvironment::new();
    world.write("home/prose.toml", "off = ['doubled-word']\n");
    let root = format!("file://{}", world.path("home").display());
    let uri = format!("{root}/a%20page.md");
    let mut editor = Editor::start(&world);

    let early = editor.ask(1, "textDocument/codeAction", &json!({}));
    assert_eq!(early["error"]["code"], -32002);
    let hello = editor.ask(
        2,
        "initialize",
        &json!({"processId": null, "rootUri": root, "capabilities": {}}),
    );
    assert_eq!(hello["result"]["capabilities"]["textDocumentSync"]["change"], 1);
    editor.notify("initialized", &json!({}));

    let text = "# T\n\n\u{1f600} it was recieved by the the node.\n";
    editor.notify(
        "textDocument/didOpen",
        &json!({"textDocument": {"uri": uri, "languageId": "markdown", "version": 1, "text": text}}),
    );
    let published = editor.receive();
    assert_eq!(published["method"], "textDocument/publishDiagnostics");
    assert_eq!(
        (&published["params"]["uri"], &published["params"]["version"]),
        (&json!(uri), &json!(1))
    );
    let diagnostics = published["params"]["diagnostics"].as_array().expect("diagnostics");
    assert_eq!(
        diagnostics.len(),
        1,
        "the rule that is off is off here too: {published}"
    );
    assert_eq!(diagnostics[0]["code"], "spelling");
    // A face outside the first plane takes two units.
    let range = json!({"start": {"line": 2, "character": 10}, "end": {"line": 2, "character": 18}});
    assert_eq!(diagnostics[0]["range"], range);

    let actions = editor.ask(
        3,
        "textDocument/codeAction",
        &json!({"textDocument": {"uri": uri}, "range": range, "context": {"diagnostics": []}}),
    );
    let actions = actions["result"].as_array().expect("actions").clone();
    assert_eq!(
        actions[0]["edit"]["changes"][&uri],
        json!([{"range": range, "newText": "received"}])
    );
    assert_eq!(actions[1]["kind"], "source.fixAll");
    let elsewhere = json!({"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 1}});
    let quick =
        json!({"textDocument": {"uri": uri}, "range": elsewhere, "context": {"diagnostics": [], "only": ["quickfix"]}});
    assert_eq!(editor.ask(4, "textDocument/codeAction", &quick)["result"], json!([]));

    let mended = json!({"textDocument": {"uri": uri, "version": 2}, "contentChanges": [{"text": "# T\n\nFine.\n"}]});
    editor.notify("textDocument/didChange", &mended);
    assert_eq!(editor.receive()["params"]["diagnostics"], json!([]));
    editor.send("{ no JSON");
    assert_eq!(editor.receive()["error"]["code"], -32700);
    assert_eq!(editor.ask(5, "textDocument/hover", &json!({}))["error"]["code"], -32601);
    editor.notify("textDocument/didClose", &json!({"textDocument": {"uri": uri}}));
    assert_eq!(editor.receive()["params"]["diagnostics"], json!([]));

    assert_eq!(editor.ask(6, "shutdown", &Value::Null)["result"], Value::Null);
    assert_eq!(
        editor.ask(7, "textDocument/codeAction", &json!({}))["error"]["code"],
        -32600
    );
    editor.notify("exit", &Value::Null);
    assert_eq!(editor.end(), Some(0));
}

#[test]
fn settings_that_change_hold_for_what_is_open() {
    let world = TestEnvironment::new();
    world.write("home/prose.toml", "off = ['doubled-word']\n");
    let root = format!("file://{}", world.path("home").display());
    let uri = format!("{root}/a.md");
    let mut editor = Editor::start(&world);
    editor.ask(1, "initialize", &json!({"rootUri": root}));
    editor.notify(
        "textDocument/didOpen",
        &json!({"textDocument": {"uri": uri, "version": 1, "text": "# T\n\nBy the the node.\n"}}),
    );
    assert_eq!(editor.receive()["params"]["diagnostics"], json!([]));
    let saved = json!({"textDocument": {"uri": format!("{root}/prose.toml")}});

    world.write("home/prose.toml", "off = []\n");
    editor.notify("textDocument/didSave", &saved);
    let published = editor.receive();
    assert_eq!(published["params"]["uri"], uri);
    assert_eq!(published["params"]["diagnostics"][0]["code"], "doubled-word");

    // What cannot be read is told, once, and what held before still holds.
    world.write("home/prose.toml", "of = []  # a slip\n");
    editor.notify("textDocument/didSave", &saved);
    let told = editor.receive();
    assert_eq!(told["method"], "window/showMessage");
    assert!(
        told["params"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("`of`")),
        "{told}"
    );
    let change =
        json!({"textDocument": {"uri": uri, "version": 2}, "contentChanges": [{"text": "# T\n\nBy the the.\n"}]});
    editor.notify("textDocument/didChange", &change);
    assert_eq!(editor.receive()["params"]["diagnostics"][0]["code"], "doubled-word");
    assert_eq!(editor.ask(2, "shutdown", &Value::Null)["result"], Value::Null);
    editor.notify("exit", &Value::Null);
    assert_eq!(editor.end(), Some(0));
}

#[test]
fn an_editor_that_goes_away_ends_the_server() {
    let world = TestEnvironment::new();
    assert_eq!(Editor::start(&world).end(), Some(1));
    let mut editor = Editor::start(&world);
    editor
        .to
        .write_all(b"Content-Length: 9999999999\r\n\r\n")
        .expect("written");
    assert_eq!(editor.end(), Some(3));
}
