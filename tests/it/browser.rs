//! The web pages in a real browser: what no test of the HTML alone can tell.
//!
//! Skipped loudly where there is no chromium with chromedriver on PATH; `LABCTL_REQUIRE_LAB=1` makes that a failure.

pub(crate) mod driver;
mod levels;
mod parameters;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Instant;

use labctl::config;
use serde_json::{Value, json};

use self::driver::{Browser, LIMIT, Look, request};
use crate::harness::TestEnvironment;

/// A dashboard with processes as jobs and a database of its own.
struct Site {
    world: TestEnvironment,
    server: Child,
    port: u16,
}

impl Site {
    fn start() -> Self {
        let mut world = TestEnvironment::new();
        // Jobs of these tests run `sh` and `sleep`.
        let path = config::variable("PATH").and_then(|path| path.into_string().ok());
        world.set("PATH", path.unwrap_or_default());
        let (server, port) = serve(&world, 0);
        let site = Self { world, server, port };
        site.ready();
        site
    }

    fn ready(&self) {
        let start = Instant::now();
        while request(self.port, "GET", "/readyz", None).0 != 200 {
            assert!(start.elapsed() < LIMIT, "the server does not get ready");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        self.server.kill().expect("killed");
        self.server.wait().expect("waited");
    }

    fn start_again(&mut self) {
        self.server = serve(&self.world, self.port).0;
        self.ready();
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Creates a job and returns its id.
    fn create(&self, spec: &Value) -> String {
        let (status, job) = request(self.port, "POST", "/jobs", Some(spec));
        assert_eq!(status, 201, "{job}");
        job["id"].as_str().expect("an id").to_owned()
    }

    fn shell(&self, name: &str, script: &str) -> String {
        self.create(&json!({"name": name, "command": ["sh", "-c", script]}))
    }

    /// Waits until a job's log is whole.
    fn ended(&self, id: &str) {
        let start = Instant::now();
        while request(self.port, "GET", &format!("/jobs/{id}"), None).1["log_complete"] != true {
            assert!(start.elapsed() < LIMIT, "job {id} does not end");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        _ = self.server.kill();
        _ = self.server.wait();
    }
}

fn serve(world: &TestEnvironment, port: u16) -> (Child, u16) {
    let listen = format!("127.0.0.1:{port}");
    let mut server = world
        .command(&["serve", "--listen", &listen, "--slots", "4"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("labctl starts");
    let mut lines = BufReader::new(server.stdout.take().expect("a pipe"))
        .lines()
        .map_while(Result::ok);
    let port = loop {
        let line = lines.next().expect("the server listens");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        if line["message"] == "listening" {
            let address: std::net::SocketAddr = line["address"]
                .as_str()
                .and_then(|text| text.parse().ok())
                .expect("an address");
            break address.port();
        }
    };
    std::thread::spawn(move || lines.for_each(drop));
    (server, port)
}

/// Ten thousand lines: numbers, a colour, errors, what would be HTML. Two pipes have no order, so the error has time.
const LONG: &str = r#"seq 1 9996; printf '\033[1;31mred\033[0m end\n'; sleep 0.2; echo 'bad thing' >&2; sleep 0.2; echo '<b>bold</b><script>document.title="owned"</script>'; echo last"#;

#[test]
fn the_list_lives_and_leaves_alone_who_reads() {
    let Some(browser) = Browser::open(Look::default()) else {
        return;
    };
    let site = Site::start();
    browser.go(&site.url("/"));
    let taught = browser.text("#empty");
    let curl = format!("curl -X POST {}", site.url("/jobs"));
    assert!(taught.contains("labctl jobs run") && taught.contains(&curl), "{taught}");
    browser.wait(
        "the stream",
        "return document.getElementById('live').textContent === 'Live'",
    );

    let id = site.shell("first", "exit 3");
    browser.wait(
        "the row",
        &format!("return !!document.querySelector('#j-{id} .state.failed')"),
    );
    let row = browser.text(&format!("#j-{id}"));
    assert!(
        row.contains("first") && row.contains("failed") && row.contains("ExitCode"),
        "{row}"
    );
    assert!(browser.find("#empty").is_empty(), "there is a job now");
    browser.wait(
        "the counter",
        "return document.querySelector('.chips [data-count=failed]').textContent === '1'",
    );

    for number in 0..40 {
        site.create(&json!({"name": format!("held-{number}"), "command": ["true"], "suspend": true}));
    }
    browser.wait("all rows", "return document.querySelectorAll('#rows tr').length === 41");
    // Somebody reads further down: nothing moves, and a bar says that there is more.
    browser.run("scrollTo(0, 400); document.querySelector('#rows tr:nth-child(20) .name').focus({preventScroll: true}); window.was = document.querySelector('#rows tr:nth-child(20)').getBoundingClientRect().top");
    let new = site.shell("new", "exit 0");
    browser.wait("the bar", "return document.getElementById('fresh').textContent === '1 new job' && !document.getElementById('fresh').hidden");
    assert_eq!(browser.find(&format!("#j-{new}")).len(), 0);
    let still = "const row = document.querySelector('#rows tr:nth-child(20)'); return row.contains(document.activeElement) && Math.abs(row.getBoundingClientRect().top - was) < 2";
    assert_eq!(browser.run(still), true, "the row that is read does not move");
    browser.click("#fresh");
    browser.wait(
        "the new row",
        &format!("return document.querySelector('#rows tr').id === 'j-{new}' && scrollY === 0"),
    );

    // Filters stand in the address, and what does not belong does not come.
    browser.fill("#search", "held-1\u{e007}");
    browser.wait(
        "the filter",
        "return location.search.includes('q=held-1') && document.querySelectorAll('#rows tr').length === 11",
    );
    browser.wait(
        "the stream",
        "return document.getElementById('live').textContent === 'Live'",
    );
    let other = site.shell("other", "exit 0");
    let mine = site.shell("held-1-too", "exit 0");
    browser.wait(
        "the row that belongs",
        &format!("document.activeElement.blur(); return !!document.getElementById('j-{mine}')"),
    );
    assert!(browser.find(&format!("#j-{other}")).is_empty());

    request(site.port, "DELETE", &format!("/jobs/{mine}"), None);
    browser.wait(
        "the deleted row",
        &format!("return !document.getElementById('j-{mine}')"),
    );
    assert_eq!(browser.complaints(), [] as [String; 0]);
}

#[test]
fn a_selection_is_cancelled_after_a_question() {
    let Some(browser) = Browser::open(Look::default()) else {
        return;
    };
    let site = Site::start();
    let running = site.shell("long", "sleep 600");
    let ended = site.shell("short", "true");
    site.ended(&ended);
    browser.go(&site.url("/?q=o"));
    // By the keyboard alone: down to the first row, tick it, down, tick.
    browser.press("jxjx");
    browser.wait(
        "the selection",
        "return document.getElementById('picked').textContent === '2 selected'",
    );
    browser.follow("#bulk button[value=cancel]");
    let question = browser.text("main");
    assert!(question.contains("Cancel 1 job?"), "{question}");
    assert!(
        question.contains("Left as they are") && question.contains("short"),
        "{question}"
    );
    browser.follow("form.answer button.danger");
    assert!(
        browser.url().ends_with("/?q=o&done=cancel&count=1"),
        "{}",
        browser.url()
    );
    assert!(browser.text(".notice").contains("1 job: asked to end."));
    browser.wait(
        "the end",
        &format!("return !!document.querySelector('#j-{running} .state.cancelled')"),
    );
    assert_eq!(browser.complaints(), [] as [String; 0]);
}

#[test]
fn all_that_match_are_cancelled_also_those_on_other_pages() {
    let Some(browser) = Browser::open(Look::default()) else {
        return;
    };
    let site = Site::start();
    for number in 0..60 {
        site.create(&json!({"name": format!("many-{number}"), "command": ["true"], "suspend": true}));
    }
    let other = site.create(&json!({"name": "other", "command": ["true"], "suspend": true}));
    browser.go(&site.url("/?q=many"));
    browser.press("jx");
    browser.wait(
        "the selection",
        "return document.getElementById('picked').textContent === '1 selected'",
    );
    assert!(
        browser
            .text(".every")
            .contains("all that match the filters, on every page")
    );
    browser.run("document.querySelector('.every input').click()");
    browser.follow("#bulk button[value=cancel]");
    let question = browser.text("main");
    assert!(
        question.contains("Cancel 60 jobs?") && question.contains("text: many"),
        "{question}"
    );
    // Who comes after the question is not meant.
    site.create(&json!({"name": "many-later", "command": ["true"], "suspend": true}));
    browser.follow("form.answer button.danger");
    assert!(
        browser.text(".notice").contains("60 jobs: asked to end."),
        "{}",
        browser.text("main")
    );
    browser.go(&site.url("/?state=suspended"));
    let left = browser.text("#rows");
    assert!(left.contains("many-later") && left.contains("other"), "{other}: {left}");
    assert_eq!(browser.complaints(), [] as [String; 0]);
}

#[test]
fn a_form_of_another_browser_does_nothing() {
    let Some(browser) = Browser::open(Look::default()) else {
        return;
    };
    let site = Site::start();
    let id = site.create(&json!({"name": "kept", "command": ["true"], "suspend": true}));
    browser.go(&site.url(&format!("/ui/act?do=cancel&id={id}")));
    browser.run("document.querySelector('form.answer [name=token]').value = '0'.repeat(32)");
    browser.follow("form.answer button.danger");
    assert!(
        browser.text("h1").contains("not one of this browser's"),
        "{}",
        browser.text("main")
    );
    let (_, job) = request(site.port, "GET", &format!("/jobs/{id}"), None);
    assert_eq!(
        (&job["state"], &job["cancelling"]),
        (&json!("suspended"), &json!(false))
    );
}

#[test]
fn a_log_is_read_searched_and_linked_to() {
    let Some(browser) = Browser::open(Look::default()) else {
        return;
    };
    let site = Site::start();
    let id = site.shell("long", LONG);
    site.ended(&id);
    browser.go(&site.url(&format!("/ui/jobs/{id}")));
    browser.wait(
        "the log",
        "return document.getElementById('link').textContent === 'The log is whole: 10,000 lines'",
    );
    browser.wait(
        "its end",
        "return !!document.querySelector('.row.target, .row:last-child')?.textContent.endsWith('last')",
    );
    assert_eq!(
        browser.run("return document.querySelectorAll('.row').length < 100"),
        true,
        "what is not seen is not there"
    );
    // Colours are classes of spans, and what looks like HTML is text.
    assert_eq!(
        browser.run("return document.querySelector('.row .bold.f1').textContent"),
        "red"
    );
    assert_eq!(browser.run("return [...document.querySelectorAll('.row.stderr')].map(row => row.querySelector('.s').textContent + ':' + row.querySelector('.x').textContent).join()"), "err:bad thing");
    assert_eq!(
        browser.run("return document.querySelectorAll('.view b, .view script').length"),
        0
    );
    assert!(browser.text(".view").contains("<b>bold</b><script>"));

    // 5 ends in 777 and 7 begins with it, and so on: 777, 1777, ..., 7770 to 7779.
    browser.fill("#needle", "777\u{e007}");
    browser.wait(
        "the matches",
        "return /^\\d+ of 19$/.test(document.getElementById('hits').textContent)",
    );
    browser.run("document.getElementById('hits').textContent = ''");
    browser.click("#after");
    browser.wait(
        "the next match",
        "return document.querySelector('.row.hit')?.textContent.includes('777')",
    );
    browser.wait("the marks", "return CSS.highlights.get('found').size > 0");

    browser.fill("#line", "5000\u{e007}");
    browser.wait("line 5,000", "const row = document.querySelector('.row.target'), view = document.querySelector('.view').getBoundingClientRect(); if (!row || row.querySelector('.x').textContent !== '5000') return false; const at = row.getBoundingClientRect(); return at.top >= view.top && at.bottom <= view.bottom");
    assert!(browser.url().ends_with("#L5000"));
    // Wrapped lines stay where one was.
    browser.click("#wrap");
    browser.wait("line 5,000, wrapped", "const row = document.querySelector('.row.target'), view = document.querySelector('.view').getBoundingClientRect(); if (!row) return false; const at = row.getBoundingClientRect(); return at.top >= view.top && at.bottom <= view.bottom");
    browser.go(&site.url(&format!("/ui/jobs/{id}#L42")));
    browser.run("location.reload()");
    browser.wait(
        "the linked line",
        "return document.querySelector('.row.target .x')?.textContent === '42'",
    );
    assert_ne!(browser.run("return document.title"), "owned");
    assert_eq!(browser.complaints(), [] as [String; 0]);
}

/// With a token in its address, as people paste them, a page may not ask for anything relative to it.
#[test]
fn a_page_lives_also_where_its_address_has_a_token() {
    let Some(browser) = Browser::open(Look::default()) else {
        return;
    };
    let site = Site::start();
    let id = site.shell("counts", "seq 1 50; sleep 600");
    for (path, place) in [("/", "live"), (&*format!("/ui/jobs/{id}"), "link")] {
        let address = site.url(path).replacen("//", "//user:token@", 1);
        browser.go(&address);
        browser.wait(
            "the state",
            &format!("return document.getElementById('{place}').textContent === 'Live'"),
        );
    }
    assert_eq!(browser.complaints(), [] as [String; 0]);
}

#[test]
fn a_log_goes_on_where_it_was_when_the_server_comes_back() {
    let Some(browser) = Browser::open(Look::default()) else {
        return;
    };
    let mut site = Site::start();
    let id = site.shell("counts", "seq 1 500; sleep 600");
    browser.go(&site.url(&format!("/ui/jobs/{id}")));
    browser.wait(
        "the log",
        "return document.querySelector('.row:last-child .x')?.textContent === '500'",
    );
    browser.wait(
        "the state",
        "return document.getElementById('link').textContent === 'Live'",
    );
    // A line that the server must not send a second time would be seen twice.
    browser.run("window.before = document.querySelectorAll('.row').length");
    site.stop();
    browser.wait(
        "the break",
        "return document.getElementById('link').textContent.startsWith('Connection lost')",
    );
    assert_eq!(
        browser.run("return document.querySelector('.row:last-child .x').textContent"),
        "500",
        "what is shown stays"
    );
    site.start_again();
    // The job ended with its server, which its page says by itself.
    browser.wait(
        "the end",
        "return document.getElementById('link').textContent.startsWith('The log is whole')",
    );
    browser.wait("the head", "return !!document.querySelector('#head .state.failed')");
    let texts = browser.run("return [...document.querySelectorAll('.row:not(.note) .x')].map(row => row.textContent)");
    let numbers: Vec<u32> = texts
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|text| text.as_str()?.parse().ok())
        .collect();
    assert!(
        numbers.len() > 10 && numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{numbers:?}"
    );
    assert_eq!(numbers.last(), Some(&500));
}

#[test]
fn without_scripts_one_can_do_all_the_same() {
    let Some(browser) = Browser::open(Look {
        scripts: false,
        ..Look::default()
    }) else {
        return;
    };
    let site = Site::start();
    browser.go(&site.url("/ui/jobs/new"));
    browser.fill("#name", "-wrong");
    browser.fill("#command", "sh -c 'echo one; echo two'");
    browser.follow("form.job .answer .primary");
    assert!(
        browser.text("#name-fault").contains("begins and ends with a letter"),
        "{}",
        browser.text("main")
    );
    assert!(browser.text("#faults").contains("Name"));
    browser.fill("#name", "plain");
    browser.follow("form.job button[value=json]");
    let json = browser.text("#json");
    assert!(json.contains("echo one; echo two"), "{json}");
    browser.follow("form.job button[value=fields]");
    browser.follow("form.job .answer .primary");
    let id = browser.url().rsplit('/').next().expect("an id").to_owned();
    assert_eq!(id.len(), 13, "{}", browser.url());
    site.ended(&id);
    browser.go(&site.url(&format!("/ui/jobs/{id}")));
    assert!(browser.text("#head").contains("succeeded"), "{}", browser.text("#head"));
    let log = browser.text("pre.log");
    assert!(log.contains("1     one") && log.contains("2     two"), "{log}");
    browser.follow("#head button[value=delete]");
    assert!(browser.text("main").contains("Delete 1 job?"));
    browser.follow("form.answer button.danger");
    assert!(
        browser.text("#empty").contains("No jobs yet"),
        "{}",
        browser.text("main")
    );
    browser.follow(".to-dark");
    assert!(
        browser.find("html[data-theme=dark]").len() == 1,
        "the theme is the server's to remember"
    );
}

#[test]
fn a_template_is_run_and_scheduled_without_scripts() {
    let Some(browser) = Browser::open(Look {
        scripts: false,
        ..Look::default()
    }) else {
        return;
    };
    let site = Site::start();
    browser.go(&site.url("/"));
    browser.follow("header a[href='/ui/templates']");
    browser.follow(".cards a[href='/ui/templates/hello']");
    browser.fill("[name='p.name']", "Ann; echo <b>no</b>");
    browser.fill("[name='p.count']", "1");
    browser.follow("form.job .primary");
    let id = browser.url().rsplit('/').next().expect("an id").to_owned();
    site.ended(&id);
    browser.go(&site.url(&format!("/ui/jobs/{id}")));
    let log = browser.text("pre.log");
    assert!(log.contains("1: hello, Ann; echo <b>no</b>"), "{log}");
    // What it was made with stands in the form for the next one.
    browser.follow("#head a[href^='/ui/schedules/new']");
    browser.fill("#name", "nightly");
    browser.fill("#cron", "30 2 31 2 *");
    browser.follow("form.job .primary");
    assert!(
        browser.text("#cron-fault").contains("is at no time"),
        "{}",
        browser.text("main")
    );
    browser.fill("#cron", "30 2 * * *");
    browser.fill("#time_zone", "Europe/Berlin");
    browser.follow("button[value=preview]");
    assert_eq!(
        browser.text("ol.times").matches(" 02:30 +0").count(),
        5,
        "{}",
        browser.text("main")
    );
    browser.follow("form.job .primary");
    let page = browser.text("main");
    assert!(
        page.contains("nightly") && page.matches(" 02:30 +0").count() == 5,
        "{page}"
    );
    browser.follow("button[value=run]");
    assert!(
        browser.text("#head").contains("schedule=nightly"),
        "{}",
        browser.text("#head")
    );
    browser.go(&site.url("/ui/schedules/nightly"));
    browser.follow("button[value=suspend]");
    assert!(browser.text("main").contains("none before it is resumed"));
    browser.follow("a.danger");
    browser.follow("form.answer .danger");
    assert!(browser.text("main").contains("There are no schedules yet"));
}

#[test]
fn every_control_has_a_name_and_its_turn_on_any_screen() {
    for width in [360, 1200] {
        let look = Look {
            width,
            ..Look::default()
        };
        let Some(browser) = Browser::open(look) else { return };
        let site = Site::start();
        let long = "x".repeat(63);
        let id = site
            .create(&json!({"name": long, "command": ["sh", "-c", LONG], "labels": {(long.as_str()): long.as_str()}}));
        site.create(&json!({"name": "held", "command": ["true"], "suspend": true}));
        let schedule =
            json!({"name": "nightly", "cron": "30 2 * * *", "time_zone": "Europe/Berlin", "template": "hello"});
        let kept = request(site.port, "POST", "/schedules", Some(&schedule));
        assert_eq!(kept.0, 201, "{}", kept.1);
        site.ended(&id);
        let pages = [
            "/",
            "/?state=broken",
            "/ui/jobs/new",
            "/ui/templates",
            "/ui/templates/new",
            "/ui/templates/hello",
            "/ui/schedules",
            "/ui/schedules/new?template=hello",
            "/ui/schedules/nightly",
            &format!("/ui/jobs/{id}"),
            &format!("/ui/act?do=delete&id={id}"),
            "/ui/help",
        ];
        for path in pages {
            browser.go(&site.url(path));
            std::thread::sleep(std::time::Duration::from_millis(150));
            let wide = "return document.documentElement.scrollWidth <= innerWidth";
            assert_eq!(browser.run(wide), true, "{path} is wider than {width} pixels");
            let twice = "const ids = [...document.querySelectorAll('[id]')].map(e => e.id); return ids.filter((id, at) => ids.indexOf(id) !== at).join()";
            assert_eq!(browser.run(twice), "", "ids of {path}");
            let marks = "return ['header', 'main', 'h1', 'html[lang]', 'title'].filter(one => document.querySelectorAll(one).length !== 1).join()";
            assert_eq!(browser.run(marks), "", "{path} has one each");
            // What is not shown has no name, and needs none.
            browser.run(
                "for (const e of document.querySelectorAll('a[href], button, input, textarea, summary, [tabindex]'))
                     if (e.tabIndex >= 0 && e.checkVisibility({visibilityProperty: true})) e.dataset.control = ''",
            );
            let controls = browser.find("[data-control]");
            assert!(controls.len() > 4, "{path}");
            for element in controls {
                let html = browser.html(&element);
                assert_ne!(browser.name(&element).trim(), "", "{path}: {html}");
            }
            turns(&browser, path);
            assert!(
                browser
                    .complaints()
                    .iter()
                    .all(|text| text.contains("400 (Bad Request)")),
                "{path}: {:?}",
                browser.complaints()
            );
        }
    }
}

/// Walks through a page by the Tab key: each stop is seen, shows that it has the focus, and follows the one before.
fn turns(browser: &Browser, path: &str) {
    browser.run("document.activeElement.blur(); scrollTo(0, 0); window.stops = []");
    for _ in 0..12 {
        browser.press("\u{e004}");
        let stop = browser.run(
            "const e = document.activeElement, style = getComputedStyle(e), at = e.getBoundingClientRect();
             if (e === document.body) return 'end';
             const before = stops.at(-1);
             stops.push(e);
             if (before && !(before.compareDocumentPosition(e) & 4)) return stops.includes(before) && e === stops[0] ? 'end' : 'out of turn: ' + e.outerHTML.slice(0, 200);
             if (style.outlineStyle === 'none') return 'no focus is seen: ' + e.outerHTML.slice(0, 200);
             if (at.width < 1 || at.bottom < 0 || at.top > innerHeight) return 'not seen: ' + e.outerHTML.slice(0, 200);
             return ''",
        );
        match stop.as_str() {
            Some("end") => return,
            Some("") => {}
            wrong => panic!("{path}: {wrong:?}"),
        }
    }
}
