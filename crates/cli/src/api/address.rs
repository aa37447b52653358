//! The address of the server: where an operator's command sends its requests.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

/// URL of a server, such as `http://localhost:8080`. It may have a path, for a proxy that serves
/// filepull beneath one.
#[derive(Clone, Debug)]
pub(crate) struct ServerUrl(Url);

impl ServerUrl {
    /// Parses `FILEPULL_SERVER`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        // The text is not repeated if it may contain a password.
        let has_scheme = text.starts_with("http://") || text.starts_with("https://");
        if !has_scheme {
            return Err("write http://HOST:PORT or https://HOST:PORT".to_owned());
        }
        let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL with a password ends up in logs: put an API token into \
                        FILEPULL_TOKEN, or into a file for --token-file"
                .to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("write the address only, without ? and #".to_owned());
        }
        Ok(Self(url))
    }

    /// Returns the URL of a path such as `/api/v1/invites`.
    pub(crate) fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0.as_str().trim_end_matches('/'))
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Returns whether what is sent can be read on the way: plain HTTP to another machine.
    pub(crate) fn is_readable_on_the_way(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let is_this_machine = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
        !self.is_https() && !is_this_machine
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_joined_with_paths() {
        let check = |text: &str, joined: &str| {
            assert_eq!(ServerUrl::parse(text).unwrap().join("/livez"), joined);
        };
        check("http://localhost:8080", "http://localhost:8080/livez");
        check("http://localhost:8080/", "http://localhost:8080/livez");
        check("https://pull.example.com/filepull/", "https://pull.example.com/filepull/livez");
        check("http://[::1]:80", "http://[::1]/livez");
    }

    #[test]
    fn an_address_that_is_none_is_rejected_with_the_form_to_write() {
        let check = |text: &str, part: &str| {
            let error = ServerUrl::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("localhost:8080", "http://HOST:PORT");
        check("ftp://localhost", "http://HOST:PORT");
        check("http://", "not a URL");
        check("http://localhost:8080?x", "without ?");
        check("http://ops:secret@localhost", "FILEPULL_TOKEN");
        assert!(!ServerUrl::parse("http://ops:secret@localhost").unwrap_err().contains("secret"));
    }

    #[test]
    fn only_plain_http_to_another_machine_can_be_read_on_the_way() {
        let check = |text: &str, expected: bool| {
            assert_eq!(
                ServerUrl::parse(text).unwrap().is_readable_on_the_way(),
                expected,
                "{text}"
            );
        };
        check("http://localhost:8080", false);
        check("http://127.0.0.2:8080", false);
        check("http://[::1]:8080", false);
        check("https://pull.example.com", false);
        check("http://pull.example.com", true);
        check("http://192.0.2.7:8080", true);
    }
}
