//! `labctl chapter` as users see it.

use std::fmt::Write as _;

use crate::harness::TestEnvironment;

const HEAD: &str = "id: \"90\"\ntitle: Try\nworks_after: nothing\nbudget: 10s\ncriteria:\n  - {id: one, text: Programs end well, checks: [CHECKS]}\nchecks:\n";

/// Writes a chapter whose checks run programs of the world; returns the folder of chapters.
fn chapter(world: &TestEnvironment, checks: &[(&str, &str, &str)]) -> String {
    for (id, script, _) in checks {
        world.program(&format!("program-{id}"), script);
    }
    let ids: Vec<_> = checks.iter().map(|(id, ..)| *id).collect();
    let mut text = HEAD.replace("CHECKS", &ids.join(", "));
    for (id, _, more) in checks {
        _ = write!(
            text,
            "  - id: {id}\n    cluster: false\n    exec: {{run: [program-{id}], expect: {{exit: 0}}}}\n{more}"
        );
    }
    world.write("labs/90-try/chapter.yaml", text);
    world.path("labs").display().to_string()
}

#[test]
fn the_chapters_are_listed_for_people_and_for_programs() {
    let world = TestEnvironment::new();
    let output = world.run(&["chapter", "list"]);
    assert_eq!((output.exit, output.stderr.as_str()), (Some(0), ""), "{output}");
    let document = world.run(&["chapter", "list", "--json"]).json().remove(0);
    let chapters = document["chapters"].as_array().expect("chapters");
    assert!(chapters.len() >= 3, "{document}");
    for chapter in chapters {
        let line = format!(
            "{}  {}",
            chapter["id"].as_str().expect("an id"),
            chapter["title"].as_str().expect("a title")
        );
        assert!(output.stdout.contains(&line), "{line}");
        assert!(
            chapter["criteria"].as_array().is_some_and(|all| !all.is_empty()),
            "{chapter}"
        );
    }
}

#[test]
fn a_chapter_that_is_not_there_is_a_usage_error() {
    let world = TestEnvironment::new();
    for words in [["chapter", "99", "verify"], ["chapter", "verify", "99"]] {
        let output = world.run(&words);
        assert_eq!((output.exit, output.stdout.as_str()), (Some(2), ""), "{output}");
        assert!(
            output
                .stderr
                .starts_with("error[LAB-USE-002]: there is no chapter `99`\n"),
            "{output}"
        );
        assert!(output.stderr.contains("01-kind-cluster"), "{output}");
    }
}

#[test]
fn without_a_cluster_nothing_passes_and_the_exit_code_is_3() {
    let world = TestEnvironment::new();
    for id in ["01", "02", "03"] {
        let output = world.run(&["chapter", id, "verify"]);
        assert_eq!(output.exit, Some(3), "{output}");
        let verdicts = |word: &str| output.stderr.lines().filter(|line| line.starts_with(word)).count();
        assert!(verdicts("ERROR ") >= 5, "{output}");
        assert_eq!(verdicts("PASS ") + verdicts("FAIL ") + verdicts("SKIP "), 0, "{output}");
        assert_eq!(output.stderr.matches("labctl up makes it").count(), 1, "{output}");
    }
}

#[test]
fn pass_fail_error_and_skip_are_four_different_things() {
    let world = TestEnvironment::new();
    let labs = chapter(
        &world,
        &[
            ("good", "exit 0", ""),
            (
                "bad",
                "echo it is broken >&2; exit 4",
                "    because: [{when: {fields: {$.exit: 4}}, say: four means broken}]\n",
            ),
            ("after-bad", "exit 0", "    needs: [bad]\n"),
            ("gone", "exit 0", ""),
        ],
    );
    std::fs::remove_file(world.path("bin/program-gone")).expect("removed");
    let output = world.run(&["chapter", "--labs", &labs, "90", "verify"]);
    let times = regex::Regex::new(r"\d+\.\d+s|\$TIME").expect("an expression");
    insta::assert_snapshot!(times.replace_all(&output.to_string(), "T"), @r"
    exit 1
    ----- stderr
    PASS  90/good Programs end well T
    FAIL  90/bad (criterion 1 of 1: Programs end well; T)
      asked     program-bad
      at        exit
      expected  0
      actual    4: it is broken
      so        four means broken
      next      labctl chapter 90 verify --only bad
    SKIP  90/after-bad Programs end well T
      skipped   as `bad` failed
    ERROR 90/gone (criterion 1 of 1: Programs end well; T)
      asked     program-gone
      could not be judged: could not run `program-gone`: start `program-gone`: No such file or directory (os error 2)
      next      labctl chapter 90 verify --only gone
    90 Try: 1 of 4 checks pass, 1 fails, 1 cannot be judged, 1 skipped (T)
    ");
    let only = |check: &str| {
        world
            .run(&["chapter", "--labs", &labs, "verify", "90", "--only", check])
            .exit
    };
    assert_eq!(only("good"), Some(0));
    assert_eq!(only("after-bad"), Some(1), "what it needs is judged too");
    assert_eq!(only("gone"), Some(3));
    assert_eq!(only("nowhere"), Some(2));
}

#[test]
fn programs_read_verdicts_as_json_and_as_junit() {
    let world = TestEnvironment::new();
    let labs = chapter(&world, &[("good", "exit 0", ""), ("bad", "exit 4", "")]);
    let file = world.path("junit.xml").display().to_string();
    let output = world.run(&["chapter", "90", "verify", "--labs", &labs, "--json", "--junit", &file]);
    assert_eq!((output.exit, output.stderr.as_str()), (Some(1), ""), "{output}");
    let verdicts: Vec<_> = output
        .json()
        .into_iter()
        .filter(|event| event["event"] == "check-judged")
        .map(|event| format!("{} {} {}", event["check"], event["verdict"], event["reason"]))
        .collect();
    assert_eq!(verdicts, [r#""good" "pass" "held""#, r#""bad" "fail" "unmet""#]);
    let junit = std::fs::read_to_string(file).expect("written");
    assert!(
        junit.contains("tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"0\""),
        "{junit}"
    );
}

#[test]
fn a_misspelt_key_is_refused_with_its_place() {
    let world = TestEnvironment::new();
    let labs = chapter(&world, &[("good", "exit 0", "    evntually: {within: 5s}\n")]);
    let output = world.run(&["chapter", "--labs", &labs, "90", "verify"]);
    assert_eq!(output.exit, Some(2), "{output}");
    let said = "error[LAB-SPEC-002]: $TEST/labs/90-try/chapter.yaml:11:5: unknown key `evntually`; did you mean `eventually`?\n";
    assert_eq!(output.stderr, said);
}
