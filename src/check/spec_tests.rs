use std::path::Path;

use super::*;
use crate::course::chapter::Chapter;

const HEAD: &str = "id: \"02\"\ntitle: t\nworks_after: w\nbudget: 60s\n";
const CRITERIA: &str = "criteria:\n  - id: one\n    text: One works\n    checks: [a]\n";
const CHECK: &str = "checks:\n  - id: a\n    http: {get: \"{{http_url}}/x\", expect: {status: 200}}\n";

fn error(text: &str) -> String {
    match Chapter::parse(text, Path::new("labs/02-x/chapter.yaml")) {
        Ok(_) => panic!("this was taken:\n{text}"),
        Err(diagnosis) => {
            assert_eq!(diagnosis.code, Code::SpecInvalid);
            let message = diagnosis.message;
            message
                .strip_prefix("labs/02-x/chapter.yaml:")
                .unwrap_or(&message)
                .to_owned()
        }
    }
}

fn with_check(check: &str) -> String {
    format!("{HEAD}{CRITERIA}checks:\n{check}")
}

#[test]
fn a_good_chapter_is_taken() {
    let chapter = Chapter::parse(&format!("{HEAD}{CRITERIA}{CHECK}"), Path::new("x")).expect("a chapter");
    assert_eq!(chapter.checks[0].time, Time::Once);
    assert!(chapter.checks[0].cluster && !chapter.checks[0].locked);
    assert_eq!(
        chapter
            .criterion_of("a")
            .map(|(i, criterion)| (i, criterion.id.as_str())),
        Some((0, "one"))
    );
}

#[test]
fn what_is_wrong_with_a_chapter_is_said_with_its_place() {
    let table = [
        (
            format!("{HEAD}criterion: []\n{CHECK}"),
            "5:1: unknown key `criterion`; did you mean `criteria`?",
        ),
        (
            format!("{HEAD}title: again\n{CRITERIA}{CHECK}"),
            "5:1: the key `title` is given twice",
        ),
        (
            format!("{HEAD}criteria: []\n{CHECK}"),
            "5:11: a chapter without criteria judges nothing",
        ),
        (
            format!("{HEAD}criteria:\n  - id: one\n    text: x\n    checks: []\n{CHECK}"),
            "6:9: criterion `one`: no check judges it",
        ),
        (
            format!("{HEAD}criteria:\n  - id: one\n    text: x\n    checks: [aa]\n{CHECK}"),
            "8:14: there is no check `aa`",
        ),
        (
            format!("{HEAD}{CRITERIA}{CHECK}  - id: b\n    http: {{get: http://x/, expect: {{status: 200}}}}\n"),
            "12:9: check `b`: no criterion names it, so nobody would know what it is for",
        ),
        (
            format!("{HEAD}{CRITERIA}{CHECK}  - id: a\n    http: {{get: http://x/, expect: {{status: 200}}}}\n"),
            "12:9: a second check has the id `a`",
        ),
        (
            format!(
                "{HEAD}criteria:\n  - id: one\n    text: x\n    checks: [a]\n  - id: one\n    text: y\n    checks: [a]\n{CHECK}"
            ),
            "9:9: a second criterion has the id `one`",
        ),
        (
            format!("id: two\ntitle: t\nworks_after: w\nbudget: 60s\n{CRITERIA}{CHECK}"),
            "1:5: `two` is not a chapter's id: two digits in quotes",
        ),
        (
            format!("id: \"02\"\ntitle: t\nworks_after: w\nbudget: soon\n{CRITERIA}{CHECK}"),
            "4:9: `soon` is not a length of time such as `500ms`, `90s` or `2m`",
        ),
        (
            format!("id: \"02\"\ntitle: t\nbudget: 60s\n{CRITERIA}{CHECK}"),
            "the key `works_after` is missing",
        ),
    ];
    for (text, expected) in table {
        let said = error(&text);
        assert!(said.ends_with(expected), "{text}\nsaid: {said}\nnot:  {expected}");
    }
}

