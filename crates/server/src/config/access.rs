//! The settings of access to the HTTP API.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use axum::http::HeaderName;
use axum::http::header::{AUTHORIZATION, COOKIE, HOST};
use filepull_core::human;
use filepull_process::environment::check_path;
use ipnet::IpNet;

use crate::data_folder::RECORDS_FOLDER;

/// Command line and environment of access to the HTTP API, unvalidated.
#[derive(Clone, Debug, clap::Args)]
pub struct AccessArgs {
    /// Who may use the HTTP API: `auto` needs no sign-in on a loopback address and a token on
    /// others, `tokens` always needs a token, `none` allows every caller.
    #[arg(long, env = "HTTP_AUTH", default_value = "auto")]
    pub http_auth: HttpAuth,
    /// File of the API tokens, which `filepull token` edits; read again when it changes
    /// [default: .filepull/tokens in DATA_DIR].
    #[arg(long, env = "TOKENS_FILE", value_name = "FILE")]
    pub tokens_file: Option<PathBuf>,
    /// Header in which a trusted proxy names its signed-in user, such as X-Forwarded-User; the
    /// tokens file gives the user a role.
    #[arg(long, env = "AUTH_HEADER", value_name = "NAME")]
    pub auth_header: Option<HeaderName>,
    /// Addresses of the proxies whose AUTH_HEADER is believed, such as 10.0.0.5,192.168.0.0/24.
    #[arg(long, env = "TRUSTED_PROXIES", value_name = "ADDRESSES")]
    pub trusted_proxies: Option<ProxyList>,
    /// Host names that requests may use while no sign-in is needed, such as pull.example.com,
    /// besides localhost, IP addresses and names without a dot.
    #[arg(long, env = "ALLOWED_HOSTS", value_name = "NAMES")]
    pub allowed_hosts: Option<HostList>,
    /// Whether a GET of /trigger starts a pull; `off` accepts only POST.
    #[arg(long, env = "TRIGGER_GET", default_value = "on")]
    pub trigger_get: TriggerGet,
}

/// Who may use the HTTP API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HttpAuth {
    /// Every caller on loopback; callers with a token on other addresses, or behind a proxy that
    /// signs users in.
    Auto,
    /// Callers with a token, on any address.
    Tokens,
    /// Every caller, on any address.
    None,
}

/// Whether a GET of `/trigger` starts a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TriggerGet {
    /// GET and POST start a pull.
    On,
    /// Only POST starts a pull.
    Off,
}

/// Networks of trusted proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyList(pub Vec<IpNet>);

/// Host names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostList(pub Vec<String>);

/// The validated settings of access to the HTTP API.
#[derive(Clone, Debug)]
pub struct AccessConfig {
    /// Who may use the HTTP API.
    pub http_auth: HttpAuth,
    /// The file of the tokens.
    pub tokens_file: PathBuf,
    /// The header in which a trusted proxy names the user.
    pub auth_header: Option<HeaderName>,
    /// The proxies whose header is believed.
    pub trusted_proxies: ProxyList,
    /// The host names that requests may use while no sign-in is needed.
    pub allowed_hosts: HostList,
    /// Whether a GET of `/trigger` starts a pull.
    pub trigger_get: TriggerGet,
}

impl AccessArgs {
    /// Returns the validated settings.
    pub(crate) fn into_config(self, data_dir: &Path) -> AccessConfig {
        let tokens_file = self.tokens_file.unwrap_or_else(|| default_tokens_file(data_dir));
        AccessConfig {
            http_auth: self.http_auth,
            tokens_file,
            auth_header: self.auth_header,
            trusted_proxies: self.trusted_proxies.unwrap_or_default(),
            allowed_hosts: self.allowed_hosts.unwrap_or_default(),
            trigger_get: self.trigger_get,
        }
    }

    /// Returns one sentence for each error in the settings.
    pub(crate) fn errors(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let trusts_all = |net: &IpNet| net.prefix_len() == 0;
        match (&self.auth_header, &self.trusted_proxies) {
            (Some(_), None) => errors.push(
                "AUTH_HEADER is set without TRUSTED_PROXIES: no proxy would be believed. Set it to \
                 the address of the proxy."
                    .to_owned(),
            ),
            (None, Some(_)) => errors.push(
                "TRUSTED_PROXIES is set without AUTH_HEADER. Set the header in which the proxy \
                 names the user, or remove TRUSTED_PROXIES."
                    .to_owned(),
            ),
            (Some(_), Some(ProxyList(proxies))) if proxies.iter().any(trusts_all) => errors.push(
                "TRUSTED_PROXIES contains every address: each caller could name itself. List only \
                 the proxies."
                    .to_owned(),
            ),
            (Some(_), Some(_)) | (None, None) => {}
        }
        let reserved = [AUTHORIZATION, COOKIE, HOST];
        if let Some(name) = self.auth_header.as_ref().filter(|name| reserved.contains(name)) {
            errors.push(format!("AUTH_HEADER={name} has another meaning. Use X-Forwarded-User."));
        }
        if self.http_auth == HttpAuth::None && self.auth_header.is_some() {
            errors.push(
                "AUTH_HEADER is set, and HTTP_AUTH=none ignores it. Remove one of them.".to_owned(),
            );
        }
        let flaw = self.tokens_file.as_deref().and_then(|path| check_path(path).err());
        errors.extend(flaw.map(|flaw| format!("TOKENS_FILE: {flaw}")));
        errors
    }
}

impl AccessConfig {
    /// Returns whether callers must sign in.
    pub fn needs_sign_in(&self, http_addr: SocketAddr) -> bool {
        match self.http_auth {
            HttpAuth::Tokens => true,
            HttpAuth::None => false,
            // A proxy that signs users in may run on this machine.
            HttpAuth::Auto => is_exposed(http_addr.ip()) || self.auth_header.is_some(),
        }
    }
}

/// Returns whether other machines can connect to this address.
pub(crate) fn is_exposed(ip: IpAddr) -> bool {
    !ip.to_canonical().is_loopback()
}

/// Returns the file of the tokens of a server that has no `TOKENS_FILE`.
pub fn default_tokens_file(data_dir: &Path) -> PathBuf {
    data_dir.join(RECORDS_FOLDER).join("tokens")
}

impl FromStr for ProxyList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: &str| {
            let net = part.parse().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
            net.map_err(|_| {
                let shown = human::printable(part, 80);
                format!("{shown:?} is not an address. Write 10.0.0.5 or 192.168.0.0/24")
            })
        };
        parts(text).map(parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for HostList {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(parts(text).map(str::to_ascii_lowercase).collect()))
    }
}

/// Returns the parts of a list that is separated by commas or spaces.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty())
}

impl fmt::Display for ProxyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nets: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&nets.join(","))
    }
}

impl ProxyList {
    /// Returns whether the address belongs to one of the proxies.
    pub(crate) fn contains(&self, addr: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&addr.to_canonical()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_proxies_has_addresses_and_networks() {
        let list: ProxyList = "10.0.0.5, 192.168.0.0/24,2001:db8::/32".parse().unwrap();
        let check = |addr: &str, expected| {
            assert_eq!(list.contains(addr.parse().unwrap()), expected, "{addr}");
        };
        check("10.0.0.5", true);
        check("10.0.0.6", false);
        check("192.168.0.255", true);
        check("192.168.1.0", false);
        check("::ffff:10.0.0.5", true);
        check("2001:db8::1", true);
        check("::1", false);
        let error = "proxy.example.com".parse::<ProxyList>().unwrap_err();
        assert!(error.contains("is not an address"), "{error}");
    }
}
