use serde_json::json;

use super::*;

fn template(parameters: Value, job: Value) -> Template {
    Template {
        name: "t".to_owned(),
        description: String::new(),
        parameters,
        allow_rerun: true,
        job,
    }
}

fn arguments(value: &Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn pointers(faults: &[Fault]) -> Vec<&str> {
    faults.iter().map(|fault| fault.pointer.as_str()).collect()
}

fn greeting() -> Template {
    template(
        json!({
            "type": "object",
            "required": ["who"],
            "properties": {
                "who": {"type": "string", "minLength": 1},
                "count": {"type": "integer", "minimum": 1, "maximum": 5, "default": 2},
                "flags": {"type": "array", "items": {"type": "string"}},
                "token": {"type": "string", "format": "password", "minLength": 4},
                "seconds": {"type": "integer"},
                "dry": {"type": "boolean"},
            },
        }),
        json!({
            "name": "greet-${{ who }}",
            "command": ["greet", "${{ flags }}", "--who=${{who}}", "${{ who }}", "${{ count }}", "$${{ who }}"],
            "env": {"TOKEN": "${{ token }}", "DRY": "${{ dry }}"},
            "limits": {"seconds": "${{ seconds }}"},
        }),
    )
}

#[test]
fn arguments_become_parts_of_the_job_as_they_are() {
    let template = greeting();
    assert_eq!(template.faults(), []);
    let given =
        json!({"who": "ann", "count": 3, "flags": ["-a", "--b c"], "token": "s3cret", "seconds": 7, "dry": true});
    let spec = template.expand(&arguments(&given)).expect("a job");
    assert_eq!(spec.name, "greet-ann");
    assert_eq!(
        spec.command,
        ["greet", "-a", "--b c", "--who=ann", "ann", "3", "${{ who }}"]
    );
    assert_eq!(spec.env["TOKEN"], "s3cret");
    assert_eq!(spec.env["DRY"], "true");
    assert_eq!(spec.limits.seconds, 7);
}

#[test]
fn what_is_not_given_has_its_default_or_is_left_out() {
    let spec = greeting().expand(&arguments(&json!({"who": "ann"}))).expect("a job");
    assert_eq!(spec.command, ["greet", "--who=ann", "ann", "2", "${{ who }}"]);
    assert!(spec.env.is_empty(), "{:?}", spec.env);
    assert_eq!(spec.limits.seconds, 3600);
}

#[test]
fn an_argument_is_never_more_than_one_part_and_never_a_placeholder() {
    let mut template = greeting();
    template.job = json!({"name": "x", "command": ["echo", "${{ who }}", "a ${{ who }} b"]});
    for evil in [
        "; rm -rf /",
        "$(reboot)",
        "`id`",
        "a\nb",
        "${{ token }}",
        "\" '",
        "<script>",
        "--",
    ] {
        let spec = template
            .expand(&arguments(&json!({"who": evil, "token": "s3cret"})))
            .expect("a job");
        assert_eq!(spec.command, ["echo", evil, &format!("a {evil} b")]);
    }
}

#[test]
fn every_bad_argument_is_named() {
    let template = greeting();
    let given = json!({"count": 9, "flags": ["a", 1], "token": "abc", "dry": "yes"});
    let faults = template.expand(&arguments(&given)).expect_err("refused");
    let mut found = pointers(&faults);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "/parameters/count",
            "/parameters/dry",
            "/parameters/flags/1",
            "/parameters/token",
            "/parameters/who"
        ]
    );
    let text = format!("{faults:?}");
    assert!(
        text.contains("it must be at most 5") && text.contains("it must be given"),
        "{text}"
    );
    assert!(!text.contains("abc"), "a secret is in no message: {text}");
    let faults = template
        .expand(&arguments(&json!({"who": "a", "whom": 1})))
        .expect_err("refused");
    assert_eq!(pointers(&faults), ["/parameters/whom"]);
    assert!(faults[0].detail.contains("who, count"), "{faults:?}");
    let long = arguments(&json!({"who": "x".repeat(70_000)}));
    assert_eq!(
        pointers(&template.expand(&long).expect_err("too long")),
        ["/parameters"]
    );
}

#[test]
fn what_makes_no_job_is_said_of_its_parameter() {
    let faults = greeting()
        .expand(&arguments(&json!({"who": "no spaces", "seconds": 0})))
        .expect_err("refused");
    assert_eq!(pointers(&faults), ["/parameters/who", "/parameters/seconds"]);
    assert!(faults[0].detail.contains("`/name`"), "{faults:?}");
    let mut secret = greeting();
    secret.job = json!({"name": "${{ token }}", "command": ["x"]});
    let faults = secret
        .expand(&arguments(&json!({"who": "a", "token": "hunter 2"})))
        .expect_err("refused");
    assert!(!format!("{faults:?}").contains("hunter"), "{faults:?}");
}

#[test]
fn secrets_are_not_kept() {
    let shown = greeting().shown(&arguments(&json!({"who": "a", "token": "s3cret"})));
    assert_eq!(Value::Object(shown), json!({"who": "a"}));
}

