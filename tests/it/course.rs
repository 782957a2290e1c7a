//! Working on a chapter as a learner does: start, fail, get a hint, pass, compare, solve, reset; and its selftest.
//!
//! The chapter is one of the tests' own that needs no cluster: a server in Python that greets and counts slowly.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Output, TestEnvironment};

const CHAPTER: &str = r#"
id: "90"
title: Greet
works_after: GET /hello greets, and GET /count counts while you watch.
budget: 10s
lab: false
serve:
  run: [python3, server.py]
criteria:
  - {id: greets, text: GET /hello greets, checks: [hello, hello-name]}
  - {id: counts, text: GET /count counts while you watch, checks: [count]}
  - {id: notes, text: Your notes say what you learned, checks: [notes]}
checks:
  - id: hello
    cluster: false
    http:
      get: "{{url}}/hello"
      expect: {status: 200, json: {$.greeting: hello}}
    save: {who: $.json.who}
    because:
      - when: {fields: {$.status: 404}}
        say: the server runs and does not know the path
    read: chapter 90, "Paths"
    hints: [look at what the server does with a path, "it answered {{actual}}, not {{expected}}", compare the path with /hello]
  - id: hello-name
    needs: [hello]
    cluster: false
    http:
      get: "{{url}}/hello/{{who}}"
      expect: {status: 200, json: {$.greeting: "hello {{who}}"}}
  - id: count
    cluster: false
    logstream:
      get: "{{url}}/count"
      read_for: 3s
      expect:
        status: 200
        lines: ["1", "2", "3"]
        spread_ms: {gte: 200}
        ended: true
  - id: notes
    cluster: false
    file:
      path: "{{workspace}}/notes.yaml"
      expect: {documents: {"$[0].learned": {type: string}}}
"#;

const SERVER: &str = r#"
import http.server, json, os, time

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/hello":
            self.answer(200, {"greeting": "hello", "who": "ada"})
        elif self.path.startswith("/hello/"):
            self.answer(200, {"greeting": "hello " + self.path[7:]})
        elif self.path == "/count":
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            for n in (1, 2, 3):
                self.wfile.write(f"{n}\n".encode())
                self.wfile.flush()
                time.sleep(0.15)
        else:
            self.answer(404, {"error": "no such path"})

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

const SELFTEST: &str = r#"
at_start: {greets: hello, counts: count, notes: notes}
alternatives:
  - id: fast
    what: it counts faster
    edit: [{file: server.py, find: sleep(0.15), put: sleep(0.12)}]
faults:
  - id: no-path
    breaks: the path is another
    edit: [{file: server.py, find: 'self.path == "/hello"', put: 'self.path == "/hallo"'}]
    caught_by: [hello]
  - id: other-word
    breaks: the greeting is another
    edit: [{file: server.py, find: '"greeting": "hello",', put: '"greeting": "hi",'}]
    caught_by: [hello]
  - id: no-name
    breaks: the name is forgotten
    edit: [{file: server.py, find: '"hello " + self.path[7:]', put: '"hello"'}]
    caught_by: [hello-name]
  - id: dump
    breaks: it counts at once
    edit: [{file: server.py, find: time.sleep(0.15), put: pass}]
    caught_by: [count]
  - id: four
    breaks: it counts to four
    edit: [{file: server.py, find: "(1, 2, 3)", put: "(1, 2, 3, 4)"}]
    caught_by: [count]
  - id: no-notes
    breaks: there are no notes
    edit: [{file: notes.yaml, find: "learned: much", put: "learned: [much]"}]
    caught_by: [notes]
  - id: other-notes
    breaks: the notes say something else
    edit: [{file: notes.yaml, find: "learned: much", put: "forgot: much"}]
    caught_by: [notes]
unproven:
  count status: a stream of another status is not part of this test
  hello status: the body proves more
  hello content_type: the body proves more
  hello-name status: the body proves more
  hello-name content_type: the body proves more
  count ended: a stream that goes on is not part of this test
"#;

