//! Runs the tools of the system that trials need, and checks that they are installed.

use std::process::Stdio;
use std::time::Duration;

use filepull_testkit::process;
use tokio::process::Command;

use crate::sandbox::Sandbox;

/// Maximum time of a tool that runs to its end.
const TOOL_LIMIT: Duration = Duration::from_secs(30);

/// What a trial needs. If it is missing the run fails, unless `--skip` names the promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requirement {
    Root,
    /// A program, and the Debian package that contains it.
    Program(&'static str, &'static str),
    /// A file system that the kernel must support.
    FileSystem(&'static str),
    /// A plugin of nbdkit, and the Debian package that contains it.
    Plugin(&'static str, &'static str),
}

/// For loop devices with ext4 and XFS, and power cuts.
pub(crate) const LOOP_DISKS: &[Requirement] = &[
    Requirement::Root,
    Requirement::Program("mkfs.ext4", "e2fsprogs"),
    Requirement::Program("mkfs.xfs", "xfsprogs"),
    Requirement::Program("xfs_io", "xfsprogs"),
    Requirement::FileSystem("ext4"),
    Requirement::FileSystem("xfs"),
    Requirement::Program("strace", "strace"),
];

/// For disks whose writes are recorded.
pub(crate) const RECORDED_DISKS: &[Requirement] = &[
    Requirement::Program("nbdkit", "nbdkit"),
    Requirement::Plugin("python", "nbdkit-plugin-python"),
    Requirement::Program("nbdfuse", "libnbd-bin"),
    Requirement::Program("fusermount3", "fuse3"),
    Requirement::FileSystem("fuse"),
];

/// For network namespaces with a router between them.
pub(crate) const NETWORKS: &[Requirement] = &[
    Requirement::Root,
    Requirement::Program("ip", "iproute2"),
    Requirement::Program("tc", "iproute2"),
    Requirement::Program("iptables", "iptables"),
    Requirement::Program("nft", "nftables"),
    Requirement::Program("sysctl", "procps"),
];

/// Concatenates two lists; `N` is the total length.
pub(crate) const fn both<const N: usize>(
    one: &[Requirement],
    other: &[Requirement],
) -> [Requirement; N] {
    assert!(one.len() + other.len() == N, "N is the total length");
    let mut all = [Requirement::Root; N];
    let (first, second) = all.split_at_mut(one.len());
    first.copy_from_slice(one);
    second.copy_from_slice(other);
    all
}

impl Requirement {
    /// Returns a description if the requirement is missing.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "root".to_owned()),
            Self::Program(program, package) => process::installed(program)
                .is_none()
                .then(|| format!("{program} (apt-get install {package})")),
            Self::FileSystem(name) => {
                let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
                let found = known.split_whitespace().any(|known| known == name);
                (!found).then(|| format!("the file system {name} in this kernel"))
            }
            Self::Plugin(name, package) => {
                let file = format!("nbdkit/plugins/nbdkit-{name}-plugin.so");
                let mut folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
                let found = folders.any(|folder| folder.path().join(&file).is_file());
                (!found).then(|| format!("nbdkit's {name} (apt-get install {package})"))
            }
        }
    }
}

/// A command that is marked as part of this run, without the environment of the caller.
pub(crate) fn command(sandbox: &Sandbox, program: &str) -> Command {
    let (mark, folder) = sandbox.mark();
    let mut command = process::command(program);
    command.env(mark, folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a tool to its end.
pub(crate) async fn run(sandbox: &Sandbox, program: &str, args: &[&str]) -> anyhow::Result<()> {
    let mut command = command(sandbox, program);
    command.args(args);
    process::finish(command, TOOL_LIMIT).await.map(drop)
}
