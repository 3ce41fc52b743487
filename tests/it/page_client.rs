//! A client for pages: it keeps cookies and sends forms, and it follows no redirect.

use std::collections::BTreeMap;

use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use url::Url;
use url::form_urlencoded;

/// The cookies of one site in one browser.
#[derive(Clone)]
pub struct PageClient {
    http: reqwest::Client,
    pub cookies: BTreeMap<String, String>,
}

/// A page that the client got.
pub struct Shown {
    pub url: Url,
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

/// A form of a page.
pub struct FoundForm {
    pub action: String,
    pub fields: Vec<(String, String)>,
}

impl PageClient {
    pub fn new() -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client");
        Self {
            http,
            cookies: BTreeMap::new(),
        }
    }

    pub async fn get(&mut self, url: &str) -> Shown {
        self.send(self.http.get(url)).await
    }

    pub async fn post(&mut self, url: &str, fields: &[(&str, &str)]) -> Shown {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let request = self
            .http
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        self.send(request).await
    }

    /// Sends the form of a page whose action has a path that ends with a text, with further fields.
    pub async fn submit(&mut self, page: &Shown, action: &str, more: &[(&str, &str)]) -> Shown {
        let form = page.form(action).unwrap_or_else(|| {
            panic!(
                "no form {action} on {}: {} {}",
                page.url, page.status, page.text
            )
        });
        self.send_form(page, &form, more).await
    }

    /// Sends a form of a page with further fields.
    pub async fn send_form(
        &mut self,
        page: &Shown,
        form: &FoundForm,
        more: &[(&str, &str)],
    ) -> Shown {
        let mut fields: Vec<_> = form
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        fields.extend(more);
        let url = page.url.join(&form.action).expect("a URL");
        self.post(url.as_str(), &fields).await
    }

    /// Opens the page to which a response leads with 303.
    pub async fn follow(&mut self, response: &Shown) -> Shown {
        assert_eq!(response.status, 303, "{}", response.text);
        let url = response.url.join(response.header("location"));
        self.get(url.expect("a URL").as_str()).await
    }

    /// Signs in at an address of the program.
    pub async fn sign_in(&mut self, address: &str, token: &str) -> Shown {
        let page = self.get(&format!("{address}/signin")).await;
        self.submit(&page, "/signin", &[("token", token)]).await
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> Shown {
        let pairs: Vec<_> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let response = request.header(COOKIE, pairs.join("; ")).send().await;
        let response = response.expect("an answer");
        for cookie in response.headers().get_all(SET_COOKIE) {
            let cookie = cookie.to_str().expect("ASCII");
            let pair = cookie
                .split(';')
                .next()
                .and_then(|pair| pair.split_once('='));
            let (name, value) = pair.expect("a cookie");
            if cookie.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Shown {
            url: response.url().clone(),
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await.expect("a text"),
        }
    }
}

impl Shown {
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// Returns the form whose action has a path that ends with a text.
    pub fn form(&self, action: &str) -> Option<FoundForm> {
        form(&self.text, action)
    }

    /// Returns the form whose action has a path that ends with a text, and that has a hidden field with this value.
    pub fn form_with(&self, action: &str, name: &str, value: &str) -> Option<FoundForm> {
        forms(&self.text, action).find(|form| {
            let mut fields = form.fields.iter();
            fields.any(|field| (field.0.as_str(), field.1.as_str()) == (name, value))
        })
    }

    /// Returns the URL to which the page leads at once.
    pub fn leads_to(&self) -> Option<String> {
        let location = self.headers.get(LOCATION);
        let location = location.map(|url| url.to_str().expect("ASCII").to_owned());
        location.or_else(|| refresh(&self.text))
    }

    /// Asserts that the page refuses something with one sentence.
    pub fn refuses(&self, status: u16, sentence: &str) {
        let is_refused = self.status == status && self.text.contains(sentence);
        assert!(is_refused, "{sentence}: {} {}", self.status, self.text);
        assert_eq!(self.header("content-type"), "text/html; charset=utf-8");
        assert!(self.leads_to().is_none(), "{}", self.text);
    }
}

/// Returns the form in a page whose action has a path that ends with a text.
pub fn form(page: &str, action: &str) -> Option<FoundForm> {
    forms(page, action).next()
}

/// Returns all such forms.
fn forms(page: &str, action: &str) -> impl Iterator<Item = FoundForm> {
    page.split("<form ").skip(1).filter_map(move |form| {
        let form = form.split("</form>").next()?;
        let found = unescape(attribute(form, "action")?);
        let path = found.split('?').next()?;
        if !path.ends_with(action) {
            return None;
        }
        let hidden = form.split("<input ").skip(1);
        let hidden = hidden.filter(|input| attribute(input, "type") == Some("hidden"));
        let fields = hidden.filter_map(|input| {
            let name = attribute(input, "name")?.to_owned();
            Some((name, unescape(attribute(input, "value")?)))
        });
        Some(FoundForm {
            action: found,
            fields: fields.collect(),
        })
    })
}

/// Returns the URL that a page opens at once.
pub fn refresh(page: &str) -> Option<String> {
    let (_, rest) = page.split_once("http-equiv=\"refresh\" content=\"0;url=")?;
    rest.split('"').next().map(unescape)
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = element.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}
