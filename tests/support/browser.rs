//! Chromium, told what to do by chromedriver: as much of WebDriver (W3C) as the dashboard needs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::deadline::{patience, wait_for};
use super::programs::Program;

/// One window.
pub struct Browser {
    driver: SocketAddr,
    session: String,
    _program: Program,
}

impl Browser {
    /// A window of this size, with nothing in it.
    #[track_caller]
    pub fn start(width: u32, height: u32) -> Self {
        let driver = free_address();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={}", driver.port()));
        let program = Program::start(&mut command);
        let mut browser = Self {
            driver,
            session: String::new(),
            _program: program,
        };
        wait_for("chromedriver answered", || {
            let status = browser.try_ask("GET", "/status", &Value::Null).ok()?;
            (status.0 == 200).then_some(())
        });
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--force-device-scale-factor=1".to_owned(),
            format!("--window-size={width},{height}"),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let session = browser.ask("POST", "/session", &capabilities);
        let id = session["sessionId"].as_str().expect("an id").to_owned();
        browser.session = format!("/session/{id}");
        browser
    }

    /// Loads a page.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.tell("/url", &json!({"url": url}));
    }

    /// What a script returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.tell("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Clicks on what a selector finds first, as a person would: it must be there to be clicked.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.tell(&format!("/element/{element}/click"), &json!({}));
    }

    /// Types into it.
    #[track_caller]
    pub fn write(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        let path = format!("/element/{element}/value");
        self.tell(&path, &json!({"text": text}));
    }

    /// The text of what a selector finds first, as it is seen.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let element = self.element(selector);
        let path = format!("{}/element/{element}/text", self.session);
        let text = self.ask("GET", &path, &Value::Null);
        text.as_str().expect("text").to_owned()
    }

    /// Light or dark, a phone or not: what DevTools' protocol can pretend.
    #[track_caller]
    pub fn emulate(&self, command: &str, parameters: &Value) {
        let order = json!({"cmd": command, "params": parameters});
        self.tell("/goog/cdp/execute", &order);
    }

    /// What it has noted since it was asked last: `browser` is the console, `performance` the
    /// events of DevTools' protocol.
    #[track_caller]
    pub fn notes(&self, kind: &str) -> Vec<Value> {
        let notes = self.tell("/se/log", &json!({"type": kind}));
        notes.as_array().expect("a list").clone()
    }

    /// Every address that it has asked for since it was asked last.
    #[track_caller]
    pub fn requests(&self) -> Vec<String> {
        let notes = self.notes("performance");
        let sent = notes.iter().filter_map(|note| {
            let message: Value = serde_json::from_str(note["message"].as_str()?).ok()?;
            let message = &message["message"];
            (message["method"] == "Network.requestWillBeSent").then(|| {
                message["params"]["request"]["url"]
                    .as_str()
                    .map(str::to_owned)
            })?
        });
        sent.collect()
    }

    /// A picture of the window, as a PNG file.
    #[track_caller]
    pub fn picture(&self, into: &Path) {
        let path = format!("{}/screenshot", self.session);
        let picture = self.ask("GET", &path, &Value::Null);
        let bytes = decoded(picture.as_str().expect("a picture"));
        std::fs::write(into, bytes).expect("room for a picture");
    }

    #[track_caller]
    fn element(&self, selector: &str) -> String {
        let query = json!({"using": "css selector", "value": selector});
        let found = self.tell("/element", &query);
        let ids = found.as_object().expect("an element");
        let id = ids.values().next().and_then(Value::as_str);
        id.expect("an id").to_owned()
    }

    #[track_caller]
    fn tell(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("{}{path}", self.session), body)
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.try_ask(method, path, body);
        let (status, text) = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert_eq!(status, 200, "{method} {path} {body}: {text}");
        let mut answer: Value = serde_json::from_str(&text).expect("JSON");
        answer["value"].take()
    }

    /// Status and body. The driver keeps connections open, whatever it is asked.
    fn try_ask(&self, method: &str, path: &str, body: &Value) -> io::Result<(u16, String)> {
        let body = match body.is_null() {
            true => String::new(),
            false => body.to_string(),
        };
        let mut stream = TcpStream::connect(self.driver)?;
        stream.set_read_timeout(Some(patience()))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.driver,
            body.len()
        )?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let mut length = 0;
        while line.trim() != "" {
            line.clear();
            reader.read_line(&mut line)?;
            if let Some(("content-length", value)) = line.to_ascii_lowercase().split_once(':') {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.try_ask("DELETE", &self.session, &Value::Null);
    }
}

fn free_address() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("an address")
}

/// RFC 4648, without checks: a driver that is wrong gives a picture that is.
fn decoded(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> = text
        .bytes()
        .filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte))
        .filter_map(|digit| u32::try_from(digit).ok())
        .collect();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let all = group.iter().fold(0, |all, digit| (all << 6) | digit);
        let all = all << (6 * (4 - group.len()));
        bytes.extend_from_slice(&all.to_be_bytes()[1..group.len()]);
    }
    bytes
}
