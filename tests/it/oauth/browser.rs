//! As much of a browser as an authorization needs: redirects, and each site's cookies.

use std::collections::HashMap;

use url::Url;

#[derive(Clone)]
pub struct Browser {
    http: reqwest::Client,
    cookies: HashMap<String, HashMap<String, String>>,
}

/// Where the way ended.
pub struct Page {
    pub url: Url,
    pub status: u16,
    pub text: String,
}

impl Browser {
    pub fn new() -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client");
        Self {
            http,
            cookies: HashMap::new(),
        }
    }

    /// Goes there and on, to the first page that sends nobody further.
    pub async fn open(&mut self, from: &str) -> Page {
        self.open_until(from, |_| false).await
    }

    /// The same, but not to a place like that.
    pub async fn open_until(&mut self, from: &str, stop: impl Fn(&Url) -> bool) -> Page {
        let mut url = Url::parse(from).expect("a URL");
        for _ in 0..15 {
            if stop(&url) {
                return Page {
                    url,
                    status: 0,
                    text: String::new(),
                };
            }
            let site = self
                .cookies
                .entry(url.origin().ascii_serialization())
                .or_default();
            let sent: Vec<_> = site
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let response = self
                .http
                .get(url.clone())
                .header("cookie", sent.join("; "))
                .send()
                .await
                .expect("an answer");
            for cookie in response.headers().get_all("set-cookie") {
                let cookie = cookie.to_str().expect("a text");
                let (name, value) = cookie
                    .split(';')
                    .next()
                    .and_then(|pair| pair.split_once('='))
                    .expect("a cookie");
                match cookie.contains("Max-Age=0") {
                    true => site.remove(name),
                    false => site.insert(name.to_owned(), value.to_owned()),
                };
            }
            let status = response.status().as_u16();
            let Some(next) = response.headers().get("location") else {
                return Page {
                    url,
                    status,
                    text: response.text().await.expect("a text"),
                };
            };
            url = url.join(next.to_str().expect("a text")).expect("a URL");
        }
        panic!("{url}: sent from here to there without an end");
    }
}
