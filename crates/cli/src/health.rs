//! `filepull health`: the health check for container images without curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use filepull_core::human::parse_addr;
use filepull_trust::{ServerTrust, client_config, fingerprint_of};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use crate::output::print;

/// Command line of `filepull health`, unvalidated.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address where the server accepts HTTP requests.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:8080", value_parser = parse_addr)]
    http_addr: SocketAddr,
    /// Certificate of the server, if it speaks HTTPS: only that server is asked.
    #[arg(long, env = "HTTP_TLS_CERT")]
    http_tls_cert: Option<PathBuf>,
}

/// How long the server may take to answer.
const LIMIT: Duration = Duration::from_secs(3);

/// Prints the readiness report of the server. Returns success if the server is ready.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let addr = dial_addr(args.http_addr);
    let scheme = if args.http_tls_cert.is_some() { "https" } else { "http" };
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls_config(args.http_tls_cert.as_deref())?)
        // A proxy of the environment does not reach the loopback address of this machine.
        .no_proxy()
        .timeout(LIMIT)
        .build()?;
    let url = format!("{scheme}://{addr}/readyz");
    let request = async {
        let response = client.get(format!("{url}?verbose")).send().await?;
        let is_ready = response.status().is_success();
        anyhow::Ok((is_ready, response.text().await?))
    };
    let (is_ready, report) = request.await.with_context(|| format!("requesting {url}"))?;
    print(report.trim_end())?;
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns a configuration that accepts only a server with a key in this file, of the server or of its
/// authority. Names and dates decide nothing: the address is an IP address of this machine. Without a
/// file it accepts no server.
fn tls_config(certificate: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let Some(path) = certificate else {
        let builder = ClientConfig::builder_with_provider(filepull_trust::provider())
            .with_protocol_versions(&[&TLS13])?;
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    };
    let named = || format!("reading HTTP_TLS_CERT={}", path.display());
    let found = CertificateDer::pem_file_iter(path).with_context(named)?;
    let pins: Result<Vec<_>, anyhow::Error> =
        found.map(|certificate| Ok(fingerprint_of(&certificate?)?)).collect();
    let trust = ServerTrust::Pins(pins.with_context(named)?);
    let mut config = Arc::unwrap_or_clone(client_config(&trust, None).with_context(named)?);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Returns the address to connect to: loopback if the server listens on all addresses.
fn dial_addr(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_addresses_is_reached_on_loopback() {
        let check = |listens: &str, dialled: &str| {
            assert_eq!(dial_addr(listens.parse().unwrap()), dialled.parse().unwrap());
        };
        check("0.0.0.0:8080", "127.0.0.1:8080");
        check("[::]:8080", "[::1]:8080");
        check("192.0.2.1:8080", "192.0.2.1:8080");
    }
}
