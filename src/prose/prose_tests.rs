use std::time::{Duration, Instant};

use super::span::tests::{BITS, Numbers};
use super::*;

fn checker() -> Checker {
    Checker::new(Config::new("/no/such/project"), &Selection::default())
}

/// Makes a checker for which one file is chapter 02 of a course.
fn course() -> Checker {
    let mut checker = checker();
    let chapter = Chapter {
        number: 2,
        works_after: Some("It works.".into()),
        terms: HashSet::new(),
    };
    checker.chapters.insert(PathBuf::from("labs/02-try/README.md"), chapter);
    checker
}

fn found(checker: &Checker, text: &str) -> Vec<String> {
    let report = checker.check(Path::new("/no/such/project/labs/02-try/README.md"), text.as_bytes());
    report
        .findings
        .into_iter()
        .map(|finding| finding.rule.id.clone())
        .collect()
}

#[test]
fn every_rule_finds_its_bad_examples_and_no_good_one() {
    let course = course();
    let mut wrong = Vec::new();
    for rule in Rules::built_in().all() {
        for bad in &rule.bad {
            if !found(&course, bad).contains(&rule.id) {
                wrong.push(format!("{} does not find {bad:?}: {:?}", rule.id, found(&course, bad)));
            }
        }
        for good in &rule.good {
            if found(&course, good).contains(&rule.id) {
                wrong.push(format!("{} finds {good:?}", rule.id));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_can_be_tested_and_says_what_to_do() {
    // Rules that look at more than one text have tests of their own; weak ones are tested by density.
    let elsewhere = ["fence-command", "fence-untested", "passive-share"];
    for rule in Rules::built_in().all() {
        let weak = rule.strength == Strength::Weak;
        assert!(
            weak || !rule.bad.is_empty() || elsewhere.contains(&rule.id.as_str()),
            "{}",
            rule.id
        );
        for text in [&rule.message, &rule.why, &rule.instead] {
            assert!(!text.is_empty(), "{}", rule.id);
        }
        let id = |c: char| c.is_ascii_lowercase() || c == '-';
        assert!(rule.id.chars().all(id), "{}", rule.id);
    }
}

#[test]
fn every_fix_ends_its_finding_and_all_of_them_are_made_once() {
    let course = course();
    let path = Path::new("/no/such/project/labs/02-try/README.md");
    for rule in Rules::built_in().all() {
        for text in rule.bad.iter().chain(&rule.good) {
            let Some((fixed, made)) = course.fix(path, text.as_bytes()) else {
                continue;
            };
            assert!(made > 0);
            assert_ne!(&fixed, text);
            assert_eq!(course.fix(path, fixed.as_bytes()), None, "{text:?} became {fixed:?}");
        }
    }
    let (fixed, _) = course
        .fix(path, b"It is is an an user's recieved the The kubernetes. \n")
        .expect("something to fix");
    assert_eq!(fixed, "It is a user's received the The Kubernetes.\n");
}

#[test]
fn places_words_and_advice_are_exact() {
    let text = "# T\n\nÄ long line, and *it was\nrecieved* here.\n";
    let report = checker().check(Path::new("a.md"), text.as_bytes());
    let [finding] = report.findings.as_slice() else {
        panic!("{:?}", report.findings)
    };
    assert_eq!(finding.rule.id, "spelling");
    assert_eq!((finding.start.line, finding.start.column), (4, 1));
    assert_eq!(
        (finding.words.as_str(), finding.instead.as_str()),
        ("recieved", "write `received`")
    );
    assert_eq!(&text[finding.span.clone()], "recieved");
}

#[test]
fn comments_are_looked_at_and_code_is_not() {
    let text = "// It was recieved, the the end.\nfn recieved() {} // ok\n/* lorem ipsum */\n";
    let report = checker().check(Path::new("a.rs"), text.as_bytes());
    let ids: Vec<&str> = report.findings.iter().map(|finding| finding.rule.id.as_str()).collect();
    assert_eq!(ids, ["spelling", "doubled-word", "placeholder"]);
}

#[test]
fn an_exception_holds_for_what_comes_next_and_no_further() {
    let allow = "<!-- labctl-prose: allow spelling because it quotes a log -->";
    let ids = |text: &str| -> Vec<String> {
        let report = checker().check(Path::new("a.md"), text.as_bytes());
        report
            .findings
            .iter()
            .map(|finding| format!("{}:{}", finding.start.line, finding.rule.id))
            .collect()
    };
    assert_eq!(ids(&format!("{allow}\nrecieved\n\nrecieved\n")), ["4:spelling"]);
    assert_eq!(
        ids(&format!("{allow}\n\n- recieved\n- recieved\n")),
        Vec::<String>::new()
    );
    assert_eq!(ids(&format!("It was recieved. {allow}\n")), Vec::<String>::new());
    assert_eq!(
        ids(&format!(
            "{allow}\n<!-- labctl-prose: allow doubled-word because x -->\nrecieved the the\n"
        )),
        Vec::<String>::new()
    );
    assert_eq!(
        ids(&format!("recieved\n\n{}\n", allow.replace("allow ", "allow-file "))),
        Vec::<String>::new()
    );
    assert_eq!(
        ids("<!-- labctl-prose: allow spelling -->\nrecieved\n"),
        ["1:allow-form", "2:spelling"]
    );
    assert_eq!(
        ids("<!-- labctl-prose: allow speling because x -->\n"),
        ["1:allow-form"]
    );
    assert_eq!(ids(&format!("{allow}\nfine\n")), ["1:allow-unused"]);
    let code =
        "// labctl-prose: allow spelling because it quotes a log\n// recieved\nfn a() {} // recieved\n\n// recieved\n";
    let report = checker().check(Path::new("a.rs"), code.as_bytes());
    let lines: Vec<usize> = report.findings.iter().map(|finding| finding.start.line).collect();
    assert_eq!((lines, report.allowed), (vec![5], 2));
}

#[test]
fn an_exception_for_a_rule_that_did_not_run_is_not_called_unused() {
    let selection = Selection {
        classes: vec![Class::Copyedit],
        ..Selection::default()
    };
    let checker = Checker::new(Config::new("/no/such/project"), &selection);
    let text = "<!-- labctl-prose: allow inflation because it quotes an advertisement -->\nIt is seamless.\n";
    let report = checker.check(Path::new("a.md"), text.as_bytes());
    assert_eq!(report.findings.len(), 0, "{:?}", report.findings);
}

#[test]
fn weak_signs_count_by_density_alone() {
    let filler = "The node asks the server for a list of all its pods and waits. ".repeat(20);
    let few = format!("{filler}It is a pivotal and crucial one.\n");
    let many = format!(
        "{filler}{}\n",
        "It is a pivotal, crucial, intricate, vibrant realm. ".repeat(4)
    );
    let ids = |text: &str| -> Vec<String> {
        let report = checker().check(Path::new("a.md"), text.as_bytes());
        report.findings.iter().map(|finding| finding.rule.id.clone()).collect()
    };
    assert!(!ids(&few).contains(&"vocabulary".to_owned()));
    assert!(ids(&many).contains(&"vocabulary".to_owned()));
    assert_eq!(ids(&many).iter().filter(|id| *id == "vocabulary").count(), 1);
}

#[test]
fn a_rule_that_is_off_is_quiet() {
    let config = Config::parse(
        "off = ['spelling']\n[words]\naccept = ['teh']",
        Path::new("/no/such/project"),
    )
    .expect("good");
    let report = Checker::new(config, &Selection::default()).check(Path::new("a.md"), b"recieved");
    assert!(report.findings.is_empty());
    let config = Config::parse("[words]\naccept = ['recieved']", Path::new("/no/such/project")).expect("good");
    let report = Checker::new(config, &Selection::default()).check(Path::new("a.md"), b"Recieved");
    assert!(report.findings.is_empty());
}

#[test]
fn commands_that_labctl_refuses_are_found() {
    let checker = course().with_commands(|words| (words == ["labctl", "upp"]).then(|| "no such verb".to_owned()));
    let text = "```sh\nlabctl up\nlabctl upp  # comment\nlabctl upp | cat\n```\n";
    let report = checker.check(Path::new("/no/such/project/labs/02-try/README.md"), text.as_bytes());
    let found: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.rule.id == "fence-command")
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].start.line, found[0].message.as_str()),
        (3, "labctl refuses this command: no such verb")
    );
}

