//! The page that a browser gets instead of a pull: one button, which sends a POST.

use std::fmt::Write as _;

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};

use crate::http::request::params::Params;

/// The page has no script and no style, and no other site may frame it.
const POLICY: &str =
    "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");

/// Returns the page that asks whether to pull `file` from `client`. The button sends the parameters.
pub(crate) fn page(client: &str, file: &str, params: &Params) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "same-origin"),
        (ROBOTS, "noindex, nofollow"),
    ];
    (StatusCode::OK, headers, html(client, file, params)).into_response()
}

fn html(client: &str, file: &str, params: &Params) -> String {
    let question = escaped(&format!("Pull {file} from {client}?"));
    let mut fields = String::new();
    for (name, value) in params.iter() {
        let name = escaped(name);
        let value = escaped(value);
        // Writing to a String cannot fail.
        let _ = writeln!(fields, "<input type=\"hidden\" name=\"{name}\" value=\"{value}\">");
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{question}</title>\n\
         <h1>{question}</h1>\n<form method=\"post\" action=\"/trigger\">\n{fields}\
         <button>Pull</button>\n</form>\n\
         <p>Nothing has been started. A browser must confirm, a program need not.</p>\n</html>\n"
    )
}

/// Escapes text for HTML, also inside quoted attributes.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_the_url_is_escaped() {
        let params = Params::from_query(Some("path=%22%3e%3cscript%3e%27%26&id=client4")).unwrap();
        let html = html("client4", "\"><script>'&", &params);
        assert!(!html.contains("<script"), "{html}");
        let value = "name=\"path\" value=\"&quot;&gt;&lt;script&gt;&#39;&amp;\"";
        assert!(html.contains(value), "{html}");
        assert!(html.contains("<h1>Pull &quot;&gt;&lt;script&gt;&#39;&amp; from client4?</h1>"));
        assert_eq!(html.matches("<button>").count(), 1);
        assert!(!html.contains("href"), "{html}");
    }
}
