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

/// Headers that replace the headers above on a page with forms. The browser sends the forms to this origin only, and names
/// the origin, which the check of `Origin` needs.
const FORM_HEADERS: [(HeaderName, HeaderValue); 2] = [
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
    ),
    (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
];

/// Returns a page with one title and one text. Both are plain text.
pub(crate) fn html_page(status: StatusCode, title: &str, text: &str) -> Response {
    Page::new(title).paragraph(text).respond(status)
}

/// Returns a page that leads to another site.
///
/// Chromium applies `form-action` to the redirects of a form, so a form gets this page instead of a redirect.
pub(crate) fn page_that_leads_to(url: &str, title: &str, link: &str) -> Page {
    Page::new(title).open_at_once(url).link(url, link)
}

/// A page as HTML. Every text that it gets is plain text.
pub(crate) struct Page {
    /// The text of the heading.
    title: String,
    /// The outcome of the last action. A screen reader reads the title of a page first, and the title begins with it.
    outcome: Option<String>,
    /// Further elements of the head.
    head: String,
    /// The links before the main part.
    navigation: String,
    body: String,
    has_form: bool,
}

/// A form of a page.
pub(crate) struct Form<'a> {
    /// The path that gets the form, with the path of `PUBLIC_URL`.
    pub action: &'a str,
    /// The hidden fields of the form.
    pub hidden: &'a [(&'a str, &'a str)],
    pub password: Option<PasswordField<'a>>,
    pub button: &'a str,
}

/// A field that hides the text while a person enters it. A page never shows the text of an earlier form.
pub(crate) struct PasswordField<'a> {
    pub name: &'a str,
    /// Names the field on the page. A page has each id once.
    pub id: &'a str,
    pub label: &'a str,
    pub autocomplete: &'static str,
    /// A text under the field.
    pub hint: Option<&'a str>,
    /// The reason why the program did not accept the last text.
    pub problem: Option<&'a str>,
}

impl Page {
    pub(crate) fn new(title: &str) -> Self {
        Self {
            title: escape_html(title),
            outcome: None,
            head: String::new(),
            navigation: String::new(),
            body: String::new(),
            has_form: false,
        }
    }

    /// Adds links (URL and text) to other pages before the main part.
    pub(crate) fn navigation(mut self, links: &[(String, String)]) -> Self {
        self.navigation += "<nav aria-label=\"Pages\">\n";
        for (url, text) in links {
            let (url, text) = (escape_html(url), escape_html(text));
            self.navigation += &format!("<p><a href=\"{url}\">{text}</a></p>\n");
        }
        self.navigation += "</nav>\n";
        self
    }

    /// Adds the sentence that the last action worked. The title of the page begins with it.
    pub(crate) fn confirmation(mut self, text: &str) -> Self {
        let text = escape_html(text);
        self.body += &format!("<p role=\"status\">{text}</p>\n");
        self.outcome = Some(text);
        self
    }

    /// Adds the sentence that the last action failed, with a link to the field of this id. The browser moves the focus to
    /// it, and the title of the page begins with "Error".
    pub(crate) fn problem(mut self, text: &str, field: Option<&str>) -> Self {
        let text = escape_html(text);
        let text = match field {
            Some(id) => format!("<a href=\"#{}\">{text}</a>", escape_html(id)),
            None => text,
        };
        self.body += &format!(
            "<div role=\"alert\" tabindex=\"-1\" autofocus>\n\
             <h2>There is a problem</h2>\n\
             <p>{text}</p>\n\
             </div>\n"
        );
        self.outcome = Some("Error".into());
        self
    }

    /// Adds a heading of the second or of the third level.
    pub(crate) fn heading(mut self, level: HeadingLevel, text: &str) -> Self {
        let text = escape_html(text);
        let tag = match level {
            HeadingLevel::Part => "h2",
            HeadingLevel::Item => "h3",
        };
        self.body += &format!("<{tag}>{text}</{tag}>\n");
        self
    }

