//! Templates and schedules over HTTP, on pages and from the client: the real server, real processes, a real port.

mod backfill;

use serde_json::{Value, json};

use crate::harness::TestEnvironment;
use crate::jobs::{JSON, in_state, problem, start};
use crate::serve::{Answer, Server, bare};

fn post(server: &Server, path: &str, body: &Value) -> Answer {
    server.ask("POST", path, &[JSON], &body.to_string())
}

fn pointers(answer: &Answer) -> Vec<String> {
    let errors = answer.json()["errors"].as_array().cloned().unwrap_or_default();
    let pointers = errors
        .iter()
        .filter_map(|error| error["pointer"].as_str().map(str::to_owned));
    pointers.collect()
}

fn greet() -> Value {
    json!({
        "name": "greet",
        "description": "Greets <b>somebody</b>",
        "parameters": {
            "type": "object",
            "required": ["who"],
            "properties": {
                "who": {"type": "string", "minLength": 2, "maxLength": 20, "pattern": "^[a-z <>/]+$"},
                "count": {"type": "integer", "minimum": 1, "maximum": 5, "default": 2},
                "token": {"type": "string", "format": "password"},
            },
        },
        "job": {"name": "greet", "command": ["/bin/echo", "hello", "${{ who }}", "${{ count }}"], "env": {"TOKEN": "${{ token }}"}},
    })
}

#[test]
fn the_life_of_a_template() {
    let world = bare();
    let server = start(&world);
    let first = server.ask("GET", "/templates", &[], "").json();
    assert_eq!(first["templates"][0]["name"], "hello", "a new dashboard has one to try");
    let made = post(&server, "/templates", &greet());
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(
        (made.header("location"), made.header("etag")),
        (Some("/templates/greet"), Some("\"1\""))
    );
    problem(&post(&server, "/templates", &greet()), 409, "name-taken");
    let got = server.ask("GET", "/templates/greet", &[], "");
    assert_eq!(got.json()["job"], greet()["job"]);
    assert_eq!(
        server
            .ask("GET", "/templates/greet", &["if-none-match: \"1\""], "")
            .status,
        304
    );

    let key = "idempotency-key: k-1";
    let body = json!({"template": "greet", "parameters": {"who": "ann", "token": "s3cret"}}).to_string();
    let job = server.ask("POST", "/jobs", &[JSON, key], &body);
    assert_eq!(job.status, 201, "{job:?}");
    let id = job.json()["id"].as_str().expect("an id").to_owned();
    let again = server.ask("POST", "/jobs", &[JSON, key], &body);
    assert_eq!(
        (again.header("idempotent-replayed"), &again.json()["id"]),
        (Some("true"), &json!(id))
    );
    let other = server.ask("POST", "/jobs", &[JSON, key], &body.replace("ann", "bob"));
    problem(&other, 422, "idempotency-key-reused");
    let done = in_state(&server, &id, "succeeded");
    assert_eq!(done["template"], "greet");
    assert_eq!(
        done["origin"],
        json!({"template": "greet", "version": 1, "parameters": {"who": "ann"}}),
        "and no secret"
    );
    assert_eq!(done["spec"]["command"], json!(["/bin/echo", "hello", "ann", "2"]));
    let listed = server.ask("GET", "/jobs?template=greet", &[], "").json();
    assert_eq!(listed["jobs"].as_array().map(Vec::len), Some(1));

    let mut changed = greet();
    changed["job"]["command"] = json!(["/bin/echo", "goodbye"]);
    let text = changed.to_string();
    problem(
        &server.ask("PUT", "/templates/greet", &[JSON], &text),
        428,
        "if-match-required",
    );
    problem(
        &server.ask("PUT", "/templates/greet", &[JSON, "if-match: \"9\""], &text),
        412,
        "document-changed",
    );
    let put = server.ask("PUT", "/templates/greet", &[JSON, "if-match: \"1\""], &text);
    assert_eq!((put.status, put.header("etag")), (200, Some("\"2\"")), "{put:?}");
    let any = server.ask("PUT", "/templates/greet", &[JSON, "if-match: *"], &text);
    assert_eq!(any.header("etag"), Some("\"3\""));
    let old = server.ask("GET", "/templates/greet?version=1", &[], "").json();
    assert_eq!(
        (&old["version"], &old["job"]),
        (&json!(1), &greet()["job"]),
        "what made the job"
    );
    problem(
        &server.ask("DELETE", "/templates/greet", &["if-match: \"1\""], ""),
        412,
        "document-changed",
    );
    assert_eq!(server.ask("DELETE", "/templates/greet", &[], "").status, 204);
    problem(&server.ask("GET", "/templates/greet", &[], ""), 404, "no-such-template");
    assert_eq!(server.ask("GET", "/templates/greet?version=1", &[], "").status, 200);
    let rerun = server.ask("POST", &format!("/jobs/{id}/rerun"), &[], "");
    assert_eq!(rerun.status, 201, "{rerun:?}");
    let rerun = rerun.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(
        server.ask("GET", &format!("/jobs/{rerun}"), &[], "").json()["origin"]["version"],
        1
    );
}

