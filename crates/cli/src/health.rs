//! `filepull health`: the probe for images that have no curl.

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

/// What was typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the server listens.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:8080", value_parser = parse_addr)]
    http_addr: SocketAddr,
}

/// A server that takes longer to say how it is, is not well.
const LIMIT: Duration = Duration::from_secs(3);

/// Prints what the server says of itself; success if it is ready.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let addr = reachable(args.http_addr);
    let uri: Uri = format!("http://{addr}/readyz?verbose").parse()?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = async {
        let response = client.get(uri).await?;
        let ready = response.status().is_success();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((ready, String::from_utf8_lossy(&body).into_owned()))
    };
    let answer = timeout(LIMIT, answer).await.context("no answer in 3 s");
    let (ready, said) =
        answer.and_then(|answer| answer).with_context(|| format!("asking http://{addr}/readyz"))?;
    print(said.trim_end())?;
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A server that listens everywhere is asked on loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
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
    fn a_server_that_listens_everywhere_is_asked_on_loopback() {
        let check = |listens: &str, asked: &str| {
            assert_eq!(reachable(listens.parse().unwrap()), asked.parse().unwrap());
        };
        check("0.0.0.0:8080", "127.0.0.1:8080");
        check("[::]:8080", "[::1]:8080");
        check("192.0.2.1:8080", "192.0.2.1:8080");
    }
}
