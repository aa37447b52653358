//! `filepull health`: the health check for container images without curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use filepull_core::human::parse_addr;
use http_body_util::{BodyExt as _, Empty};
use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use crate::output::print;

/// Command line of `filepull health`, unvalidated.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address where the server accepts HTTP requests.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:8080", value_parser = parse_addr)]
    http_addr: SocketAddr,
}

/// How long the server may take to answer.
const LIMIT: Duration = Duration::from_secs(3);

/// Prints the readiness report of the server. Returns success if the server is ready.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let addr = dial_addr(args.http_addr);
    let uri: Uri = format!("http://{addr}/readyz?verbose").parse()?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let request = async {
        let response = client.get(uri).await?;
        let is_ready = response.status().is_success();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((is_ready, String::from_utf8_lossy(&body).into_owned()))
    };
    let answer = timeout(LIMIT, request).await.context("no answer in 3 s").flatten();
    let (is_ready, report) = answer.with_context(|| format!("requesting http://{addr}/readyz"))?;
    print(report.trim_end())?;
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
