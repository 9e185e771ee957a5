//! A headless browser, by the WebDriver protocol (W3C), as much of it as the test needs.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use axum::body::Body;
use axum::http::{Method, Request, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// A browser with one window, which ends with the value.
pub(crate) struct Browser {
    driver: Child,
    session: String,
}

impl Browser {
    /// Starts it, and opens a page.
    pub(crate) async fn open(page: &str) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            // With its browser, so that both can be ended together.
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed by scripts/servers");
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let port = line.strip_prefix("ChromeDriver was started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let root = format!("http://127.0.0.1:{}", port.expect("chromedriver says its port"));
        let mut browser = Self { driver, session: root };
        let options = json!({"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]});
        let capabilities =
            json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}});
        let created = browser.ask(Method::POST, "/session", &capabilities).await;
        let id = created["sessionId"].as_str().expect("a session").to_owned();
        browser.session.push_str(&format!("/session/{id}"));
        browser.ask(Method::POST, "/url", &json!({"url": page})).await;
        browser
    }

    /// Clicks what the selector finds, as a person does.
    pub(crate) async fn click(&self, selector: &str) {
        let by = json!({"using": "css selector", "value": selector});
        let found = self.ask(Method::POST, "/element", &by).await;
        let element = found.as_object().and_then(|found| found.values().next()?.as_str());
        let path = format!("/element/{}/click", element.expect("an element"));
        self.ask(Method::POST, &path, &json!({})).await;
    }

    /// Returns what a script returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.ask(Method::POST, "/execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Ends it, and removes what it has stored.
    pub(crate) async fn close(self) {
        self.ask(Method::DELETE, "", &json!({})).await;
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Value {
        let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.session))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = client.request(request).await.unwrap();
        let is_ok = response.status().is_success();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let reply: Value = serde_json::from_slice(&bytes).unwrap();
        assert!(is_ok, "{path}: {reply}");
        reply["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = format!("-{}", self.driver.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.driver.wait();
    }
}
