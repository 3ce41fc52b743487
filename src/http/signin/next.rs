//! The page to which a sign-in leads.

use crate::core::names::ServerName;

/// The pages to which a sign-in may lead. It may also lead to the page of each server.
const PAGES: [&str; 4] = [
    "/signin",
    "/connect",
    "/oauth/authorize",
    "/auth/google/login",
];
/// The beginning of the path of the page of a server.
const SERVER_PAGE: &str = "/connect/";
/// The longest path in bytes.
const MAX_PATH: usize = 32 << 10;

/// Returns the path if it is a page of this API, with or without a query.
pub(super) fn page_of_this_api(path: &str) -> Option<&str> {
    let (page, _) = path.split_once('?').unwrap_or((path, ""));
    let is_path = path.len() <= MAX_PATH
        && path
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let is_page = PAGES.contains(&page) || is_server_page(page);
    (is_path && is_page).then_some(path)
}

fn is_server_page(path: &str) -> bool {
    let name = path.strip_prefix(SERVER_PAGE);
    name.is_some_and(|name| name.parse::<ServerName>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_leads_to_pages_of_this_api_only() {
        for path in [
            "/signin",
            "/oauth/authorize?link=a.b",
            "/auth/google/login?user_id=a%20b&expires=1",
            "/connect",
            "/connect/mcp.github-2",
        ] {
            assert_eq!(page_of_this_api(path), Some(path));
        }
        for path in [
            "",
            "/",
            "//evil.example",
            "https://evil.example/signin",
            "/\\evil.example",
            "/signin\\evil.example",
            "/signin/../../evil",
            "/signin@evil.example",
            "/signin#a",
            "/mcp/servers",
            "/oauth/callback?code=a",
            "/connect/",
            "/connect/..",
            "/connect/%2e%2e",
            "/connect//evil.example",
            "/connect/a/secrets",
            "/connect/a#b",
            "/connected",
            "/oauth/authorize?link=a\r\nset-cookie: a",
            "javascript:alert(1)",
        ] {
            assert_eq!(page_of_this_api(path), None, "{path}");
        }
    }
}
