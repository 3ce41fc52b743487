//! A real Chromium, driven by WebDriver.

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::wait::{PATIENCE, wait_for};

/// The Enter key of WebDriver.
pub const ENTER: &str = "\u{E007}";

/// The Tab key of WebDriver.
const TAB: &str = "\u{E004}";
/// The most elements of a page that the keyboard reaches.
const MAX_STOPS: usize = 60;

const CHROMIUM: &str = "/usr/bin/chromium";
const DRIVER: &str = "/usr/bin/chromedriver";

/// A browser. Dropping it kills it.
pub struct Browser {
    driver: Child,
    session: String,
    http: reqwest::Client,
    profile: TempDir,
    /// Nothing reads it, but chromedriver ends if it is closed.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    /// Returns `None` if the machine has no Chromium. With `CI` set, that is a failure.
    pub async fn start() -> Option<Self> {
        if ![CHROMIUM, DRIVER]
            .iter()
            .all(|program| Path::new(program).exists())
        {
            assert!(
                std::env::var_os("CI").is_none(),
                "CI has to have {CHROMIUM} and {DRIVER}"
            );
            eprintln!(
                "skipped: {CHROMIUM} and {DRIVER} are not on this machine; ./tests/run installs them where apt works"
            );
            return None;
        }
        let profile = TempDir::new().expect("a folder");
        let mut command = Command::new(DRIVER);
        // The browser is in the process group of chromedriver and ends with it.
        command
            .args(["--port=0"])
            .env("TMPDIR", profile.path())
            .process_group(0);
        let mut driver = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver");
        let mut output = BufReader::new(driver.stdout.take().expect("its output")).lines();
        let started = |line: String| {
            line.split_once("successfully on port ")
                .map(|(_, port)| port.to_owned())
        };
        let port = output
            .by_ref()
            .map_while(Result::ok)
            .find_map(started)
            .expect("a port");
        let session = format!("http://127.0.0.1:{}", port.trim_end_matches('.'));
        let mut browser = Self {
            driver,
            session,
            http: reqwest::Client::new(),
            profile,
            _output: output,
        };
        let mut flags: Vec<String> = [
            "headless",
            "no-sandbox",
            "disable-gpu",
            "disable-quic",
            "no-first-run",
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
        ]
        .iter()
        .map(|flag| format!("--{flag}"))
        .collect();
        flags.push(format!(
            "--user-data-dir={}",
            browser.profile.path().join("profile").display()
        ));
        let options = json!({ "binary": CHROMIUM, "args": flags });
        let wanted =
            json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let session = browser.post("/session", wanted).await;
        let id = session["sessionId"].as_str().expect("a session");
        browser.session = format!("{}/session/{id}", browser.session);
        Some(browser)
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.try_post(path, body).await;
        answer.unwrap_or_else(|error| panic!("chromedriver says {error}"))
    }

    async fn try_post(&self, path: &str, body: Value) -> Result<Value, Value> {
        answer(
            self.http
                .post(format!("{}{path}", self.session))
                .json(&body),
        )
        .await
    }

    pub async fn try_get(&self, path: &str) -> Result<Value, Value> {
        answer(self.http.get(format!("{}{path}", self.session))).await
    }

    pub async fn open(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await;
    }

    pub async fn find(&self, selector: &str) -> Result<String, Value> {
        let found = self
            .try_post(
                "/element",
                json!({ "using": "css selector", "value": selector }),
            )
            .await?;
        let found = found
            .as_object()
            .and_then(|element| element.values().next())
            .and_then(Value::as_str);
        Ok(found.expect("an element").to_owned())
    }

    pub async fn click(&self, selector: &str) {
        let element = self.find(selector).await.expect("an element");
        self.post(&format!("/element/{element}/click"), json!({}))
            .await;
    }

    /// Returns the text of the page, or an error during a change of the page.
    pub async fn text(&self) -> Result<String, Value> {
        let body = self.find("body").await?;
        let text = self.try_get(&format!("/element/{body}/text")).await?;
        Ok(text.as_str().expect("a text").to_owned())
    }

    /// Types a text into an element.
    pub async fn type_into(&self, selector: &str, text: &str) {
        let element = self.find(selector).await.expect("an element");
        self.post(
            &format!("/element/{element}/value"),
            json!({ "text": text }),
        )
        .await;
    }

    /// Presses keys, which go to the element with the focus.
    pub async fn press(&self, keys: &str) {
        let press = |key: char| {
            let key = key.to_string();
            [
                json!({ "type": "keyDown", "value": key }),
                json!({ "type": "keyUp", "value": key }),
            ]
        };
        let keys: Vec<_> = keys.chars().flat_map(press).collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": keys });
        self.post("/actions", json!({ "actions": [keyboard] }))
            .await;
    }

    /// Presses Tab until an element has the focus.
    pub async fn tab_to(&self, selector: &str) {
        for _ in 0..MAX_STOPS {
            self.press(TAB).await;
            if self.has_focus(selector).await {
                return;
            }
        }
        panic!("Tab does not reach {selector}: {:?}", self.text().await);
    }

    /// Returns whether an element has the focus.
    pub async fn has_focus(&self, selector: &str) -> bool {
        let active = self.try_get("/element/active").await.ok();
        let active = active.as_ref().and_then(Value::as_object);
        let active = active.and_then(|element| element.values().next());
        let wanted = self.find(selector).await.ok();
        wanted.is_some() && wanted.as_deref() == active.and_then(Value::as_str)
    }

    /// Returns the title of the page.
    pub async fn title(&self) -> String {
        let title = self.try_get("/title").await.expect("a title");
        title.as_str().expect("a text").to_owned()
    }

    /// Returns the URL of the page.
    pub async fn url(&self) -> String {
        let url = self.try_get("/url").await.expect("a URL");
        url.as_str().expect("a text").to_owned()
    }

    /// Returns the names of the cookies of the page, sorted.
    pub async fn cookie_names(&self) -> Vec<String> {
        let cookies = self.try_get("/cookie").await.expect("cookies");
        let cookies = cookies.as_array().expect("a list").iter();
        let mut names: Vec<_> = cookies
            .map(|cookie| cookie["name"].as_str().expect("a name").to_owned())
            .collect();
        names.sort();
        names
    }

    /// Waits for a text, because a click returns before the next page has loaded.
    pub async fn reads(&self, wanted: &str) -> String {
        let description = format!("the page contains {wanted:?}");
        wait_for(&description, async || {
            let text = self.text().await;
            text.ok().filter(|text| text.contains(wanted))
        })
        .await
    }
}

/// Returns the value or the error from chromedriver.
async fn answer(request: reqwest::RequestBuilder) -> Result<Value, Value> {
    let answer = request
        .timeout(PATIENCE)
        .send()
        .await
        .expect("an answer of chromedriver");
    let mut answer: Value = answer.json().await.expect("JSON");
    let value = answer["value"].take();
    if value["error"].is_null() {
        Ok(value)
    } else {
        Err(value["error"].clone())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-KILL", "--", &format!("-{}", self.driver.id())])
            .status();
        let _ = self.driver.wait();
    }
}