/// Makes the world of a learner: the chapter, and a start whose server knows no path.
fn world() -> TestEnvironment {
    let mut world = TestEnvironment::new();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", world.path("bin").display());
    world.set("PATH", path);
    let start = SERVER.replace("/hello", "/todo").replace("/count", "/todo-too");
    for (name, text) in [
        ("chapter.yaml", CHAPTER),
        ("selftest.yaml", SELFTEST),
        ("README.md", "# 90 Greet\n"),
        ("start/server.py", start.as_str()),
        ("solution/server.py", SERVER),
        ("solution/notes.yaml", "learned: much\n"),
    ] {
        world.write(&format!("labs/90-greet/{name}"), text);
    }
    world
}

fn chapter(world: &TestEnvironment, words: &[&str]) -> Output {
    let labs = world.path("labs").display().to_string();
    let mut args = vec!["chapter", "--labs", &labs];
    args.extend(words);
    world.run(&args)
}

/// Returns the verdict of each check.
fn verdicts(output: &Output) -> Vec<(String, String)> {
    output
        .json()
        .iter()
        .filter(|event| event["event"] == "check-judged")
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            (text("check"), text("verdict"))
        })
        .collect()
}

fn mine(world: &TestEnvironment, name: &str) -> String {
    let dir = world.path("home").join("work").join("90-greet");
    dir.join(name).display().to_string()
}

#[test]
fn a_chapter_that_was_never_started_says_how_to_start_it() {
    let world = world();
    let output = chapter(&world, &["90", "verify"]);
    assert_eq!(output.exit, Some(2), "{output}");
    assert!(
        output
            .stderr
            .contains("error[LAB-USE-006]: chapter 90 was never started"),
        "{output}"
    );
    assert!(output.stderr.contains("hint: labctl chapter 90 start"), "{output}");
    for verb in ["solve", "reset", "diff"] {
        let output = chapter(&world, &["90", verb]);
        assert_eq!(output.exit, Some(2), "{verb}: {output}");
    }
    assert!(!world.path("home/work").exists(), "nothing was made");
}

#[test]
fn a_learner_starts_fails_is_helped_and_passes() {
    let world = world();
    let output = chapter(&world, &["90", "start"]);
    assert_eq!(output.exit, Some(0), "{output}");
    assert!(output.stderr.contains("labctl chapter 90 verify"), "{output}");

    let output = chapter(&world, &["90", "verify"]);
    assert_eq!(output.exit, Some(1), "{output}");
    assert!(
        output
            .stderr
            .contains("so        the server runs and does not know the path"),
        "{output}"
    );
    assert!(
        output.stderr.contains("next      read chapter 90, \"Paths\""),
        "{output}"
    );
    assert!(
        output.stderr.contains("actual    none: there is no such file"),
        "{output}"
    );

    for (n, text) in [
        (1, "look at what the server does"),
        (2, "it answered 404, not 200"),
        (3, "compare the path"),
    ] {
        let output = chapter(&world, &["90", "hint"]);
        assert_eq!(output.exit, Some(0), "{output}");
        assert!(
            output.stdout.starts_with(&format!("hello (hint {n} of 3)\n")),
            "{output}"
        );
        assert!(output.stdout.contains(text), "{output}");
    }
    let output = chapter(&world, &["90", "verify", "--explain", "hello"]);
    assert!(output.stdout.contains("criterion 1: GET /hello greets"), "{output}");
    assert!(output.stdout.contains("last      fail: 404"), "{output}");

    // The reference is the answer: it is not shown before the chapter passes.
    let output = chapter(&world, &["90", "diff"]);
    assert_eq!(output.exit, Some(2), "{output}");
    let output = chapter(&world, &["90", "diff", "--anyway"]);
    assert!(output.stdout.contains("+++ reference/server.py"), "{output}");

    world.write(&mine(&world, "server.py"), SERVER);
    world.write(&mine(&world, "notes.yaml"), "learned: a lot\n");
    let output = chapter(&world, &["90", "verify", "--json"]);
    assert_eq!(output.exit, Some(0), "{output}");
    assert!(
        verdicts(&output).iter().all(|(_, verdict)| verdict == "pass"),
        "{output}"
    );
    let output = chapter(&world, &["90", "diff"]);
    assert!(output.stdout.contains("-learned: a lot\n+learned: much\n"), "{output}");

    let output = chapter(&world, &["list"]);
    assert!(output.stdout.contains("90  Greet  [3 of 3]"), "{output}");
    let progress = std::fs::read_to_string(world.path("home").join("work").join("progress.txt")).expect("written");
    for line in [" 90 started\n", " 90 met greets\n", " 90 hint hello 3\n"] {
        assert!(progress.contains(line), "{line}: {progress}");
    }
}

