//! Small pages for people: what a browser is shown where no program reads the answer.

use std::time::Duration;

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::json::status_of;
use crate::core::failure::Failure;
use crate::http::state::ApiState;

/// What every answer to a browser says: it is kept nowhere, loads nothing, stands in no frame, and the address it was
/// found at, which may hold a code, goes to nobody.
const SHUT: [(HeaderName, HeaderValue); 4] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
];

/// A page of one title and one text, neither of them HTML.
pub fn html_page(status: StatusCode, title: &str, text: &str) -> Response {
    let (title, text) = (escaped(title), escaped(text));
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<h1>{title}</h1>\n<p>{text}</p>\n</html>\n"
    );
    let mut response = (status, html).into_response();
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    with_security_headers(response)
}

/// Sends the browser elsewhere.
pub fn redirect(to: HeaderValue) -> Response {
    let mut response = StatusCode::FOUND.into_response();
    response.headers_mut().insert(header::LOCATION, to);
    with_security_headers(response)
}

fn with_security_headers(mut response: Response) -> Response {
    response.headers_mut().extend(SHUT);
    response
}

/// A failure as a person sees it, with the status that a program would get.
pub struct HtmlError(pub Failure);

impl From<Failure> for HtmlError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for HtmlError {
    fn into_response(self) -> Response {
        let Failure {
            code,
            message,
            details,
            retry_after,
            ..
        } = self.0;
        let text = match details {
            Some(details) => format!("{message}: {details}"),
            None => message,
        };
        let mut response = html_page(status_of(code), "This did not work", &text);
        if let Some(seconds) = retry_after {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

/// Where a browser finds a path of ours: under `PUBLIC_URL`, else at the host that this request was sent to.
pub fn public_url(facade: &ApiState, host: Option<&HeaderValue>, path: &str) -> String {
    if let Some(public) = &facade.access.public {
        return format!("{}{path}", public.url);
    }
    let host = host.and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    host.map_or_else(|| path.to_owned(), |host| format!("http://{host}{path}"))
}

/// A cookie that no script reads, for the pages under `path`, sent along when another site's page leads here.
pub fn cookie(
    facade: &ApiState,
    name: &str,
    value: &str,
    path: &str,
    lives: Duration,
) -> Option<HeaderValue> {
    let (prefix, secure) = facade.access.public.as_ref().map_or(("", ""), |public| {
        let secure = if public.secure { "; Secure" } else { "" };
        (&public.path, secure)
    });
    let seconds = lives.as_secs();
    let cookie = format!(
        "{name}={value}; Path={prefix}{path}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
    );
    HeaderValue::from_str(&cookie).ok()
}

/// What a request brings of a cookie.
pub fn cookie_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs = headers
        .get_all(header::COOKIE)
        .into_iter()
        .filter_map(|cookies| cookies.to_str().ok());
    let mut pairs = pairs
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(found, value)| (found == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_text_as_text() {
        assert_eq!(
            escaped("<b a='\"'>&amp;"),
            "&lt;b a=&#39;&quot;&#39;&gt;&amp;amp;"
        );
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("xa=1; a=2=3;b="));
        headers.append(header::COOKIE, HeaderValue::from_static("c=4"));
        assert_eq!(cookie_of(&headers, "a"), Some("2=3"));
        assert_eq!(
            (cookie_of(&headers, "b"), cookie_of(&headers, "c")),
            (Some(""), Some("4"))
        );
        assert_eq!(cookie_of(&headers, "x"), None);
    }
}
