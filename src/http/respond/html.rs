//! Small pages for people who open a link in a browser.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::json::{set_retry_after, status_of};
use crate::core::failure::Failure;
use crate::http::state::ApiState;

/// Headers of every response to a browser. The browser stores no page, loads nothing, shows the
/// page in no frame, and sends the URL, which can hold a code, to no other site.
const SECURITY_HEADERS: [(HeaderName, HeaderValue); 4] = [
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

/// Returns a page with one title and one text. Both are plain text.
pub fn html_page(status: StatusCode, title: &str, text: &str) -> Response {
    let title = escape_html(title);
    let text = escape_html(text);
    let html = format!(
        "<!doctype html>\n\
         <html lang=\"en\">\n\
         <meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n\
         <h1>{title}</h1>\n\
         <p>{text}</p>\n\
         </html>\n"
    );
    let mut response = (status, html).into_response();
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    with_security_headers(response)
}

/// Returns a redirect of the browser.
pub fn redirect(location: HeaderValue) -> Response {
    let mut response = StatusCode::FOUND.into_response();
    response.headers_mut().insert(LOCATION, location);
    with_security_headers(response)
}

fn with_security_headers(mut response: Response) -> Response {
    response.headers_mut().extend(SECURITY_HEADERS);
    response
}

/// Forbids other sites to show the page in a frame. For pages that load scripts and styles.
pub fn forbid_frames(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("frame-ancestors 'none'"),
    );
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
}

/// A failure as a page, with the status of the JSON response.
pub struct HtmlError(pub Failure);

impl From<Failure> for HtmlError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for HtmlError {
    fn into_response(self) -> Response {
        let failure = self.0;
        let text = match &failure.details {
            Some(details) => format!("{}: {details}", failure.message),
            None => failure.message,
        };
        let mut response = html_page(status_of(failure.code), "This did not work", &text);
        set_retry_after(&mut response, failure.retry_after);
        response
    }
}

fn escape_html(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
    html
}

/// Returns the URL of a path: under `PUBLIC_URL`, else under the host of this request.
pub fn public_url(state: &ApiState, host: Option<&HeaderValue>, path: &str) -> String {
    if let Some(public) = &state.access().public {
        return format!("{}{path}", public.url);
    }
    let authority = host.and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    authority.map_or_else(
        || path.to_owned(),
        |authority| format!("http://{authority}{path}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_text_as_text() {
        assert_eq!(
            escape_html("<b a='\"'>&amp;"),
            "&lt;b a=&#39;&quot;&#39;&gt;&amp;amp;"
        );
    }
}