#[test]
fn what_is_no_text_is_skipped_with_its_reason() {
    let checker = checker();
    let why = |bytes: &[u8]| checker.check(Path::new("a.md"), bytes).skipped;
    assert_eq!(why(b"a\0b").as_deref(), Some("binary"));
    assert_eq!(why(b"abc\xff \n").as_deref(), Some("not UTF-8 at byte 3"));
    assert_eq!(why(b"fine"), None);
    assert_eq!(checker.fix(Path::new("a.md"), b"abc\xff \n"), None);
}

#[test]
fn no_text_makes_it_panic_and_every_fix_can_be_made() {
    let course = course();
    let mut numbers = Numbers(0xd1b5_4a32_d192_ed03);
    let names = [
        "/no/such/project/labs/02-try/README.md",
        "a.md",
        "a.mdx",
        "a.txt",
        "a.rs",
        "a.py",
        "a.go",
        "a.sh",
        "a.yaml",
        "a.toml",
        "a",
    ];
    for round in 0..2000 {
        let length = numbers.next(60);
        let text: String = (0..length).map(|_| BITS[numbers.next(BITS.len())]).collect();
        let path = Path::new(names[round % names.len()]);
        let report = course.check(path, text.as_bytes());
        for finding in &report.findings {
            assert!(
                text.get(finding.span.clone()).is_some(),
                "{} at {:?} in {text:?}",
                finding.rule.id,
                finding.span
            );
            if let Some(fix) = &finding.fix {
                assert!(text.get(fix.span.clone()).is_some(), "{} in {text:?}", finding.rule.id);
            }
        }
        if let Some((fixed, _)) = course.fix(path, text.as_bytes()) {
            assert_eq!(
                course.fix(path, fixed.as_bytes()),
                None,
                "{path:?} {text:?} became {fixed:?}"
            );
        }
        _ = course.check(path, &text.bytes().map(|byte| byte.rotate_left(1)).collect::<Vec<_>>());
    }
}

