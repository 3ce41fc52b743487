//! As much of a browser as an authorization needs: redirects, each site's cookies, and a person who clicks the button of a
//! link's page.

use std::collections::HashMap;

use url::Url;
use url::form_urlencoded::Serializer;

use crate::page_client::{form, refresh};

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
        // The fields of the form that the person sends next.
        let mut fields = None;
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
            let request = match fields.take() {
                Some(fields) => {
                    let body = Serializer::new(String::new()).extend_pairs(fields).finish();
                    let form = "application/x-www-form-urlencoded";
                    let request = self.http.post(url.clone());
                    request.header("content-type", form).body(body)
                }
                None => self.http.get(url.clone()),
            };
            let response = request
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
            if let Some(next) = response.headers().get("location") {
                url = url.join(next.to_str().expect("a text")).expect("a URL");
                continue;
            }
            let text = response.text().await.expect("a text");
            if let Some(next) = refresh(&text) {
                url = Url::parse(&next).expect("a URL");
            } else if let Some(button) = form(&text, "/oauth/authorize") {
                fields = Some(button.fields);
            } else {
                return Page { url, status, text };
            }
        }
        panic!("{url}: sent from here to there without an end");
    }
}