    /// Adds a list of links (URL and text), each with a further text.
    pub(crate) fn link_list(mut self, items: &[(String, String, String)]) -> Self {
        self.body += "<ul>\n";
        for (url, text, more) in items {
            let (url, text, more) = (escape_html(url), escape_html(text), escape_html(more));
            self.body += &format!("<li><a href=\"{url}\">{text}</a>: {more}</li>\n");
        }
        self.body += "</ul>\n";
        self
    }

    pub(crate) fn paragraph(mut self, text: &str) -> Self {
        self.body += &format!("<p>{}</p>\n", escape_html(text));
        self
    }

    /// Adds a sentence that a screen reader reads first.
    pub(crate) fn alert(mut self, text: &str) -> Self {
        self.body += &format!("<p role=\"alert\">{}</p>\n", escape_html(text));
        self
    }

    pub(crate) fn link(mut self, url: &str, text: &str) -> Self {
        let (url, text) = (escape_html(url), escape_html(text));
        self.body += &format!("<p><a href=\"{url}\">{text}</a></p>\n");
        self
    }

    /// Makes the browser open a URL at once. A page needs a link to this URL too, for browsers that stay.
    pub(crate) fn open_at_once(mut self, url: &str) -> Self {
        let url = escape_html(url);
        self.head += &format!("<meta http-equiv=\"refresh\" content=\"0;url={url}\">\n");
        self
    }

    pub(crate) fn form(mut self, form: &Form<'_>) -> Self {
        self.has_form = true;
        self.body += &format!(
            "<form method=\"post\" action=\"{}\">\n",
            escape_html(form.action)
        );
        for (name, value) in form.hidden {
            let value = escape_html(value);
            self.body += &format!("<input type=\"hidden\" name=\"{name}\" value=\"{value}\">\n");
        }
        if let Some(field) = &form.password {
            self.body += &field.to_html();
        }
        let button = escape_html(form.button);
        self.body += &format!("<p><button type=\"submit\">{button}</button></p>\n</form>\n");
        self
    }

