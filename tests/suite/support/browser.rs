//! A headless Chromium with one page, driven over its debugging pipe.
//!
//! The browser ends when the pipe closes, however this process ends, so nothing is left behind.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use super::server::program;

/// Timeout of the browser. A reply takes milliseconds; a start takes seconds on a busy machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Wait for the browser to exit before it is killed.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Options that keep the browser from connecting to other servers.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
];

/// The browser uses the descriptors 3 and 4.
const LAUNCH: &str = "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null";

/// A running browser with one page.
pub struct Browser {
    child: Child,
    /// `None` only while dropping.
    requests: Option<ChildStdin>,
    messages: Receiver<Value>,
    events: Vec<Value>,
    session: Option<String>,
    asked: u64,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser with an empty page.
    pub fn start() -> Self {
        let profile = super::folder();
        let mut child = Command::new("sh")
            .args(["-c", LAUNCH, "sh"])
            .arg(program("chromium"))
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let requests = child.stdin.take();
        let mut replies = BufReader::new(child.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while replies.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                let value = serde_json::from_slice(&message[..message.len() - 1]);
                if value.is_err() || sender.send(value.unwrap()).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            child,
            requests,
            messages,
            events: Vec::new(),
            session: None,
            asked: 0,
            _profile: profile,
        };
        let target = browser.ask("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.ask("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.ask(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Calls a method of the debugging protocol on the page.
    ///
    /// # Panics
    /// If the browser returns an error.
    pub fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let mut request = json!({"id": self.asked, "method": method, "params": params});
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        let pipe = self.requests.as_mut().unwrap();
        pipe.write_all(format!("{request}\0").as_bytes()).unwrap();
        pipe.flush().unwrap();
        loop {
            let mut message = self.next();
            if message["id"] == self.asked {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    fn next(&mut self) -> Value {
        let message = self.messages.recv_timeout(ANSWER_WITHIN);
        message.expect("the browser runs and answers")
    }

    /// Goes to an address and waits until the page is loaded.
    pub fn open(&mut self, url: &str) {
        let is_loaded = |event: &Value| event["method"] == "Page.loadEventFired";
        self.events.retain(|event| !is_loaded(event));
        let gone = self.ask("Page.navigate", &json!({"url": url}));
        assert!(gone["errorText"].is_null(), "{url}: {gone}");
        while !self.events.iter().any(is_loaded) {
            let message = self.next();
            self.events.push(message);
        }
    }

    /// The value of an expression in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        let mut answer = self.ask("Runtime.evaluate", &params);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].take()
    }

    /// The text of the first element that the selector finds; empty if there is none.
    pub fn text(&mut self, selector: &str) -> String {
        let found = format!("document.querySelector({})", json!(selector));
        let text = self.evaluate(&format!("{found} ? {found}.textContent : ''"));
        text.as_str().unwrap().to_owned()
    }

    /// Presses a key. `modifiers`: 1 is Alt, 2 is Ctrl, 8 is Shift.
    pub fn press(&mut self, key: &str, text: &str, code: u32, modifiers: u32) {
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let commands = if (key, modifiers) == ("a", 2) {
                json!(["selectAll"])
            } else {
                json!([])
            };
            let event = json!({"type": kind, "key": key, "code": key, "text": text,
                "windowsVirtualKeyCode": code, "modifiers": modifiers, "commands": commands});
            self.ask("Input.dispatchKeyEvent", &event);
        }
    }

    /// Types a text into the focused element.
    pub fn type_text(&mut self, text: &str) {
        self.ask("Input.insertText", &json!({"text": text}));
    }

    /// The value of a promise in the page.
    pub fn resolve(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.ask("Runtime.evaluate", &params);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].take()
    }

    /// Presses the Tab key. Returns the element that has the focus then.
    pub fn tab(&mut self) -> String {
        self.press("Tab", "", 9, 0);
        let focus = self.evaluate("document.activeElement.textContent");
        focus.as_str().unwrap().to_owned()
    }

    /// The size of the page in pixels, and whether it is dark.
    pub fn look(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1,
            "mobile": width < 600});
        self.ask("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.ask("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// A PNG of the visible part of the page.
    pub fn picture(&mut self) -> Vec<u8> {
        self.ask("Emulation.setScrollbarsHidden", &json!({"hidden": true}));
        let params = json!({"format": "png"});
        let picture = self.ask("Page.captureScreenshot", &params);
        let text = picture["data"].as_str().unwrap();
        base64::prelude::BASE64_STANDARD.decode(text).unwrap()
    }

    /// The errors in the console so far, including violations of the page's policy.
    pub fn complaints(&mut self) -> Vec<String> {
        // A reply arrives after all earlier messages.
        self.evaluate("0");
        let is_complaint = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            Some("Runtime.consoleAPICalled") => event["params"]["type"] == "error",
            _ => false,
        };
        let complaints = self.events.iter().filter(is_complaint);
        complaints.map(ToString::to_string).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.requests.take());
        let began = Instant::now();
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if began.elapsed() > END_WITHIN {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