/// Returns how long a text of `n` and one of `4n` parts take.
fn growth(make: &dyn Fn(usize) -> String, n: usize, name: &str) -> (Duration, Duration) {
    let checker = course();
    let time = |n: usize| {
        let text = make(n);
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            _ = checker.check(Path::new(name), text.as_bytes());
            best = best.min(start.elapsed());
        }
        best
    };
    (time(n), time(4 * n))
}

#[test]
fn time_grows_with_the_length_alone() {
    type Make = Box<dyn Fn(usize) -> String>;
    let repeat = |part: &'static str| -> Make { Box::new(move |n| part.repeat(n)) };
    let shapes: [(&str, Make); 16] = [
        ("words on one line", repeat("word ")),
        (
            "phrases on one line",
            repeat("not just the the an user recieved, and it's worth noting that "),
        ),
        ("open brackets", repeat("( [ \" ")),
        ("quotes", repeat("> ")),
        ("stars", repeat("*a ")),
        ("underscores", repeat("_a_ __b ")),
        ("links", repeat("[a](b \"c\") [d][e] ")),
        ("open links", repeat("[a](")),
        (
            "backticks",
            Box::new(|n| (0..n).map(|i| "`".repeat(i % 50 + 1) + " ").collect()),
        ),
        ("fences", repeat("```\na\n```\n\n")),
        (
            "nested lists",
            Box::new(|n| {
                (0..n)
                    .flat_map(|i| [" ".repeat(i % 20 * 2), "- a\n".to_owned()])
                    .collect()
            }),
        ),
        ("headings", repeat("# a b\n\n### c\n\n")),
        (
            "comments",
            repeat("<!-- labctl-prose: allow spelling because x -->\n\ntext\n\n"),
        ),
        ("open comments", repeat("<!-- a\n")),
        ("tables", Box::new(|n| format!("|a|b|\n|-|-|\n{}", "|c|d|\n".repeat(n)))),
        ("html", repeat("<a id=\"x\">b</a> ")),
    ];
    for (name, make) in &shapes {
        let (once, four) = growth(make, 2000, "/no/such/project/labs/02-try/README.md");
        // Four times the text may take eight times as long, caches and all, but not sixteen times.
        let limit = (once * 10).max(Duration::from_millis(150));
        assert!(four <= limit, "{name}: {once:?} for 2000 parts, {four:?} for 8000");
    }
    for (path, part) in [
        ("a.rs", "// a comment\n\"a string\" /* b */ r#\"c\"#\n"),
        ("b.rs", "/* "),
        ("a.py", "x = '''a\n'''\n# b\n"),
        ("a.sh", "cat <<EOF\na\nEOF\n# b\n"),
        ("b.sh", "<<A "),
        ("a.yaml", "a: |\n  b\nc: 'd' # e\n"),
        ("b.yaml", "a: '\n"),
        ("a.go", "`a` // b\n"),
        ("b.go", "' a "),
        ("b.py", "'a' "),
        ("c.py", "# it's a "),
        ("c.rs", "'\\a "),
        ("b.toml", "' \" "),
        ("a.txt", "a b\nc d\n\n"),
    ] {
        let make = |n: usize| part.repeat(n);
        let (once, four) = growth(&make, 2000, path);
        let limit = (once * 10).max(Duration::from_millis(150));
        assert!(four <= limit, "{path} {part:?}: {once:?}, then {four:?}");
    }
}
