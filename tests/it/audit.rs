//! Who did what: over HTTP, and by the client.

use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::harness::TestEnvironment;
use crate::jobs::{JSON, LIMIT, problem};
use crate::serve::{Server, bare};

const ANA: &str = "authorization: Bearer ana-0123456789abc";
const BOB: &str = "authorization: Bearer bob-0123456789abc";
const ROOT: &str = "authorization: Bearer root-0123456789abc";

/// A server with three who may come in, one of them an admin.
fn server(world: &TestEnvironment, more: &[&str]) -> Server {
    let tokens = world.path("tokens");
    let lines = "ana:ana-0123456789abc\nbob:bob-0123456789abc\nroot:root-0123456789abc:admin\n";
    labctl::drive::files::write_secret(&tokens, lines).expect("written");
    let file = tokens.display().to_string();
    Server::start_whole(world, &[&["--drain", "0", "--token-file", &file], more].concat())
}

fn held(server: &Server, who: &str, name: &str) -> String {
    let body = json!({"name": name, "command": ["/bin/true"], "suspend": true}).to_string();
    let answer = server.ask("POST", "/jobs", &[JSON, who, "x-request-id: made-by-a-test"], &body);
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_str().expect("an id").to_owned()
}

fn acts(server: &Server, who: &str, query: &str) -> Vec<Value> {
    let answer = server.ask("GET", &format!("/audit?{query}"), &[who], "");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["acts"].as_array().expect("entries").clone()
}

/// Waits until everything is sealed, and returns what was found.
fn checked(server: &Server, entries: u64) -> Value {
    let since = std::time::Instant::now();
    loop {
        let found = server.ask("GET", "/audit/check", &[ROOT], "").json();
        if found["entries"] == entries || found.get("wrong").is_some() {
            return found;
        }
        assert!(since.elapsed() < LIMIT, "not sealed: {found}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn the_owner_reads_who_did_what_and_nobody_else_does() {
    let world = bare();
    let server = server(&world, &[]);
    let id = held(&server, ANA, "mine");
    held(&server, BOB, "his");
    for deed in ["resume", "cancel"] {
        let answer = server.ask("POST", &format!("/jobs/{id}/{deed}"), &[ROOT], "");
        // It may have ended before it could be cancelled.
        assert!(matches!(answer.status, 200 | 202 | 409), "{answer:?}");
    }
    let since = std::time::Instant::now();
    while server.ask("GET", &format!("/jobs/{id}"), &[ANA], "").json()["log_complete"] != true {
        assert!(since.elapsed() < LIMIT, "it does not end");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let own = acts(&server, ANA, &format!("job={id}"));
    let first = own.last().expect("an entry");
    assert_eq!(
        (
            &first["actor"],
            &first["verb"],
            &first["after"],
            &first["request_id"],
            &first["ip"]
        ),
        (
            &json!("ana"),
            &json!("create"),
            &json!("suspended"),
            &json!("made-by-a-test"),
            &json!("127.0.0.1")
        )
    );
    let second = &own[own.len() - 2];
    assert_eq!(
        (
            &second["actor"],
            &second["verb"],
            &second["before"],
            &second["after"],
            &second["owner"]
        ),
        (
            &json!("root"),
            &json!("resume"),
            &json!("suspended"),
            &json!("pending"),
            &json!("ana")
        )
    );
    assert_eq!(acts(&server, BOB, &format!("job={id}")), Vec::<Value>::new());
    assert_eq!(acts(&server, BOB, "").len(), 1);
    // Also when it is gone.
    assert_eq!(server.ask("DELETE", &format!("/jobs/{id}"), &[ANA], "").status, 204);
    let own = acts(&server, ANA, &format!("job={id}"));
    assert_eq!((&own[0]["verb"], own[0].get("after")), (&json!("delete"), None));
    // Page by page.
    let (mut seen, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let page = server.ask("GET", &format!("/audit?{query}"), &[ROOT], "").json();
        seen.extend(page["acts"].as_array().expect("entries").clone());
        let Some(next) = page["next"].as_str() else { break };
        query = format!("limit=2&cursor={next}");
    }
    assert_eq!(seen, acts(&server, ROOT, "limit=500"));
    assert_eq!(seen.len(), own.len() + 1);
    for (query, code) in [
        ("job=a&template=b", "invalid-parameter"),
        ("limit=0", "invalid-parameter"),
        ("owner=ana", "invalid-parameter"),
        ("cursor=x", "invalid-cursor"),
        ("cursor=99999999999999999999", "invalid-cursor"),
    ] {
        problem(&server.ask("GET", &format!("/audit?{query}"), &[ROOT], ""), 400, code);
    }
    problem(&server.ask("GET", "/audit/check", &[ANA], ""), 403, "not-admin");
    problem(
        &server.ask("GET", "/audit/check?after=x", &[ROOT], ""),
        400,
        "invalid-parameter",
    );
    assert_eq!(
        server.ask("GET", "/audit/check?after=4000000000", &[ROOT], "").json()["seals"],
        0
    );
    problem(&server.ask("GET", "/audit", &[], ""), 401, "unauthenticated");
}

#[test]
fn what_was_changed_since_is_found() {
    let world = bare();
    let data = world.path("data");
    let server = server(&world, &["--data-dir", &data.display().to_string()]);
    for number in 0..5 {
        held(&server, ANA, &format!("job-{number}"));
    }
    let found = checked(&server, 5);
    assert_eq!((found.get("wrong"), &found["more"]), (None, &json!(false)), "{found}");
    let digest = found["last"]["digest"].as_str().expect("a digest").to_owned();
    // The log, which is kept elsewhere, has it too.
    let log = server.log_until("sealed what was done");
    assert!(
        log.iter()
            .any(|line| line["digest"].as_str().is_some_and(|digest| digest.len() == 64)),
        "{log:?}"
    );
    let mut client = TestEnvironment::new();
    client.set("LABCTL_DASHBOARD_URL", format!("http://{}", server.address));
    client.set("LABCTL_TOKEN", "root-0123456789abc");
    let good = client.run(&["jobs", "audit", "--check"]);
    assert_eq!(good.exit, Some(0), "{good}");
    assert!(
        good.stdout.contains("as it was written: 5 entries in ") && good.stdout.contains(&digest),
        "{good}"
    );
    let listed = client.run(&["jobs", "audit"]);
    assert_eq!(listed.stdout.matches("-> suspended").count(), 5, "{listed}");
    let json = client.run(&["--json", "jobs", "audit", "-n", "2"]);
    assert_eq!(json.json()[0]["acts"].as_array().map(Vec::len), Some(2), "{json}");

    let database = data.join("jobs.sqlite");
    let change = |sql: &'static str| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let url = format!("sqlite:{}", database.display());
            let mut connection = sqlx::SqliteConnection::connect(&url).await.expect("opened");
            sqlx::raw_sql(sql).execute(&mut connection).await.expect("changed");
        });
    };
    change("UPDATE audit SET actor = 'bob' WHERE number = 2");
    let bad = client.run(&["jobs", "audit", "--check"]);
    assert_eq!(bad.exit, Some(1), "{bad}");
    assert!(bad.stdout.contains("was changed"), "{bad}");
    change("UPDATE audit SET actor = 'ana' WHERE number = 2");
    assert_eq!(checked(&server, 5).get("wrong"), None);
    change("DELETE FROM audit WHERE number = 5");
    let bad = client.run(&["--json", "jobs", "audit", "--check"]);
    assert_eq!((bad.exit, &bad.json()[0]["intact"]), (Some(1), &json!(false)), "{bad}");
}
