//! The page to which a sign-in leads.

/// The pages to which a sign-in may lead.
const PAGES: [&str; 3] = ["/signin", "/oauth/authorize", "/auth/google/login"];
/// The longest path in bytes.
const MAX_PATH: usize = 32 << 10;

/// Returns the path if it is a page of this API, with or without a query.
pub(super) fn page_of_this_api(path: &str) -> Option<&str> {
    let (page, _) = path.split_once('?').unwrap_or((path, ""));
    let is_path = path.len() <= MAX_PATH
        && path
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    (is_path && PAGES.contains(&page)).then_some(path)
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
            "/oauth/authorize?link=a\r\nset-cookie: a",
            "javascript:alert(1)",
        ] {
            assert_eq!(page_of_this_api(path), None, "{path}");
        }
    }
}
