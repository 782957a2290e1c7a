//! The schemas of the course's files: they accept what is there, refuse what labctl refuses, and name the same keys.

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::harness::{TestEnvironment, checkout};

fn schema(name: &str) -> Value {
    let path = checkout().join(format!("assets/schema/{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("readable")).expect("JSON")
}

fn validator(name: &str) -> Validator {
    jsonschema::validator_for(&schema(name)).expect("a sound schema")
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("YAML")
}

/// Returns the texts of all files of this name in the chapters' folders.
fn all(name: &str) -> Vec<(String, String)> {
    let labs = std::fs::read_dir(checkout().join("labs")).expect("readable");
    let mut found: Vec<_> = labs
        .map(|entry| entry.expect("readable").path().join(name))
        .filter(|path| path.exists())
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("readable");
            (path.display().to_string(), text)
        })
        .collect();
    found.sort();
    found
}

#[test]
fn every_chapter_and_selftest_is_as_its_schema_says() {
    for (schema, file) in [("chapter", "chapter.yaml"), ("selftest", "selftest.yaml")] {
        let validator = validator(schema);
        let files = all(file);
        assert!(schema != "chapter" || files.len() >= 3);
        for (path, text) in files {
            let errors: Vec<_> = validator
                .iter_errors(&yaml(&text))
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{path}: {errors:#?}");
        }
    }
}

#[test]
fn the_schema_refuses_what_labctl_refuses() {
    let validator = validator("chapter");
    let (_, text) = all("chapter.yaml").remove(0);
    let good = yaml(&text);
    assert!(validator.is_valid(&good));
    let broken: [(&str, fn(&mut Value)); 7] = [
        ("a key too many", |v| v["titel"] = json!("x")),
        ("no criteria", |v| v["criteria"] = json!([])),
        ("a criterion without a check", |v| v["criteria"][0]["checks"] = json!([])),
        ("two kinds", |v| {
            v["checks"][0]["file"] = json!({"path": "x", "expect": {"size": 1}});
        }),
        ("an empty expectation", |v| v["checks"][0]["exec"]["expect"] = json!({})),
        ("two hints", |v| v["checks"][0]["hints"] = json!(["a", "b"])),
        ("an unknown matcher", |v| v["checks"][0]["exec"]["expect"] = json!({"exit": {"above": 3}})),
    ];
    for (what, breaks) in broken {
        let mut bad = good.clone();
        bad["checks"][0] = json!({"id": "a", "exec": {"run": ["true"], "expect": {"exit": 0}}});
        assert!(validator.is_valid(&bad), "the base of `{what}`");
        breaks(&mut bad);
        assert!(!validator.is_valid(&bad), "{what}");
    }
}

/// labctl itself says which keys it knows when it meets one that it does not; the schema must have the same.
#[test]
fn the_schema_names_the_keys_that_labctl_knows() {
    let world = TestEnvironment::new();
    let chapter = schema("chapter");
    let properties = |value: &Value| -> Vec<String> {
        let keys = value["properties"].as_object().expect("properties").keys();
        let mut keys: Vec<String> = keys.cloned().collect();
        keys.sort();
        keys
    };
    let at = |place: &str| chapter.pointer(place).unwrap_or_else(|| panic!("{place}"));
    let check = |inner: &str| {
        format!(
            "id: \"90\"\ntitle: t\nworks_after: w\nbudget: 1s\ncriteria: [{{id: c, text: t, checks: [a]}}]\nchecks:\n  - {inner}\n"
        )
    };
    let cases = [
        ("", "zzzzzzzz: 1\n".to_owned()),
        ("/properties/criteria/items", "criteria: [{zzzzzzzz: 1}]\n".to_owned()),
        ("/properties/setup", "setup: {zzzzzzzz: 1}\n".to_owned()),
        ("/$defs/step", "setup: {start: [{zzzzzzzz: 1}]}\n".to_owned()),
        ("/$defs/serve", "serve: {zzzzzzzz: 1}\n".to_owned()),
        ("/$defs/check", check("{id: a, zzzzzzzz: 1}")),
        ("/$defs/k8s", check("{id: a, k8s: {zzzzzzzz: 1}}")),
        ("/$defs/k8s/properties/expect", check("{id: a, k8s: {expect: {zzzzzzzz: 1}}}")),
        ("/$defs/http", check("{id: a, http: {zzzzzzzz: 1}}")),
        ("/$defs/http/properties/expect", check("{id: a, http: {expect: {zzzzzzzz: 1}}}")),
        ("/$defs/exec", check("{id: a, exec: {zzzzzzzz: 1}}")),
        ("/$defs/exec/properties/expect", check("{id: a, exec: {expect: {zzzzzzzz: 1}}}")),
        ("/$defs/file", check("{id: a, file: {zzzzzzzz: 1}}")),
        ("/$defs/file/properties/expect", check("{id: a, file: {expect: {zzzzzzzz: 1}}}")),
        ("/$defs/logstream", check("{id: a, logstream: {zzzzzzzz: 1}}")),
        ("/$defs/logstream/properties/expect", check("{id: a, logstream: {expect: {zzzzzzzz: 1}}}")),
        ("/$defs/rule", check("{id: a, because: [{zzzzzzzz: 1}]}")),
        ("/$defs/when", check("{id: a, because: [{when: {zzzzzzzz: 1}}]}")),
    ];
    for (place, text) in cases {
        world.write("labs/90-x/chapter.yaml", text);
        let labs = world.path("labs").display().to_string();
        let output = world.run(&["chapter", "--labs", &labs, "90", "verify"]);
        let known = output.stderr.split("known are ").nth(1);
        let known = known.unwrap_or_else(|| panic!("{place}: {output}"));
        let mut names: Vec<String> = known
            .lines()
            .next()
            .unwrap_or_default()
            .split(", ")
            .map(|name| name.trim_matches('`').to_owned())
            .collect();
        names.sort();
        assert_eq!(names, properties(at(place)), "{place}");
    }
}
