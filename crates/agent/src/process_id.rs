//! Identifies a process. A PID alone does not, because the system reuses it.

use std::fs;
use std::io;

use rustix::process::{Pid, test_kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Identifies one process among all processes that ever ran on this machine. A field is empty if
/// the system does not report it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// The PID in the namespace of the process.
    pub(crate) pid: u32,
    /// When the process started, in clock ticks since the boot.
    pub(crate) started: u64,
    /// The id of the boot during which the process runs.
    pub(crate) boot_id: String,
    /// The PID namespace of `pid`: a container has its own.
    pub(crate) pid_namespace: String,
}

impl ProcessId {
    /// Returns the identity of this process.
    pub(crate) fn own() -> Self {
        let pid = std::process::id();
        Self { pid, started: started(pid).unwrap_or_default(), ..Self::here() }
    }

    /// Returns the boot id and the PID namespace of this process.
    fn here() -> Self {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Self {
            boot_id: boot_id.trim().to_owned(),
            pid_namespace: namespace.to_string_lossy().into_owned(),
            ..Self::default()
        }
    }

    /// Returns whether the process has certainly ended. The processes of another container are not
    /// visible, so they count as running.
    pub(crate) fn has_ended(&self) -> bool {
        let here = Self::here();
        if self.boot_id != here.boot_id {
            return true;
        }
        if self.pid_namespace != here.pid_namespace {
            return false;
        }
        match started(self.pid) {
            Ok(started) => started != self.started,
            // /proc may hide the processes of other users.
            Err(_) => !is_used(self.pid),
        }
    }
}

/// Returns whether any process has this PID.
fn is_used(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // EPERM: the process exists and belongs to another user.
    pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Returns the 22nd field of `/proc/PID/stat`; `u64::MAX` for a zombie, an error if the
/// process has ended.
fn started(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name of the program, in parentheses. It may contain any character.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let is_zombie = fields.next() == Some("Z");
    let started = fields.nth(18).and_then(|field| field.parse().ok());
    // No process has this start time, so a zombie matches no recorded process.
    if is_zombie { Ok(u64::MAX) } else { started.ok_or_else(|| io::ErrorKind::InvalidData.into()) }
}

/// Returns the milliseconds since the boot, including suspended time. Unlike the wall clock, this
/// clock is never set.
pub(crate) fn uptime_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let ms = time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000);
    u64::try_from(ms).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_when_its_pid_belongs_to_another_one() {
        let own = ProcessId::own();
        assert!(!own.has_ended() && own.started > 0, "{own:?}");
        let earlier = ProcessId { started: own.started - 1, ..own.clone() };
        assert!(earlier.has_ended());
        let before_the_boot = ProcessId { boot_id: "other".to_owned(), ..own.clone() };
        assert!(before_the_boot.has_ended());
        // No process gets this PID.
        let unused = ProcessId { pid: 0x7fff_fff0, ..own.clone() };
        assert!(unused.has_ended());
        let in_a_container = ProcessId { pid_namespace: "pid:[1]".to_owned(), ..unused };
        assert!(!in_a_container.has_ended());
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let before = ProcessId { pid: child.id(), started: 1, ..ProcessId::own() };
        assert!(before.has_ended());
        child.wait().unwrap();
    }
}
