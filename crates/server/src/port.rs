//! Explains why the server cannot listen on an address: which process uses the port, what to change.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use filepull_core::human;

/// Returns an error that says how to fix the setting whose address cannot be listened on.
pub(crate) fn explained(setting: &str, addr: SocketAddr, error: io::Error) -> anyhow::Error {
    let kind = error.kind();
    let reason = if kind == io::ErrorKind::AddrInUse {
        let holder = holder(addr).map_or_else(|| unknown_holder(addr), |holder| holder.describe());
        format!("the port is in use by {holder}. Or set {setting}={}", other_port(addr))
    } else if kind == io::ErrorKind::AddrNotAvailable {
        format!(
            "this machine has no address {}. Set {setting} to one of its own, to 127.0.0.1:{port} \
             for this machine only, or to 0.0.0.0:{port} for all",
            addr.ip(),
            port = addr.port()
        )
    } else if kind == io::ErrorKind::PermissionDenied {
        format!(
            "ports below 1024 need root or CAP_NET_BIND_SERVICE. Set {setting}={}",
            SocketAddr::new(addr.ip(), 8080)
        )
    } else {
        return anyhow::Error::new(error).context(format!("listening on {setting}={addr}"));
    };
    // The error text of the system is left out: it contains less.
    anyhow::anyhow!("listening on {setting}={addr}: {reason}")
}

/// A process that listens on a port.
#[derive(Debug, PartialEq, Eq)]
struct PortHolder {
    pid: u32,
    command: String,
}

impl PortHolder {
    fn describe(&self) -> String {
        let Self { pid, command } = self;
        format!("process {pid} ({command}). To end it: kill {pid}")
    }
}

fn unknown_holder(addr: SocketAddr) -> String {
    let port = addr.port();
    format!("another process. To see which: sudo ss -ltnp \"sport = :{port}\"")
}

/// Returns the next port, or the previous one for port 65535.
fn other_port(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port().checked_add(1).unwrap_or(u16::MAX - 1))
}

/// Returns the process that listens on `addr`, or on the same port of all addresses. None if /proc does
/// not show it to this user.
fn holder(addr: SocketAddr) -> Option<PortHolder> {
    let files = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let tables: String = files.into_iter().flatten().collect();
    let inodes: Vec<&str> = tables.lines().filter_map(|line| listener(line, addr)).collect();
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let files = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let mut links = files.filter_map(|file| fs::read_link(file.path()).ok());
        let holds = links.any(|link| sockets.iter().any(|socket| link == Path::new(socket)));
        holds.then(|| PortHolder { pid, command: command(&process.path()) })
    })
}

/// Returns the inode of the socket in a line of /proc/net/tcp, if the socket conflicts with `addr`.
fn listener(line: &str, addr: SocketAddr) -> Option<&str> {
    const LISTENS: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, LISTENS, _, _, _, _, _, inode, ..] = fields[..] else { return None };
    let (ip, port) = local.split_once(':')?;
    let is_port = u16::from_str_radix(port, 16).ok()? == addr.port();
    let is_any = ip.bytes().all(|digit| digit == b'0');
    (is_port && (is_any || addr.ip().is_unspecified() || ip == hex(addr.ip()))).then_some(inode)
}

/// Formats an address like /proc: groups of four bytes, each in the byte order of this machine.
fn hex(ip: IpAddr) -> String {
    let group = |bytes: &[u8]| {
        let number = bytes.try_into().map_or(0, u32::from_ne_bytes);
        format!("{number:08X}")
    };
    match ip {
        IpAddr::V4(ip) => group(&ip.octets()),
        IpAddr::V6(ip) => ip.octets().chunks(4).map(group).collect(),
    }
}

fn command(process: &Path) -> String {
    let args = fs::read(process.join("cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&args).replace('\0', " ");
    human::printable(command.trim(), 80)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_process_that_uses_a_port_is_named() {
        for ip in ["127.0.0.1", "[::1]", "0.0.0.0"] {
            let Ok(taken) = TcpListener::bind(format!("{ip}:0")) else { continue };
            let addr = taken.local_addr().unwrap();
            let found = holder(addr).unwrap();
            assert_eq!(found.pid, std::process::id(), "{addr}");
            let error = io::Error::from(io::ErrorKind::AddrInUse);
            let message = explained("HTTP_ADDR", addr, error).to_string();
            let expected = format!(
                "listening on HTTP_ADDR={addr}: the port is in use by process {pid} ({command}). \
                 To end it: kill {pid}. Or set HTTP_ADDR={}",
                other_port(addr),
                pid = found.pid,
                command = found.command,
            );
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn only_a_listener_of_the_same_port_is_found() {
        let addr = "127.0.0.1:8080".parse().unwrap();
        let line = |local: &str, state: &str| {
            format!("0: {local} 00000000:0000 {state} 0:0 0:0 0 0 0 4711 1 0 100 0 0 10 0")
        };
        assert_eq!(listener(&line("0100007F:1F90", "0A"), addr), Some("4711"));
        assert_eq!(listener(&line("00000000:1F90", "0A"), addr), Some("4711"));
        assert_eq!(listener(&line("0100007F:1F90", "01"), addr), None);
        assert_eq!(listener(&line("0100007F:1F91", "0A"), addr), None);
        assert_eq!(listener(&line("0200007F:1F90", "0A"), addr), None);
        assert_eq!(listener("  sl  local_address rem_address   st", addr), None);
    }

    #[test]
    fn an_address_of_another_machine_is_explained() {
        let addr = "192.0.2.7:80".parse().unwrap();
        let message = |kind: io::ErrorKind| explained("GRPC_ADDR", addr, kind.into()).to_string();
        let elsewhere = message(io::ErrorKind::AddrNotAvailable);
        assert!(elsewhere.contains("this machine has no address 192.0.2.7"), "{elsewhere}");
        let low = message(io::ErrorKind::PermissionDenied);
        assert!(low.ends_with("Set GRPC_ADDR=192.0.2.7:8080"), "{low}");
    }
}
