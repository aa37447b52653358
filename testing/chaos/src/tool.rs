//! The tools of the system that trials need, and how they are run.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use filepull_testkit::process;
use tokio::process::Command;
use tokio::time::timeout;

use crate::sandbox::Sandbox;

/// No tool that is run to its end takes longer.
const TOOL_LIMIT: Duration = Duration::from_secs(30);

/// What a trial cannot do without. Where it is missing the trial fails, unless it is skipped by
/// name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The rights of root.
    Root,
    /// A program, and the Debian package it comes in.
    Program(&'static str, &'static str),
    /// A file system that the kernel must know.
    FileSystem(&'static str),
    /// A plugin of nbdkit, and the Debian package it comes in.
    Plugin(&'static str, &'static str),
}

/// Loop devices with ext4 and XFS, and the power cut.
pub const LOOP_DISKS: &[Requirement] = &[
    Requirement::Root,
    Requirement::Program("mkfs.ext4", "e2fsprogs"),
    Requirement::Program("mkfs.xfs", "xfsprogs"),
    Requirement::Program("xfs_io", "xfsprogs"),
    Requirement::FileSystem("ext4"),
    Requirement::FileSystem("xfs"),
    Requirement::Program("strace", "strace"),
];

/// A disk whose writes are recorded.
pub const RECORDED_DISKS: &[Requirement] = &[
    Requirement::Program("nbdkit", "nbdkit"),
    Requirement::Plugin("python", "nbdkit-plugin-python"),
    Requirement::Program("nbdfuse", "libnbd-bin"),
    Requirement::Program("fusermount3", "fuse3"),
    Requirement::FileSystem("fuse"),
];

/// Namespaces with a router between them, which drops, resets, forgets and delays.
pub const NETWORKS: &[Requirement] = &[
    Requirement::Root,
    Requirement::Program("ip", "iproute2"),
    Requirement::Program("tc", "iproute2"),
    Requirement::Program("iptables", "iptables"),
    Requirement::Program("nft", "nftables"),
    Requirement::Program("sysctl", "procps"),
];

/// The needs of two lists together; `N` is how many that are.
pub const fn both<const N: usize>(one: &[Requirement], other: &[Requirement]) -> [Requirement; N] {
    assert!(one.len() + other.len() == N, "N is how many there are");
    let mut all = [Requirement::Root; N];
    let (first, second) = all.split_at_mut(one.len());
    first.copy_from_slice(one);
    second.copy_from_slice(other);
    all
}

impl Requirement {
    /// Says what is missing, if it is.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "root".to_owned()),
            Self::Program(program, package) => process::installed(program)
                .is_none()
                .then(|| format!("{program} (apt-get install {package})")),
            Self::FileSystem(name) => {
                let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
                let there = known.split_whitespace().any(|word| word == name);
                (!there).then(|| format!("the file system {name} in this kernel"))
            }
            Self::Plugin(name, package) => {
                let file = format!("nbdkit/plugins/nbdkit-{name}-plugin.so");
                let mut folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
                let there = folders.any(|folder| folder.path().join(&file).is_file());
                (!there).then(|| format!("nbdkit's {name} (apt-get install {package})"))
            }
        }
    }
}

/// A command that belongs to this run and knows nothing else of our environment.
pub fn command(ground: &Sandbox, program: &str) -> Command {
    let mut command = Command::new(program);
    let (mark, folder) = ground.mark();
    command.env_clear().env("PATH", process::PATH).env("LC_ALL", "C").env(mark, folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

/// Runs a tool to its end; what it printed.
///
/// # Errors
/// It failed, with its words, or does not end.
pub async fn run(ground: &Sandbox, program: &str, args: &[&str]) -> anyhow::Result<String> {
    let mut command = command(ground, program);
    let output = timeout(TOOL_LIMIT, command.args(args).output()).await;
    let output = output.with_context(|| format!("{program} does not end"))?;
    let output = output.with_context(|| format!("starting {program}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {}: {}", args.join(" "), words.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