#[test]
fn a_template_may_forbid_that_its_jobs_run_again() {
    let world = bare();
    let server = start(&world);
    let mut template = greet();
    template["allow_rerun"] = json!(false);
    assert_eq!(post(&server, "/templates", &template).status, 201);
    assert_eq!(
        server.ask("GET", "/templates/greet", &[], "").json()["allow_rerun"],
        false
    );
    let asked = json!({"template": "greet", "parameters": {"who": "ann", "token": "s3cret"}});
    let made = post(&server, "/jobs", &asked).json();
    let id = made["id"].as_str().expect("an id");
    in_state(&server, id, "succeeded");
    let rerun = server.ask("POST", &format!("/jobs/{id}/rerun"), &[], "");
    problem(&rerun, 409, "state-conflict");
    assert!(
        rerun.json()["detail"]
            .as_str()
            .is_some_and(|why| why.contains("`greet`")),
        "{rerun:?}"
    );
    let many = post(&server, "/jobs/bulk?template=greet", &json!({"action": "rerun"})).json();
    assert_eq!((&many["done"], &many["refused"]), (&json!(0), &json!(1)), "{many}");
    assert_eq!(many["refusals"][0]["code"], "state-conflict");
    let page = server.ask("GET", &format!("/ui/jobs/{id}"), &[], "").text();
    assert!(page.contains("Not run again") && !page.contains("Run again"), "{page}");
    // A new one is another matter.
    assert_eq!(post(&server, "/jobs", &asked).status, 201);
    template["allow_rerun"] = json!(true);
    let put = server.ask("PUT", "/templates/greet", &[JSON, "if-match: *"], &template.to_string());
    assert_eq!(put.status, 200, "{put:?}");
    assert_eq!(server.ask("POST", &format!("/jobs/{id}/rerun"), &[], "").status, 201);
}