#[test]
fn a_schema_that_could_do_harm_or_is_none_is_refused() {
    let at = |schema: Value| -> Vec<String> {
        let found = template(schema, json!({"name": "x", "command": ["true"]})).faults();
        found.into_iter().map(|fault| fault.pointer).collect()
    };
    let property = |schema: Value| json!({"type": "object", "properties": {"a": schema}});
    assert_eq!(at(json!({"type": "object"})), [] as [&str; 0]);
    assert_eq!(
        at(property(json!({"$ref": "#/$defs/x"}))),
        ["/parameters/properties/a/$ref"],
        "leads nowhere"
    );
    let whole =
        json!({"type": "object", "$defs": {"x": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/x"}}});
    assert_eq!(at(whole), [] as [&str; 0]);
    for schema in [
        json!(true),
        json!([]),
        json!("x"),
        json!(null),
        json!({}),
        json!({"type": "string"}),
    ] {
        assert_eq!(at(schema.clone()), ["/parameters"], "{schema}");
    }
    for reference in [
        "https://example.org/schema.json",
        "http://127.0.0.1/x",
        "file:///etc/passwd",
        "other.json",
        "#",
        "#/properties/a",
        "#anchor",
        "",
    ] {
        assert_eq!(
            at(property(json!({"$ref": reference}))),
            ["/parameters/properties/a/$ref"],
            "{reference}"
        );
    }
    for keyword in ["$id", "$anchor", "$dynamicRef", "$dynamicAnchor"] {
        let found = at(property(json!({keyword: "#x"})));
        assert_eq!(found, [format!("/parameters/properties/a/{keyword}")]);
    }
    let other = json!({"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"});
    assert_eq!(at(other), ["/parameters/$schema"]);
    // In a circle, and in a tree that grows with every level.
    let circle =
        json!({"type": "object", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"items": {"$ref": "#/$defs/a"}}}});
    assert_eq!(at(circle).len(), 1);
    let mut defs = Map::new();
    for level in 0..30 {
        let next = json!({"$ref": format!("#/$defs/l{}", level + 1)});
        defs.insert(format!("l{level}"), json!({"allOf": [next, next]}));
    }
    defs.insert("l30".to_owned(), json!({"type": "string"}));
    assert_eq!(at(json!({"type": "object", "$defs": defs})).len(), 1);
    // What is not valid, too large, too deep.
    assert_eq!(at(property(json!({"type": "text"}))).len(), 1);
    assert_eq!(
        at(property(json!({"minimum": "1"}))),
        ["/parameters/properties/a/minimum"]
    );
    assert_eq!(at(property(json!({"pattern": "("}))).len(), 1);
    assert_eq!(
        at(property(json!({"pattern": "(a+)+\\1"}))).len(),
        1,
        "patterns take linear time"
    );
    assert_eq!(
        at(property(json!({"pattern": "(x{1000}){1000}"}))).len(),
        1,
        "and little room"
    );
    assert_eq!(
        at(property(json!({"description": "x".repeat(40_000)}))),
        ["/parameters"]
    );
    let mut deep = json!({"type": "string"});
    for _ in 0..40 {
        deep = json!({"items": deep});
    }
    assert_eq!(at(property(deep)).len(), 1);
    let many: Map<String, Value> = (0..65).map(|number| (format!("p{number}"), json!({}))).collect();
    assert_eq!(
        at(json!({"type": "object", "properties": many})),
        ["/parameters/properties"]
    );
    assert_eq!(
        at(json!({"type": "object", "properties": {"a b": {}}})),
        ["/parameters/properties/a b"]
    );
    assert_eq!(
        at(json!({"type": "object", "properties": {"a": true}})),
        ["/parameters/properties/a"]
    );
    assert_eq!(
        at(json!({"type": "object", "properties": []})),
        ["/parameters/properties"]
    );
    assert_eq!(
        at(property(json!({"type": "integer", "default": "x"}))),
        ["/parameters/properties/a/default"]
    );
}

#[test]
fn a_job_that_no_argument_mends_is_refused() {
    let at = |job: Value| -> Vec<String> {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "n": {"type": "integer"}}});
        let found = template(schema, job).faults();
        found.into_iter().map(|fault| fault.pointer).collect()
    };
    assert_eq!(
        at(json!({"name": "${{ a }}", "command": ["${{ a }}"], "retries": "${{ n }}"})),
        [] as [&str; 0]
    );
    assert_eq!(
        at(json!({"name": "x", "command": ["${{ b }}"]})),
        ["/job/command/0"],
        "no such parameter"
    );
    assert_eq!(
        at(json!({"name": "x", "command": ["${{ a"]})),
        ["/job/command/0"],
        "it has no end"
    );
    assert_eq!(at(json!({"name": "x", "command": ["${{ a b }}"]})), ["/job/command/0"]);
    assert_eq!(at(json!({"name": "x", "command": ["${{}}"]})), ["/job/command/0"]);
    assert_eq!(at(json!({"name": "x", "comand": []})).len(), 1, "no such field");
    assert_eq!(at(json!({"name": "no spaces", "command": ["x"]})), ["/job/name"]);
    assert_eq!(
        at(json!({"name": "x", "command": ["x"], "retries": 101})),
        ["/job/retries"]
    );
    for job in [
        json!([]),
        json!("x"),
        json!(null),
        json!({"name": "x", "command": ["x".repeat(140_000)]}),
    ] {
        assert_eq!(at(job), ["/job"]);
    }
}

#[test]
fn placeholders_are_taken_apart() {
    let text = |text| pieces(text).map_or_else(|why| why, |pieces| format!("{pieces:?}"));
    assert_eq!(text("a"), r#"[Text("a")]"#);
    assert_eq!(text("${{a}}${{ b-1 }}"), r#"[Parameter("a"), Parameter("b-1")]"#);
    assert_eq!(text("x$${{ a }}"), r#"[Text("x"), Text("${{"), Text(" a }}")]"#);
    assert_eq!(text("$HOME ${X} {{ y }}"), r#"[Text("$HOME ${X} {{ y }}")]"#);
    assert!(text("${{ 1a }}").contains("must name a parameter"));
}
