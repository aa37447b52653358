//! `HTTPS_PROXY` and `NO_PROXY`: the proxy through which the agent reaches its server.

use std::sync::Arc;

use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use crate::dial::ServerAddr;

/// The rules that choose a proxy. `Debug` does not show credentials.
#[derive(Clone, Debug)]
pub struct ProxyRules(Arc<Matcher>);

impl ProxyRules {
    /// Uses no proxy.
    pub fn none() -> Self {
        Self::new("", "")
    }

    /// Uses a proxy such as `http://user:password@10.0.0.1:3128`, except for the hosts of `no_proxy`.
    pub fn new(https_proxy: &str, no_proxy: &str) -> Self {
        Self(Arc::new(Matcher::builder().https(https_proxy).no(no_proxy).build()))
    }

    /// Reads `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, as curl does.
    pub(crate) fn from_env() -> Self {
        Self(Arc::new(Matcher::from_env()))
    }

    /// Returns the proxy for a server. A proxy is used with TLS only: it could read and change plain
    /// text.
    pub(crate) fn for_server(&self, server: &ServerAddr) -> Option<Intercept> {
        self.0.intercept(&server.uri("https"))
    }

    /// Returns a text if the proxy for a server cannot be used.
    pub(crate) fn flaw(&self, server: &ServerAddr) -> Option<String> {
        let proxy = self.for_server(server)?;
        let scheme = proxy.uri().scheme_str().unwrap_or_default();
        (scheme != "http").then(|| {
            format!(
                "HTTPS_PROXY: a proxy of kind {scheme} is not supported; write http://host:port"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_names_the_servers_that_are_dialed_directly() {
        let proxy = ProxyRules::new("http://user:secret@10.0.0.1:3128", "example.com,192.0.2.0/24");
        let uses_proxy = |text: &str| proxy.for_server(&ServerAddr::parse(text).unwrap()).is_some();
        assert!(uses_proxy("pull.example.org"));
        assert!(!uses_proxy("pull.example.com:50051"));
        assert!(!uses_proxy("192.0.2.7"));
        assert!(!format!("{proxy:?}").contains("secret"));
    }

    #[test]
    fn only_a_proxy_of_http_is_supported() {
        let server = ServerAddr::parse("pull.example.com").unwrap();
        assert_eq!(ProxyRules::new("10.0.0.1:3128", "").flaw(&server), None);
        let flaw = ProxyRules::new("socks5://10.0.0.1:1080", "").flaw(&server).unwrap();
        assert!(flaw.contains("socks5 is not supported"), "{flaw}");
    }
}
