//! The sandbox of the program: the kernel (Landlock) closes the disk to this process, except for
//! what the agent needs. A bug in the agent, or in a library, then reaches no other file.
//!
//! Open to reading: the folders of the shares, and the system files that TLS and DNS need. Open to
//! writing: the state folder. No program can be started. Only [`program`](crate::program) enters
//! the sandbox: an agent of a test or of the demo shares its process with others.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, PathFdError,
    RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, make_bitflags,
};
use serde::{Deserialize, Serialize};

use crate::config::{Config, SandboxMode};
use crate::share::ShareFolder;

/// What the kernel enforces, for the log and for `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxState {
    pub(crate) level: SandboxLevel,
    /// One or two sentences.
    pub(crate) text: String,
}

/// How much of the sandbox is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SandboxLevel {
    /// Every rule.
    Full,
    /// What an older kernel can enforce, or with a folder open that need not be.
    Partial,
    /// The kernel has no Landlock, or does not allow it to this process.
    NotSupported,
    /// Not requested.
    Off,
}

/// `SANDBOX=required`, and the sandbox is not complete.
#[derive(Debug, thiserror::Error)]
#[error("SANDBOX=required: {0} Set SANDBOX=auto to start anyway")]
pub(crate) struct SandboxError(String);

/// The last version of Landlock whose rights are used. Linux 6.10 has all of them.
const RIGHTS: ABI = ABI::V5;

/// What a folder of shares or of the system allows.
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});

/// What the state folder allows.
const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer
});

/// What DNS, TLS and the runtime read after the start. `/etc` as a whole: programs replace
/// `resolv.conf` and `hosts` by a rename, and a rule for the old file would not allow the new one.
/// The folders of libraries are for the modules of `nsswitch.conf`.
const SYSTEM: [&str; 18] = [
    "/etc",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
    "/usr/lib/ssl",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/proc/self",
    "/proc/sys/kernel/random",
    "/sys/fs/cgroup",
    "/dev/urandom",
    "/dev/null",
];

/// The variables with which OpenSSL, and so the system's roots, are found elsewhere.
const CERTIFICATE_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Everything that stays open.
#[derive(Debug)]
pub(crate) struct FileSandbox {
    mode: SandboxMode,
    shares: Vec<ShareFolder>,
    /// Files and folders that are read. A missing one is skipped.
    system: Vec<PathBuf>,
    state_dir: Option<PathBuf>,
}

impl FileSandbox {
    /// Collects what the agent with this `config` needs. Creates the state folder: a rule needs an
    /// existing folder. Blocks.
    pub(crate) fn new(config: &Config) -> Self {
        let variables = CERTIFICATE_VARIABLES.iter().filter_map(std::env::var_os);
        let usual = SYSTEM.iter().map(PathBuf::from).chain(variables.map(PathBuf::from));
        let system = usual.chain(config.ca_file.clone());
        if let Some(dir) = &config.state_dir {
            // The keeper logs why a folder cannot be created.
            let _ = std::fs::create_dir_all(dir);
        }
        Self {
            mode: config.sandbox,
            shares: config.shares.folders(),
            system: system.collect(),
            state_dir: config.state_dir.clone(),
        }
    }

    /// Restricts this thread, and all threads that it starts later, until the process ends.
    ///
    /// # Errors
    /// The sandbox is required, and the kernel does not enforce all of it.
    pub(crate) fn enter(self) -> Result<SandboxState, SandboxError> {
        if self.mode == SandboxMode::Off {
            return Ok(SandboxState::off("SANDBOX=off"));
        }
        let state = match self.restrict() {
            Ok(RestrictionStatus { ruleset, landlock, .. }) => self.state(&ruleset, landlock),
            Err(error) => not_supported(&format!("the kernel rejected it: {error}")),
        };
        if self.mode == SandboxMode::Required && state.level != SandboxLevel::Full {
            return Err(SandboxError(state.text));
        }
        Ok(state)
    }

    fn restrict(&self) -> Result<RestrictionStatus, RulesetError> {
        let handled = AccessFs::from_all(RIGHTS);
        let mut rules = Ruleset::default().handle_access(handled)?.create()?;
        for ShareFolder { folder, .. } in &self.shares {
            rules = rules.add_rule(PathBeneath::new(folder, READ))?;
        }
        for path in &self.system {
            if let Some(folder) = open(path) {
                // A rule for a file has no right that only folders have.
                let access = if path.is_dir() { READ } else { AccessFs::ReadFile.into() };
                rules = rules.add_rule(PathBeneath::new(folder, access))?;
            }
        }
        if let Some(folder) = self.state_dir.as_deref().and_then(open) {
            rules = rules.add_rule(PathBeneath::new(folder, WRITE))?;
        }
        rules.restrict_self()
    }

    fn state(&self, ruleset: &RulesetStatus, landlock: LandlockStatus) -> SandboxState {
        let abi = match landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi,
            LandlockStatus::NotEnabled => {
                return not_supported(
                    "Landlock is switched off: add it to the kernel's `lsm=` list",
                );
            }
            LandlockStatus::NotImplemented => {
                return not_supported(
                    "this kernel, or the container of this process, has no Landlock (Linux 5.13 \
                     and newer have it)",
                );
            }
        };
        let missing: Vec<String> = self.shares.iter().filter_map(ShareFolder::missing).collect();
        let open = format!("{self}{}", missing.concat());
        match ruleset {
            RulesetStatus::FullyEnforced if missing.is_empty() => {
                SandboxState { level: SandboxLevel::Full, text: open }
            }
            RulesetStatus::FullyEnforced => {
                SandboxState { level: SandboxLevel::Partial, text: open }
            }
            RulesetStatus::PartiallyEnforced => SandboxState {
                level: SandboxLevel::Partial,
                text: format!(
                    "{open} This kernel has version {abi} of Landlock; all rules need version \
                     {RIGHTS} (Linux 6.10)."
                ),
            },
            RulesetStatus::NotEnforced => not_supported("the kernel enforces none of its rules"),
        }
    }
}

impl fmt::Display for FileSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut folders: Vec<String> =
            self.shares.iter().map(|share| share.open_path.display().to_string()).collect();
        folders.dedup();
        let shares = folders.join(", ");
        write!(f, "the agent can read {shares} and system files")?;
        match &self.state_dir {
            Some(dir) => write!(f, ", write {}, and open nothing else.", dir.display()),
            None => write!(f, ", and open nothing else."),
        }
    }
}

impl SandboxState {
    pub(crate) fn off(reason: &str) -> Self {
        Self { level: SandboxLevel::Off, text: format!("{reason}.") }
    }
}

impl fmt::Display for SandboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            SandboxLevel::Full => "on",
            SandboxLevel::Partial => "partly on",
            SandboxLevel::NotSupported => "not supported",
            SandboxLevel::Off => "off",
        };
        write!(f, "{level}: {}", self.text)
    }
}

fn not_supported(reason: &str) -> SandboxState {
    SandboxState { level: SandboxLevel::NotSupported, text: format!("{reason}.") }
}

/// Opens a file or folder for a rule only. A missing one needs no rule.
fn open(path: &Path) -> Option<PathFd> {
    match PathFd::new(path) {
        Ok(found) => Some(found),
        Err(PathFdError::OpenCall { source, .. }) => {
            if source.kind() != io::ErrorKind::NotFound {
                tracing::debug!(event = "sandbox.path_skipped", ?path, error = %source, "skipped");
            }
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests;