#[test]
fn what_the_learner_wrote_survives_solve_and_reset() {
    let world = world();
    assert_eq!(chapter(&world, &["90", "start"]).exit, Some(0));
    world.write(&mine(&world, "server.py"), "my own\n");
    let output = chapter(&world, &["90", "start"]);
    assert!(
        output.stderr.contains("1 were there already and are as you left them"),
        "{output}"
    );
    let read = |name: &str| std::fs::read_to_string(mine(&world, name)).expect("there");
    assert_eq!(read("server.py"), "my own\n");
    let output = chapter(&world, &["90", "solve"]);
    assert_eq!(output.exit, Some(0), "{output}");
    assert_eq!(read("server.py"), SERVER);
    assert_eq!(chapter(&world, &["90", "verify"]).exit, Some(0));
    assert_eq!(chapter(&world, &["90", "reset"]).exit, Some(0));
    assert!(read("server.py").contains("/todo"));
    let saved = labctl::drive::files::walk(&world.path("home").join("work").join(".saved")).expect("there");
    let texts: Vec<_> = saved
        .iter()
        .map(|path| std::fs::read_to_string(path).expect("readable"))
        .collect();
    assert!(texts.contains(&"my own\n".to_owned()), "{saved:?}");
}

#[test]
fn a_server_that_does_not_run_fails_with_its_own_words() {
    let world = world();
    assert_eq!(chapter(&world, &["90", "start"]).exit, Some(0));
    world.write(
        &mine(&world, "server.py"),
        "import sys\nsys.exit('no module called luck')\n",
    );
    let output = chapter(&world, &["90", "verify", "--only", "hello"]);
    assert_eq!(output.exit, Some(1), "{output}");
    assert!(
        output.stderr.contains("server    your server ended at once (exit 1)"),
        "{output}"
    );
    assert!(output.stderr.contains("no module called luck"), "{output}");
    let output = chapter(
        &world,
        &["90", "verify", "--only", "hello", "--url", "http://127.0.0.1:9"],
    );
    assert!(
        output.stderr.contains("connection refused: nothing listens there"),
        "{output}"
    );
    assert!(!output.stderr.contains("your server"), "{output}");
}

#[test]
fn verdicts_are_written_as_tap_too() {
    let world = world();
    assert_eq!(chapter(&world, &["90", "start"]).exit, Some(0));
    let file = world.path("home/out.tap").display().to_string();
    assert_eq!(chapter(&world, &["90", "verify", "--tap", &file]).exit, Some(1));
    let text = std::fs::read_to_string(&file).expect("written");
    assert!(
        text.starts_with("TAP version 13\n1..4\nnot ok 1 - hello - 90 greets: GET /hello greets\n"),
        "{text}"
    );
    assert!(
        text.contains("not ok 2 - hello-name - 90 greets: GET /hello greets # SKIP\n"),
        "{text}"
    );
}

