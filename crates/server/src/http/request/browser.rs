//! Tells browsers from programs. A browser loads URLs without being asked: link previews,
//! prefetches, images of other sites. So its GET must start nothing.

use axum::http::HeaderMap;
use axum::http::header::USER_AGENT;

/// Headers that only browsers send; `Origin` with a GET comes from a script of a page. Over plain HTTP
/// they omit `Sec-Fetch-...` except for localhost, so the name of the program counts too.
const SIGNS: [&str; 3] = ["sec-purpose", "purpose", "origin"];

/// Returns whether a browser sent the request.
pub(crate) fn is_browser(headers: &HeaderMap) -> bool {
    let has_sign = |name: &str| name.starts_with("sec-fetch-") || SIGNS.contains(&name);
    let name = headers.get(USER_AGENT).map(|name| name.as_bytes()).unwrap_or_default();
    let agent = String::from_utf8_lossy(name);
    // The `curl` of Windows PowerShell is an alias whose agent begins with `Mozilla/5.0`.
    let is_named_so = agent.starts_with("Mozilla/") && !agent.contains("PowerShell");
    is_named_so || headers.keys().any(|name| has_sign(name.as_str()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    #[test]
    fn a_browser_is_recognised_by_its_headers_or_its_name() {
        let check = |name: &str, value: &str, expected: bool| {
            let name = name.parse::<HeaderName>().unwrap();
            let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
            assert_eq!(is_browser(&headers), expected, "{value}");
        };
        check("user-agent", "curl/8.5.0", false);
        check("user-agent", "Wget/1.21", false);
        check("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101", true);
        let powershell = "Mozilla/5.0 (Windows NT; Windows NT 10.0; de-DE) WindowsPowerShell/5.1";
        check("user-agent", powershell, false);
        check("sec-fetch-site", "none", true);
        check("sec-fetch-mode", "navigate", true);
        check("sec-purpose", "prefetch", true);
        check("purpose", "prefetch", true);
        check("origin", "https://other.example", true);
        check("accept", "text/html", false);
    }
}
