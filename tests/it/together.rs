//! Pages that many ask for at the same moment.

use serde_json::json;

use crate::jobs::JSON;
use crate::serve::{Server, ask, bare};

/// Who asks at the same moment for the same page gets one answer: it must have what was there before he asked, and nothing
/// of anybody else's.
#[test]
fn who_asks_at_once_sees_what_he_did_before_and_nothing_of_others() {
    let world = bare();
    let tokens = world.path("tokens");
    let lines = "ana:ana-0123456789abc\nbob:bob-0123456789abc\n";
    labctl::drive::files::write_secret(&tokens, lines).expect("written");
    let file = tokens.display().to_string();
    let server = Server::start_whole(&world, &["--drain", "0", "--token-file", &file]);
    std::thread::scope(|scope| {
        for worker in 0..12 {
            let address = server.address;
            scope.spawn(move || {
                let name = ["ana", "bob"][worker % 2];
                let who = format!("authorization: Bearer {name}-0123456789abc");
                for number in 0..15 {
                    let body =
                        json!({"name": format!("job-{worker}-{number}"), "command": ["/bin/true"], "suspend": true});
                    let made = ask(address, "POST", "/jobs", &[JSON, &who], &body.to_string());
                    assert_eq!(made.status, 201, "{made:?}");
                    let id = made.json()["id"].clone();
                    let page = ask(address, "GET", "/jobs?limit=200", &[&who], "").json();
                    let jobs = page["jobs"].as_array().expect("jobs");
                    assert!(jobs.iter().any(|job| job["id"] == id), "{name} does not see {id}");
                    assert!(
                        jobs.iter().all(|job| job["owner"] == name),
                        "{name} sees somebody else's"
                    );
                }
            });
        }
    });
}