#[test]
fn watching_sees_a_change_within_a_second_and_ends_when_all_is_met() {
    let world = world();
    assert_eq!(chapter(&world, &["90", "start"]).exit, Some(0));
    let labs = world.path("labs").display().to_string();
    let mut child = world
        .command(&["chapter", "--labs", &labs, "90", "verify", "--watch", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("labctl starts");
    let (told, lines) = std::sync::mpsc::channel::<Value>();
    let out = child.stdout.take().expect("piped");
    let reader = std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(out)).map_while(Result::ok) {
            _ = told.send(serde_json::from_str(&line).expect("JSON"));
        }
    });
    let wait_for = |check: &str, verdict: &str| {
        let start = Instant::now();
        while let Ok(event) = lines.recv_timeout(Duration::from_secs(20)) {
            if event["check"] == check && event["verdict"] == verdict {
                return start.elapsed();
            }
        }
        panic!("{check} never became {verdict}");
    };
    wait_for("notes", "fail");
    std::thread::sleep(Duration::from_millis(500));
    world.write(&mine(&world, "notes.yaml"), "learned: a lot\n");
    let took = wait_for("notes", "pass");
    world.write(&mine(&world, "server.py"), SERVER);
    wait_for("count", "pass");
    let status = child.wait().expect("it ends");
    reader.join().expect("the reader ends");
    assert_eq!(status.code(), Some(0));
    // A change is seen in 0.2 s; the rest is the start of Python, on a machine that runs other tests too.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn the_selftest_of_a_sound_chapter_passes_and_says_what_each_check_caught() {
    let world = world();
    let seen = world.path("home/seen").display().to_string();
    let output = chapter(&world, &["selftest", "90", "--json", "--record", &seen]);
    assert_eq!(output.exit, Some(0), "{output}");
    let events = output.json();
    let matrices = events
        .iter()
        .find(|event| event["matrices"].is_array())
        .expect("a matrix");
    let matrix = &matrices["matrices"][0];
    assert_eq!(matrix["survivors"], serde_json::json!([]), "{matrix}");
    let rows = matrix["rows"].as_array().expect("rows");
    let row = |name: &str| {
        rows.iter()
            .find(|row| row["world"] == name)
            .unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(row("start")["verdicts"]["hello"], "fail");
    assert_eq!(row("start")["verdicts"]["hello-name"], "skip");
    assert_eq!(row("fault dump")["verdicts"]["count"], "fail");
    assert_eq!(row("fault dump")["verdicts"]["hello"], "pass");
    assert_eq!(row("mended")["verdicts"]["count"], "pass");

    // One world tried again takes the place of what was recorded of it, and nothing else is lost.
    let file = world.path("home/seen/90.json");
    let before = std::fs::read_to_string(&file).expect("recorded");
    let output = chapter(&world, &["selftest", "90", "--only", "dump", "--record", &seen]);
    assert_eq!(output.exit, Some(0), "{output}");
    let after = std::fs::read_to_string(&file).expect("recorded");
    for world in ["\"start\"", "\"solution\"", "\"fault dump\"", "\"fault no-name\""] {
        assert_eq!(before.matches(world).count(), after.matches(world).count(), "{world}");
    }

    // What was seen is judged again without a server; a spec that has become weaker is found.
    let output = chapter(&world, &["selftest", "90", "--replay", &seen]);
    assert_eq!(output.exit, Some(0), "{output}");
    let weak = CHAPTER.replace(r#"{status: 200, json: {$.greeting: "hello {{who}}"}}"#, "{status: 200}");
    world.write("labs/90-greet/chapter.yaml", weak);
    let output = chapter(&world, &["selftest", "90", "--replay", &seen]);
    assert_eq!(output.exit, Some(1), "{output}");
    assert!(
        output
            .stderr
            .contains("fault no-name: hello-name passes now, and failed when"),
        "{output}"
    );
}

#[test]
fn the_selftest_finds_a_check_that_cannot_fail_and_a_fault_that_nobody_catches() {
    let world = world();
    let weak = CHAPTER
        .replace("        spread_ms: {gte: 200}\n", "")
        .replace(r#"lines: ["1", "2", "3"]"#, "lines: {len: {gte: 1}}");
    world.write("labs/90-greet/chapter.yaml", weak);
    let output = chapter(&world, &["selftest", "90"]);
    assert_eq!(output.exit, Some(1), "{output}");
    assert!(output.stderr.contains("count is pass, must fail"), "{output}");

    world.write("labs/90-greet/chapter.yaml", CHAPTER);
    let unproven = SELFTEST.replace("  count ended: a stream that goes on is not part of this test\n", "");
    world.write("labs/90-greet/selftest.yaml", unproven);
    let output = chapter(&world, &["selftest", "90"]);
    assert_eq!(output.exit, Some(1), "{output}");
    assert!(
        output
            .stdout
            .contains("survivor: check count: no fault needs its `ended`"),
        "{output}"
    );

    let twice = SELFTEST.replace("find: time.sleep(0.15)", "find: self");
    world.write("labs/90-greet/selftest.yaml", twice);
    let output = chapter(&world, &["selftest", "90"]);
    assert!(output.stderr.contains("must occur once"), "{output}");
}
