//! A browser that a test drives: Chromium through chromedriver, whose protocol (W3C WebDriver) is JSON over HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use labctl::config;
use serde_json::{Value, json};

/// How long a test waits for what is to come.
/// A server that was killed holds its lease for 15 s.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);
/// The key under which the protocol hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One window of a browser, closed with the test.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

/// How a browser is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) scripts: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            width: 1200,
            height: 800,
            scripts: true,
        }
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = config::variable("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// Sends a request and returns the status and the JSON of the answer.
pub(crate) fn request(port: u16, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let body = body.map(Value::to_string).unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line).expect("a status line");
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("a status");
    let mut length = 0;
    loop {
        let mut header = String::new();
        answer.read_line(&mut header).expect("a header");
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut bytes = vec![0; length];
    answer.read_exact(&mut bytes).expect("a body");
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

impl Browser {
    /// Opens a browser; nothing where there is none, which is said aloud, and an error with `LABCTL_REQUIRE_LAB=1`.
    pub(crate) fn open(look: Look) -> Option<Self> {
        let Some((driver, browser)) = on_path("chromedriver").zip(on_path("chromium").or(on_path("google-chrome")))
        else {
            assert!(
                config::variable("LABCTL_REQUIRE_LAB").is_none_or(|value| value == "0"),
                "there is no chromium with chromedriver on PATH, and LABCTL_REQUIRE_LAB forbids to skip"
            );
            let said = "SKIPPED: a test in a browser: there is no chromium with chromedriver on PATH\n";
            _ = std::io::stderr().write_all(said.as_bytes());
            return None;
        };
        let (driver, port) = start(&driver);
        let mut arguments = vec![
            "--headless=new".to_owned(),
            // In containers and as root there is nothing to build a sandbox with; only our own pages are looked at.
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            format!("--window-size={},{}", look.width, look.height),
        ];
        if !look.scripts {
            arguments.push("--blink-settings=scriptEnabled=false".to_owned());
        }
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"binary": browser, "args": arguments, "mobileEmulation": null},
        }}});
        let mut wanted = wanted;
        let options = &mut wanted["capabilities"]["alwaysMatch"]["goog:chromeOptions"];
        // A window of a desktop is never narrower than 500 pixels; an emulated telephone is.
        if look.width < 500 {
            options["mobileEmulation"] = json!({"deviceMetrics": {"width": look.width, "height": look.height, "pixelRatio": 1.0, "touch": true}});
        } else if let Some(options) = options.as_object_mut() {
            options.remove("mobileEmulation");
        }
        let (status, answer) = request(port, "POST", "/session", Some(&wanted));
        assert_eq!(status, 200, "{answer}");
        let session = answer["value"]["sessionId"].as_str().expect("a session").to_owned();
        Some(Self { driver, port, session })
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = request(self.port, method, &format!("/session/{}{path}", self.session), body);
        assert_eq!(status, 200, "{method} {path} {body:?}: {answer}");
        answer["value"].clone()
    }

    /// Goes to an address and waits until the page is there.
    pub(crate) fn go(&self, url: &str) {
        self.call("POST", "/url", Some(&json!({"url": url})));
    }

    /// Returns the address of the page.
    pub(crate) fn url(&self) -> String {
        self.call("GET", "/url", None).as_str().expect("text").to_owned()
    }

    /// Runs a script's body in the page and returns what it returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", Some(&json!({"script": script, "args": []})))
    }

    /// Returns the elements that a selector finds, in the order of the page.
    pub(crate) fn find(&self, selector: &str) -> Vec<String> {
        let wanted = json!({"using": "css selector", "value": selector});
        let found = self.call("POST", "/elements", Some(&wanted));
        let found = found.as_array().expect("a list").iter();
        found
            .map(|element| element[ELEMENT].as_str().expect("an id").to_owned())
            .collect()
    }

    fn one(&self, selector: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(element) = self.find(selector).into_iter().next() {
                return element;
            }
            assert!(start.elapsed() < LIMIT, "no `{selector}` in {}", self.url());
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Clicks as a person does: what is hidden or covered cannot be clicked.
    pub(crate) fn click(&self, selector: &str) {
        let element = self.one(selector);
        self.call("POST", &format!("/element/{element}/click"), Some(&json!({})));
    }

    /// Clicks on what leads to another page, and waits until this one is gone.
    pub(crate) fn follow(&self, selector: &str) {
        let element = self.one(selector);
        self.call("POST", &format!("/element/{element}/click"), Some(&json!({})));
        let start = Instant::now();
        let path = format!("/session/{}/element/{element}/name", self.session);
        while request(self.port, "GET", &path, None).0 == 200 {
            assert!(start.elapsed() < LIMIT, "`{selector}` leads nowhere in {}", self.url());
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Types into an element.
    pub(crate) fn fill(&self, selector: &str, text: &str) {
        let element = self.one(selector);
        self.call("POST", &format!("/element/{element}/clear"), Some(&json!({})));
        self.call(
            "POST",
            &format!("/element/{element}/value"),
            Some(&json!({"text": text})),
        );
    }

    /// Presses keys wherever the focus is.
    pub(crate) fn press(&self, keys: &str) {
        let press = keys.chars().flat_map(|key| {
            let key = key.to_string();
            [
                json!({"type": "keyDown", "value": key}),
                json!({"type": "keyUp", "value": key}),
            ]
        });
        let actions: Vec<Value> = press.collect();
        let wanted = json!({"actions": [{"type": "key", "id": "keys", "actions": actions}]});
        self.call("POST", "/actions", Some(&wanted));
    }

    /// Returns the text that is seen of an element.
    pub(crate) fn text(&self, selector: &str) -> String {
        let element = self.one(selector);
        self.call("GET", &format!("/element/{element}/text"), None)
            .as_str()
            .expect("text")
            .to_owned()
    }

    /// Returns the name that an element has for who does not see it.
    pub(crate) fn name(&self, element: &str) -> String {
        self.call("GET", &format!("/element/{element}/computedlabel"), None)
            .as_str()
            .expect("text")
            .to_owned()
    }

    /// Returns an element as HTML, for messages.
    pub(crate) fn html(&self, element: &str) -> String {
        let element = json!({"script": "return arguments[0].outerHTML.slice(0, 200)", "args": [{(ELEMENT): element}]});
        self.call("POST", "/execute/sync", Some(&element)).to_string()
    }

    /// Waits until a script returns true.
    pub(crate) fn wait(&self, what: &str, script: &str) {
        let start = Instant::now();
        while self.run(script) != Value::Bool(true) {
            assert!(
                start.elapsed() < LIMIT,
                "{what} does not happen in {}; the page has:\n{}",
                self.url(),
                self.run("return document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Chooses between the light and the dark form of a page, as the system's setting would.
    pub(crate) fn scheme(&self, dark: bool) {
        let feature = json!({"name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" }});
        let wanted = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": [feature]}});
        self.call("POST", "/goog/cdp/execute", Some(&wanted));
    }

    /// Returns what the browser complained about since it was asked last: script errors, refused content.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let entries = self.call("POST", "/se/log", Some(&json!({"type": "browser"})));
        let entries = entries.as_array().expect("a list").iter();
        entries
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // chromedriver ends its browser with the session, and not where it is killed.
        if !std::thread::panicking() {
            request(self.port, "DELETE", &format!("/session/{}", self.session), None);
        } else if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            _ = write!(
                stream,
                "DELETE /session/{} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
                self.session
            );
            _ = stream.read(&mut [0; 64]);
        }
        _ = self.driver.kill();
        _ = self.driver.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "it runs beside the test until the test ends it"
)]
fn start(program: &std::path::Path) -> (Child, u16) {
    let mut child = Command::new(program)
        .arg("--port=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("chromedriver starts");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let port = loop {
        let mut line = String::new();
        assert_ne!(output.read_line(&mut line).expect("text"), 0, "chromedriver ended");
        // "ChromeDriver was started successfully on port 12345."
        let word = line.trim_end().trim_end_matches('.').rsplit(' ').next();
        if line.contains("started successfully") {
            break word
                .and_then(|word| word.parse().ok())
                .unwrap_or_else(|| panic!("no port in `{line}`"));
        }
    };
    // It says more later, and must not stop for want of a reader.
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    (child, port)
}