#[test]
fn what_is_wrong_with_a_check_is_said_with_its_place() {
    let table = [
        (
            "  - id: a\n    htpp: {get: http://x/, expect: {status: 200}}\n",
            "11:5: unknown key `htpp`; did you mean `http`?",
        ),
        (
            "  - id: a\n    http: {get: http://x/, expects: {status: 200}}\n",
            "11:28: unknown key `expects`; did you mean `expect`?",
        ),
        (
            "  - id: a\n    http: {get: http://x/, expect: {}}\n",
            "the key `status` is missing",
        ),
        (
            "  - id: a\n    http: {get: http://x/, expect: {status: 200, status: 201}}\n",
            "11:50: the key `status` is given twice",
        ),
        (
            "  - id: a\n    http: {get: http://x/, expect: {status: {greater: 200}}}\n",
            "11:46: unknown key `greater`; known are `eq`, `ne`, `gt`, `gte`, `lt`, `lte`, `between`, `matches`, `contains`, `missing`, `present`, `len`, `type`, `semver`, `one_of`, `not`, `all`, `any`",
        ),
        (
            "  - id: a\n    http: {get: http://x/, expect: {status: 200, json: {}}}\n",
            "11:56: `{}` asks nothing; give at least one JSONPath with what is expected",
        ),
        (
            "  - id: a\n    http: {get: http://x/, expect: {status: 200, json: {status: ok}}}\n",
            "11:57: `status` is not a JSONPath (RFC 9535), at character 1: ",
        ),
        (
            "  - id: a\n",
            "10:9: check `a`: give exactly one of `k8s`, `http`, `exec`, `file`, `logstream`; there are 0",
        ),
        (
            "  - id: a\n    http: {get: http://x/, expect: {status: 200}}\n    exec: {run: [a], expect: {exit: 0}}\n",
            "10:9: check `a`: give exactly one of `k8s`, `http`, `exec`, `file`, `logstream`; there are 2",
        ),
        (
            "  - id: a\n    http: {expect: {status: 200}}\n",
            "10:9: check `a`: give exactly one of `get`, `post`, `put`, `patch`, `delete`; there are 0",
        ),
        (
            "  - id: a\n    http: {get: /x, expect: {status: 200}}\n",
            "10:9: check `a`: `/x` must be a whole URL, or have a `via` that says which Service to ask",
        ),
        (
            "  - id: a\n    http: {get: http://x/, via: {service: s, namespace: n, port: 80}, expect: {status: 200}}\n",
            "10:9: check `a`: `http://x/` must be a path that begins with `/`, as `via` says which Service to ask",
        ),
        (
            "  - id: a\n    http: {get: http://x/, expect: {status: 200, headers: {X-Y: z}}}\n",
            "10:9: check `a`: write the header `X-Y` in lower case",
        ),
        (
            "  - id: a\n    http: {get: '{{htp_url}}/x', expect: {status: 200}}\n",
            "10:9: check `a`: unknown placeholder `{{htp_url}}`; did you mean `{{http_url}}`?",
        ),
        (
            "  - id: a\n    k8s: {kind: Pod, expect: {}}\n",
            "10:9: check `a`: `expect` asks nothing; give it `condition`, `fields` or `count`",
        ),
        (
            "  - id: a\n    k8s: {kind: Pod, expect: {fresh: true}}\n",
            "10:9: check `a`: `expect` asks nothing; give it `condition`, `fields` or `count`",
        ),
        (
            "  - id: a\n    k8s: {kind: Pod, match: some, expect: {condition: Ready}}\n",
            "11:29: `some` is not one of `all`, `any`, `none`, `exactly N`",
        ),
        (
            "  - id: a\n    k8s: {kind: Pod, match: exactly 0, expect: {condition: Ready}}\n",
            "11:29: `exactly 0` is not one of `all`, `any`, `none`, `exactly N`",
        ),
        (
            "  - id: a\n    k8s: {kind: Pod, expect: {condition: Ready=Yes}}\n",
            "11:42: `Ready=Yes` is not a condition such as `Available` or `Available=False`",
        ),
        (
            "  - id: a\n    k8s: {kind: Pod, expect: {count: 0}}\n",
            "`count` may be 0 here, so nothing at all would pass; name in `needs` a check that shows that there was something to see",
        ),
        (
            "  - id: a\n    exec: {run: [], expect: {exit: 0}}\n",
            "10:9: check `a`: `run` names no program",
        ),
        (
            "  - id: a\n    exec: {run: [kubectl], expect: {}}\n",
            "10:9: check `a`: `expect` asks nothing; give it `exit`, `stdout`, `stderr`, `output` or `json`",
        ),
        (
            "  - id: a\n    needs: [a]\n    exec: {run: [x], expect: {exit: 0}}\n",
            "10:9: `a` needs itself: a -> a",
        ),
        (
            "  - id: a\n    needs: [b]\n    exec: {run: [x], expect: {exit: 0}}\n",
            "11:13: there is no check `b`",
        ),
        (
            "  - id: a\n    lock: clusters\n    exec: {run: [x], expect: {exit: 0}}\n",
            "11:11: unknown word `clusters`; did you mean `cluster`?",
        ),
        (
            "  - id: a\n    once: {}\n    always: {for: 1s}\n    exec: {run: [x], expect: {exit: 0}}\n",
            "10:9: check `a`: give one of `once`, `eventually`, `always`, `never`, not several",
        ),
        (
            "  - id: a\n    eventually: {within: 5s, stable_for: 5s}\n    exec: {run: [x], expect: {exit: 0}}\n",
            "10:9: check `a`: `stable_for` must be shorter than `within`, or it can never be reached",
        ),
        (
            "  - id: a\n    never: {for: 5s}\n    exec: {run: [x], expect: {exit: 0}}\n",
            "the key `after` is missing",
        ),
        (
            "  - id: a\n    never: {for: 5s, after: before}\n    exec: {run: [x], expect: {exit: 0}}\n",
            "11:29: there is no check `before`",
        ),
        (
            "  - id: a\n    exec: {run: [x], expect: {exit: 0}}\n    because: [{when: {}, say: x}]\n",
            "10:9: check `a`: `when: {}` fits everything; give it `fields` or `candidates`",
        ),
    ];
    let mut wrong = String::new();
    for (check, expected) in table {
        let said = error(&with_check(check));
        if !said.contains(expected) {
            wrong = format!("{wrong}{check}said: {said}\nnot:  {expected}\n\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_circle_of_needs_is_said_as_it_goes() {
    let one = |id: &str, need: &str| {
        format!("  - id: {id}\n    needs: [{need}]\n    exec: {{run: [x], expect: {{exit: 0}}}}\n")
    };
    let text = with_check(&(one("a", "b") + &one("b", "c") + &one("c", "a")));
    assert_eq!(error(&text), "10:9: `a` needs itself: a -> b -> c -> a");
}

#[test]
fn text_that_is_no_yaml_is_placed_too() {
    let said = error("id: \"02\"\n title: [\n");
    assert!(said.starts_with("2:") || said.starts_with("3:"), "{said}");
}

#[test]
fn never_needs_its_witness() {
    let text = format!(
        "{HEAD}criteria:\n  - id: one\n    text: x\n    checks: [a, b]\n{CHECK}  - id: b\n    never: {{for: 1s, after: a}}\n    exec: {{run: [x], expect: {{exit: 0}}}}\n"
    );
    let chapter = Chapter::parse(&text, Path::new("x")).expect("a chapter");
    assert_eq!(chapter.checks[1].needs, ["a"]);
}