    pub(crate) fn respond(self, status: StatusCode) -> Response {
        let Self {
            title,
            head,
            navigation,
            body,
            ..
        } = self;
        let outcome = self
            .outcome
            .map_or(String::new(), |text| format!("{text} – "));
        let html = format!(
            "<!doctype html>\n\
             <html lang=\"en\">\n\
             <meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             {head}\
             <title>{outcome}{title}</title>\n\
             {navigation}\
             <main>\n\
             <h1>{title}</h1>\n\
             {body}\
             </main>\n\
             </html>\n"
        );
        let mut response = (status, html).into_response();
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        let mut response = with_security_headers(response);
        if self.has_form {
            for (name, value) in FORM_HEADERS {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// The level of a heading below the heading of the page.
#[derive(Clone, Copy)]
pub(crate) enum HeadingLevel {
    Part,
    Item,
}

impl<'a> PasswordField<'a> {
    /// Returns the field for a token of this API.
    pub(crate) fn of_token(label: &'a str) -> Self {
        Self {
            name: "token",
            id: "token",
            label,
            autocomplete: "current-password",
            hint: None,
            problem: None,
        }
    }

    fn to_html(&self) -> String {
        let Self { name, id, .. } = self;
        let label = escape_html(self.label);
        let autocomplete = self.autocomplete;
        let mut texts = String::new();
        let mut described_by = vec![];
        let mut invalid = "";
        if let Some(problem) = self.problem {
            let problem = escape_html(problem);
            texts += &format!("<br><strong id=\"{id}-problem\">{problem}</strong>\n");
            described_by.push(format!("{id}-problem"));
            invalid = " aria-invalid=\"true\"";
        }
        if let Some(hint) = self.hint {
            let hint = escape_html(hint);
            texts += &format!("<br><small id=\"{id}-hint\">{hint}</small>\n");
            described_by.push(format!("{id}-hint"));
        }
        let described = if described_by.is_empty() {
            String::new()
        } else {
            format!(" aria-describedby=\"{}\"", described_by.join(" "))
        };
        format!(
            "<p><label for=\"{id}\">{label}</label>\n\
             <input id=\"{id}\" name=\"{name}\" type=\"password\" \
             autocomplete=\"{autocomplete}\" required{invalid}{described}>\n\
             {texts}</p>\n"
        )
    }
}

/// Returns a redirect of the browser.
pub(crate) fn redirect(location: HeaderValue) -> Response {
    redirect_as(StatusCode::FOUND, location)
}

/// Returns a redirect after a form. The browser opens the location with `GET`.
pub(crate) fn redirect_after_form(location: HeaderValue) -> Response {
    redirect_as(StatusCode::SEE_OTHER, location)
}

fn redirect_as(status: StatusCode, location: HeaderValue) -> Response {
    let mut response = status.into_response();
    response.headers_mut().insert(LOCATION, location);
    with_security_headers(response)
}

fn with_security_headers(mut response: Response) -> Response {
    response.headers_mut().extend(SECURITY_HEADERS);
    response
}

/// Forbids other sites to show the page in a frame. For pages that load scripts and styles.
pub(crate) fn forbid_frames(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("frame-ancestors 'none'"),
    );
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
}

/// A failure as a page, with the status of the JSON response.
pub(crate) struct HtmlError(pub Failure);

impl From<Failure> for HtmlError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for HtmlError {
    fn into_response(self) -> Response {
        failure_page(self.0, None)
    }
}

/// Returns a failure as a page, with a link (URL and text) to the page that goes on.
pub(crate) fn failure_page(failure: Failure, link: Option<(&str, &str)>) -> Response {
    let (status, retry_after) = (status_of(failure.code), failure.retry_after);
    let mut page = Page::new("This did not work").paragraph(&failure_text(failure));
    if let Some((url, text)) = link {
        page = page.link(url, text);
    }
    let mut response = page.respond(status);
    set_retry_after(&mut response, retry_after);
    response
}

/// Returns the sentence of a failure, with its details. A page has no administrator as its caller.
pub(crate) fn failure_text(failure: Failure) -> String {
    let failure = failure.without_details_for_admins();
    match &failure.details {
        Some(details) => format!("{}: {details}", failure.message),
        None => failure.message,
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

/// Returns a path for a link or a form of a page: under the path of `PUBLIC_URL`.
pub(crate) fn page_path(state: &ApiState, path: &str) -> String {
    let public = state.access().public.as_ref();
    let prefix = public.map_or("", |public| public.path.as_str());
    format!("{prefix}{path}")
}

/// Returns the URL of a path: under `PUBLIC_URL`, else under the host of this request.
pub(crate) fn public_url(state: &ApiState, host: Option<&HeaderValue>, path: &str) -> String {
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
    fn a_field_is_tied_to_its_label_its_problem_and_its_hint() {
        let field = PasswordField {
            name: "value",
            id: "value-2",
            label: "Value of <A>",
            autocomplete: "off",
            hint: Some("One line"),
            problem: Some("Too long"),
        };
        let html = field.to_html();
        for part in [
            "<label for=\"value-2\">Value of &lt;A&gt;</label>",
            "id=\"value-2\" name=\"value\" type=\"password\" autocomplete=\"off\" required",
            "aria-invalid=\"true\" aria-describedby=\"value-2-problem value-2-hint\"",
            "<strong id=\"value-2-problem\">Too long</strong>",
            "<small id=\"value-2-hint\">One line</small>",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
        assert!(!PasswordField::of_token("Token").to_html().contains("aria-"));
    }

    #[test]
    fn a_page_shows_text_as_text() {
        assert_eq!(
            escape_html("<b a='\"'>&amp;"),
            "&lt;b a=&#39;&quot;&#39;&gt;&amp;amp;"
        );
    }
}
