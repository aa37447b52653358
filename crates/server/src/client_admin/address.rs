//! Where agents reach this server: `PUBLIC_ADDR`, or a guess.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use filepull_core::invite::ServerAddress;
use tracing::warn;

/// An address for documentation (RFC 5737). Nothing is sent to it.
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// Returns the addresses for invites. `configured` is `PUBLIC_ADDR`; if it is empty the address is guessed
/// from the listener, and logged.
pub(crate) fn public_addresses(
    configured: &[ServerAddress],
    grpc_addr: SocketAddr,
) -> Arc<[ServerAddress]> {
    if !configured.is_empty() {
        return configured.into();
    }
    let ip = match grpc_addr.ip() {
        ip if ip.is_unspecified() => outgoing_ip().unwrap_or(ip),
        ip => ip,
    };
    let guessed = ServerAddress::new(&reachable(ip).to_string(), grpc_addr.port());
    if let Some(address) = guessed.as_ref().filter(|_| !ip.is_loopback()) {
        warn!(
            event = "config.warning", key = "PUBLIC_ADDR", %address,
            "PUBLIC_ADDR is not set: invites name the address of this machine"
        );
    }
    guessed.into_iter().collect()
}

/// Returns an address that an agent on this machine reaches, if there is no better one.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Returns the address of this machine in the network of its default route.
fn outgoing_ip() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Connecting a UDP socket only looks up the route.
    socket.connect(ELSEWHERE).ok()?;
    socket.local_addr().ok().map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_wins_over_a_guess() {
        let configured = [ServerAddress::parse("pull.example.com").unwrap()];
        let listening = "0.0.0.0:50051".parse().unwrap();
        assert_eq!(*public_addresses(&configured, listening), configured);
    }

    #[test]
    fn the_guess_is_an_address_that_can_be_dialled() {
        let guess = |addr: &str| public_addresses(&[], addr.parse().unwrap());
        assert_eq!(guess("192.0.2.7:1")[0].to_string(), "192.0.2.7:1");
        assert_eq!(guess("[2001:db8::1]:1")[0].to_string(), "[2001:db8::1]:1");
        assert_ne!(guess("0.0.0.0:50051")[0].host(), "0.0.0.0");
    }
}