#[test]
fn bad_templates_and_bad_arguments_are_refused_with_their_places() {
    let world = bare();
    let server = start(&world);
    post(&server, "/templates", &greet());
    let bad = post(
        &server,
        "/jobs",
        &json!({"template": "greet", "parameters": {"who": "A", "count": 9, "token": 5}}),
    );
    problem(&bad, 422, "invalid-parameters");
    let mut found = pointers(&bad);
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, ["/parameters/count", "/parameters/token", "/parameters/who"]);
    problem(
        &post(&server, "/jobs", &json!({"template": "nobody"})),
        404,
        "no-such-template",
    );
    for body in [
        json!({"template": 1}),
        json!({"template": "greet", "parameters": []}),
        json!({"template": "greet", "paramters": {}}),
        json!({"template": "greet", "command": ["x"]}),
    ] {
        problem(&post(&server, "/jobs", &body), 422, "invalid-job");
    }
    for (change, pointer) in [
        (json!({"name": "a/b"}), "/name"),
        (
            json!({"parameters": {"type": "object", "$ref": "http://127.0.0.1:9/x"}}),
            "/parameters/$ref",
        ),
        (
            json!({"parameters": {"type": "object", "properties": {"a": {"type": 1}}}}),
            "/parameters/properties/a/type",
        ),
        (
            json!({"parameters": {"type": "object", "description": "x".repeat(40_000)}}),
            "/parameters",
        ),
        (
            json!({"job": {"name": "x", "command": ["${{ nobody }}"]}}),
            "/job/command/0",
        ),
    ] {
        let mut template = greet();
        for (key, value) in change.as_object().expect("an object") {
            template[key] = value.clone();
        }
        let refused = post(&server, "/templates", &template);
        problem(&refused, 422, "invalid-template");
        assert_eq!(pointers(&refused), [pointer], "{change}");
    }
    problem(
        &post(&server, "/templates", &json!({"name": "x"})),
        422,
        "invalid-template",
    );
    problem(&server.ask("POST", "/templates", &[JSON], "{"), 400, "malformed-json");
    problem(
        &server.ask("POST", "/templates", &[], "{}"),
        415,
        "unsupported-media-type",
    );
    let renamed = server.ask("PUT", "/templates/hello", &[JSON, "if-match: *"], &greet().to_string());
    problem(&renamed, 422, "invalid-template");
    for path in [
        "/templates/greet?version=0",
        "/templates/greet?version=x",
        "/templates/greet?x=1",
    ] {
        problem(&server.ask("GET", path, &[], ""), 400, "invalid-parameter");
    }
    for path in ["/templates/%00", "/templates/a%2Fb", "/templates/%F0%9F%A6%80"] {
        problem(&server.ask("GET", path, &[], ""), 404, "no-such-template");
    }
    problem(&server.ask("GET", "/templates/%ff", &[], ""), 400, "malformed-request");
}

#[test]
fn the_life_of_a_schedule() {
    let world = bare();
    let server = start(&world);
    let schedule = json!({
        "name": "nightly", "cron": "30 2 * * *", "time_zone": "Europe/Berlin",
        "template": "hello", "parameters": {"count": 1},
    });
    let made = post(&server, "/schedules", &schedule);
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.header("location"), Some("/schedules/nightly"));
    let body = made.json();
    assert_eq!(
        (&body["concurrency"], &body["catch_up_seconds"]),
        (&json!("forbid"), &json!(3600))
    );
    let next = body["next"].as_array().expect("a list");
    assert_eq!(next.len(), 5);
    assert!(
        next.iter()
            .all(|one| one["local"].as_str().is_some_and(|local| local.contains(" 02:30 +0"))),
        "{next:?}"
    );
    problem(&post(&server, "/schedules", &schedule), 409, "name-taken");

    let key = "idempotency-key: once";
    let run = server.ask("POST", "/schedules/nightly/run", &[key], "");
    assert_eq!(run.status, 201, "{run:?}");
    let again = server.ask("POST", "/schedules/nightly/run", &[key], "");
    assert_eq!(
        (again.header("idempotent-replayed"), &again.json()["id"]),
        (Some("true"), &run.json()["id"])
    );
    let history = server.ask("GET", "/jobs?label=schedule%3Dnightly", &[], "").json();
    assert_eq!(history["jobs"][0]["template"], "hello");

    let held = server.ask("POST", "/schedules/nightly/suspend", &[], "");
    assert_eq!((held.status, held.header("etag")), (200, Some("\"2\"")));
    assert_eq!(
        (&held.json()["suspend"], &held.json()["next"]),
        (&json!(true), &json!([]))
    );
    problem(
        &server.ask("POST", "/schedules/nightly/resume", &["if-match: \"1\""], ""),
        412,
        "document-changed",
    );
    let resumed = server.ask("POST", "/schedules/nightly/resume", &["if-match: \"2\""], "");
    assert_eq!(resumed.json()["suspend"], false);
    let mut changed = schedule.clone();
    changed["cron"] = json!("0 4 * * SUN");
    problem(
        &server.ask("PUT", "/schedules/nightly", &[JSON], &changed.to_string()),
        428,
        "if-match-required",
    );
    let put = server.ask(
        "PUT",
        "/schedules/nightly",
        &[JSON, "if-match: \"3\""],
        &changed.to_string(),
    );
    assert_eq!(put.json()["cron"], "0 4 * * SUN", "{put:?}");
    assert_eq!(
        server.ask("GET", "/schedules", &[], "").json()["schedules"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    assert_eq!(server.ask("DELETE", "/schedules/nightly", &[], "").status, 204);
    problem(
        &server.ask("GET", "/schedules/nightly", &[], ""),
        404,
        "no-such-schedule",
    );
    problem(
        &server.ask("POST", "/schedules/nightly/run", &[], ""),
        404,
        "no-such-schedule",
    );
    let kept = server.ask("GET", "/jobs?label=schedule%3Dnightly", &[], "").json();
    assert_eq!(kept["jobs"].as_array().map(Vec::len), Some(1), "its jobs stay");
}

#[test]
fn bad_schedules_are_refused_with_their_places() {
    let world = bare();
    let server = start(&world);
    for (body, pointer) in [
        (json!({"cron": "@daily", "template": "hello"}), "/cron"),
        (json!({"cron": "0 0 30 2 *", "template": "hello"}), "/cron"),
        (
            json!({"cron": "0 0 * * *", "time_zone": "Mars/Olympus", "template": "hello"}),
            "/time_zone",
        ),
        (json!({"cron": "0 0 * * *"}), "/job"),
        (json!({"cron": "0 0 * * *", "template": "nobody"}), "/template"),
        (
            json!({"cron": "0 0 * * *", "template": "hello", "parameters": {"count": 0}}),
            "/parameters/count",
        ),
        (
            json!({"cron": "0 0 * * *", "job": {"name": "x", "command": []}}),
            "/job/command",
        ),
        (
            json!({"cron": "0 0 * * *", "template": "hello", "concurrency": "maybe"}),
            "/concurrency",
        ),
    ] {
        let mut body = body;
        body["name"] = json!("s");
        let refused = post(&server, "/schedules", &body);
        problem(&refused, 422, "invalid-schedule");
        assert_eq!(pointers(&refused), [pointer], "{body}");
    }
}

#[test]
fn what_is_somebody_elses_is_not_there_or_not_to_be_changed() {
    let world = bare();
    let file = world.write(
        "tokens",
        "ann:token-of-ann-0123456789\nbob:token-of-bob-0123456789\nroot:token-of-root-012345678:admin\n",
    );
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    let server = Server::start_whole(&world, &["--drain", "0", "--token-file", &file.display().to_string()]);
    let as_ = |who: &str| format!("authorization: Bearer token-of-{who}-0123456789");
    let (ann, bob) = (as_("ann"), as_("bob"));
    let root = "authorization: Bearer token-of-root-012345678";
    let made = server.ask("POST", "/templates", &[JSON, &ann], &greet().to_string());
    assert_eq!(made.status, 201, "{made:?}");
    // Everybody may use it, its owner alone may change it, and whoever runs it has the job.
    assert_eq!(server.ask("GET", "/templates/greet", &[&bob], "").status, 200);
    let job = server.ask(
        "POST",
        "/jobs",
        &[JSON, &bob],
        &json!({"template": "greet", "parameters": {"who": "bob"}}).to_string(),
    );
    assert_eq!((job.status, &job.json()["owner"]), (201, &json!("bob")));
    problem(&server.ask("DELETE", "/templates/greet", &[&bob], ""), 403, "not-yours");
    let put = server.ask(
        "PUT",
        "/templates/greet",
        &[JSON, &bob, "if-match: *"],
        &greet().to_string(),
    );
    problem(&put, 403, "not-yours");
    let schedule =
        json!({"name": "hers", "cron": "0 0 * * *", "template": "greet", "parameters": {"who": "ann"}}).to_string();
    assert_eq!(server.ask("POST", "/schedules", &[JSON, &ann], &schedule).status, 201);
    for (method, path) in [
        ("GET", "/schedules/hers"),
        ("DELETE", "/schedules/hers"),
        ("POST", "/schedules/hers/run"),
        ("POST", "/schedules/hers/suspend"),
    ] {
        problem(&server.ask(method, path, &[&bob], ""), 404, "no-such-schedule");
    }
    let put = server.ask("PUT", "/schedules/hers", &[JSON, &bob, "if-match: *"], &schedule);
    problem(&put, 404, "no-such-schedule");
    assert_eq!(
        server.ask("GET", "/schedules", &[&bob], "").json()["schedules"],
        json!([])
    );
    let run = server.ask("POST", "/schedules/hers/run", &[root], "");
    assert_eq!(
        (run.status, &run.json()["owner"]),
        (201, &json!("ann")),
        "the jobs of a schedule are its owner's"
    );
    for path in ["/templates", "/schedules"] {
        problem(&server.ask("GET", path, &[], ""), 401, "unauthenticated");
    }
}

/// Takes the cookie and the token of forms from a page.
fn token(page: &Answer) -> (String, String) {
    let cookie = page.header("set-cookie").expect("a cookie");
    let cookie = cookie.split(';').next().expect("a value").to_owned();
    let token = cookie.split_once('=').expect("a value").1.to_owned();
    (format!("cookie: {cookie}"), token)
}

#[test]
fn the_form_of_a_template_says_what_is_wrong_and_keeps_what_was_typed() {
    const FORM: &str = "content-type: application/x-www-form-urlencoded";
    let world = bare();
    let server = start(&world);
    post(&server, "/templates", &greet());
    let page = server.ask("GET", "/ui/templates/greet", &[], "");
    let (cookie, token) = token(&page);
    let text = page.text();
    assert!(
        text.contains("Greets &lt;b&gt;somebody") && !text.contains("<b>somebody"),
        "{text}"
    );
    assert!(
        text.contains("name=\"p.who\"") && text.contains("minlength=\"2\""),
        "{text}"
    );
    let fields = "p.who=A&p.count=7&p.token=hunter2&key=k1";
    let refused = server.ask("POST", "/ui/templates/greet", &[FORM, &cookie], fields);
    assert_eq!(
        refused.status, 403,
        "without the token of the browser's forms nothing is done"
    );
    let refused = server.ask(
        "POST",
        "/ui/templates/greet",
        &[FORM, &cookie],
        &format!("{fields}&token={token}"),
    );
    let text = refused.text();
    assert_eq!(refused.status, 422, "{text}");
    assert!(
        text.contains("id=\"p.who-fault\"") && text.contains("it must be at most 5"),
        "{text}"
    );
    assert!(text.contains("value=\"A\"") && text.contains("value=\"7\""), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let good = format!("p.who=ann&p.count=1&key=k1&token={token}");
    let made = server.ask("POST", "/ui/templates/greet", &[FORM, &cookie], &good);
    assert_eq!(made.status, 303, "{made:?}");
    let again = server.ask("POST", "/ui/templates/greet", &[FORM, &cookie], &good);
    assert_eq!(
        again.header("location"),
        made.header("location"),
        "sent twice, it makes one job"
    );
    let id = made
        .header("location")
        .and_then(|at| at.rsplit('/').next())
        .expect("an id");
    let job = in_state(&server, id, "succeeded");
    assert_eq!(job["spec"]["command"], json!(["/bin/echo", "hello", "ann", "1"]));
    let filled = server
        .ask("GET", &format!("/ui/templates/greet?from={id}"), &[], "")
        .text();
    assert!(filled.contains("value=\"ann\""), "{filled}");
}

#[test]
fn the_client_runs_templates_and_shows_schedules() {
    let mut own = bare();
    own.set("PATH", "/usr/local/bin:/usr/bin:/bin");
    let server = start(&own);
    let mut world = TestEnvironment::new();
    world.set("LABCTL_DASHBOARD_URL", format!("http://{}", server.address));
    let listed = world.run(&["jobs", "templates", "list"]);
    assert!(listed.stdout.contains("hello  name=world count=3"), "{listed}");
    let got = world.run(&["--json", "jobs", "templates", "get", "hello"]);
    assert_eq!(got.json()[0]["template"]["version"], 1, "{got}");
    let ran = world.run(&[
        "jobs",
        "run",
        "--template",
        "hello",
        "-p",
        "name=3",
        "-p",
        "count=1",
        "--follow",
    ]);
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(0), "1: hello, 3\n"), "{ran}");
    let asked = ["--json", "jobs", "list", "--param", "name=3", "--param", "count=1"];
    let found = world.run(&asked);
    assert_eq!(found.stdout.matches("\"template\":\"hello\"").count(), 1, "{found}");
    let none = world.run(&["jobs", "list", "--param", "name=4"]);
    assert!(none.stdout.is_empty(), "{none}");
    let page = server.ask("GET", "/?param=name%3D3", &[], "").text();
    assert_eq!(page.matches("data-id=\"0").count(), 1, "{page}");
    let id = page
        .split("data-id=\"")
        .nth(1)
        .and_then(|rest| rest.get(..13))
        .expect("an id");
    let job = server.ask("GET", &format!("/ui/jobs/{id}"), &[], "").text();
    assert!(job.contains("/?template=hello&amp;param=name%3D3"), "{job}");
    problem(
        &server.ask("GET", "/jobs?param=name", &[], ""),
        400,
        "invalid-parameter",
    );
    let wrong = world.run(&["jobs", "run", "--template", "hello", "-p", "count=100", "-p", "nmae=x"]);
    assert_eq!(wrong.exit, Some(2), "{wrong}");
    assert!(wrong.stderr.contains("/parameters/nmae"), "{wrong}");
    let wrong = world.run(&["jobs", "run", "--template", "hello", "--", "echo"]);
    assert_eq!(wrong.exit, Some(2), "{wrong}");
    let none = world.run(&["jobs", "schedules", "list"]);
    assert!(none.stderr.contains("no schedules"), "{none}");
    post(
        &server,
        "/schedules",
        &json!({"name": "nightly", "cron": "30 2 * * *", "time_zone": "Europe/Berlin", "template": "hello"}),
    );
    let listed = world.run(&["jobs", "schedules", "list"]);
    assert!(
        listed.stdout.contains("nightly  30 2 * * *  Europe/Berlin") && listed.stdout.contains("template hello"),
        "{listed}"
    );
    let shown = world.run(&["jobs", "schedules", "get", "nightly"]);
    assert_eq!(shown.stdout.matches("02:30 +0").count(), 5, "{shown}");
    let job = world.run(&["jobs", "schedules", "run", "nightly"]);
    assert_eq!(job.stdout.trim().len(), 13, "{job}");
    let held = world.run(&["--json", "jobs", "schedules", "suspend", "nightly"]);
    assert_eq!(held.json()[0]["schedule"]["suspend"], true, "{held}");
    let gone = world.run(&["jobs", "schedules", "get", "nobody"]);
    assert_eq!(gone.exit, Some(2), "{gone}");
}
