//! The worst case: every upload that may run does, and the disk takes nothing any more.
//!
//! The disk is a file with a file system of its own, which is frozen: whoever writes to it waits in
//! the kernel, as for a disk that does not answer.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use filepull_testkit::{DEADLINE, process};
use serde::Serialize;
use tokio::time::sleep;

use super::crowd::Crowd;
use crate::Bench;
use crate::product::Ends;
use crate::report::tell;
use crate::source::{self, SourceFile};

/// Uploads at once: MAX_RUNNING, as it is by default.
pub(super) const N_CLIENTS: u32 = 20;

/// STREAM_WINDOW, as it is by default.
pub(super) const WINDOW: u64 = 16 << 20;

/// What each of so many uploads holds besides what its window allows: a batch that is being
/// written, and one that waits.
pub(super) const BATCHES: u64 = 2 * (256 << 10);

/// Large enough that no upload ends before all have begun.
const SIZE: u64 = 1 << 30;

/// Room for all of it, though little of it is ever written.
const DISK: u64 = 64 << 30;

/// The memory of the server must not have grown for this long.
const CALM: Duration = Duration::from_secs(5);

/// Less than the server waits for a byte until it gives an upload up.
const LIMIT: Duration = Duration::from_secs(45);

/// The folder of a disk, before the number of the process.
const NAME: &str = "stalling-disk-";

/// One way of connecting.
#[derive(Debug, Serialize)]
pub(super) struct Stalled {
    pub(super) data_conn: &'static str,
    /// Connected, before the transfers.
    pub(super) before: Ends<u64>,
    pub(super) peak: Ends<u64>,
}

/// A disk that can be stopped.
#[derive(Debug)]
struct StalledDisk {
    mount: PathBuf,
}

/// Lets the disk stall under all uploads, and waits until the server holds as much as it ever will.
pub(super) async fn measure(bench: &Bench, data_conn: &'static str) -> anyhow::Result<Stalled> {
    anyhow::ensure!(rustix::process::getuid().is_root(), "a disk of our own needs root");
    let folder = source::folder(&bench.folder)?;
    let source = SourceFile::make(&folder.path().join("source"), SIZE)?;
    remove_leftovers(&bench.folder)?;
    let disk = StalledDisk::make(folder.path()).await?;
    let places = (disk.mount.as_path(), folder.path());
    let crowd = Crowd::start(&bench.programs, places, &source, N_CLIENTS, data_conn).await?;
    let before = crowd.peak_rss()?;
    let ids = crowd.begin_all().await?;
    let process = &crowd.server.process;
    let all_run = async || match crowd.written(&ids).await {
        Ok(written) => written.iter().all(|&bytes| 0 < bytes),
        Err(_) => false,
    };
    process.until("receive from all", all_run).await?;
    disk.freeze().await?;
    tell(format!("the disk stalls under {N_CLIENTS} uploads, data connection {data_conn}"));
    calm(&crowd).await?;
    let peak = crowd.peak_rss()?;
    let written = crowd.written(&ids).await?;
    sleep(CALM).await;
    anyhow::ensure!(written == crowd.written(&ids).await?, "the disk does not stall");
    disk.thaw().await?;
    crowd.end().await?;
    Ok(Stalled { data_conn, before, peak })
}

/// Waits until the server has stopped growing.
async fn calm(crowd: &Crowd) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut most = crowd.server.process.rss()?;
    let mut grown = Instant::now();
    while grown.elapsed() < CALM {
        sleep(Duration::from_millis(100)).await;
        let now = crowd.server.process.rss()?;
        if most < now {
            (most, grown) = (now, Instant::now());
        }
        anyhow::ensure!(began.elapsed() < LIMIT, "the server does not stop growing: {most} bytes");
    }
    Ok(())
}

impl StalledDisk {
    async fn make(folder: &Path) -> anyhow::Result<Self> {
        let image = folder.join("disk.img");
        File::create(&image)?.set_len(DISK)?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image]).await?;
        let mount = folder.join(format!("{NAME}{}", std::process::id()));
        std::fs::create_dir(&mount)?;
        run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &mount]).await?;
        Ok(Self { mount })
    }

    async fn freeze(&self) -> anyhow::Result<()> {
        run("fsfreeze", &["-f".as_ref(), &self.mount]).await
    }

    async fn thaw(&self) -> anyhow::Result<()> {
        run("fsfreeze", &["-u".as_ref(), &self.mount]).await
    }
}

impl Drop for StalledDisk {
    fn drop(&mut self) {
        unmount(&self.mount);
    }
}

/// Thaws it first, or whoever waits for it could not even be killed. It may be thawed already.
fn unmount(mount: &Path) {
    for (tool, flag) in [("fsfreeze", "-u"), ("umount", "-l")] {
        let _ = std::process::Command::new(tool).arg(flag).arg(mount).output();
    }
}

/// Unmounts the disks of runs that were killed.
fn remove_leftovers(folder: &Path) -> anyhow::Result<()> {
    let folder = folder.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    for mount in leftovers(&mounts, &folder).filter(|(_, pid)| !process::is_ours(*pid)) {
        unmount(mount.0);
    }
    Ok(())
}

/// Every disk of ours beneath `folder`, and which process mounted it.
fn leftovers<'a>(mounts: &'a str, folder: &Path) -> impl Iterator<Item = (&'a Path, u32)> {
    mounts.lines().filter_map(move |line| {
        let mount = Path::new(line.split(' ').nth(1)?);
        let pid = mount.file_name()?.to_str()?.strip_prefix(NAME)?.parse().ok()?;
        mount.starts_with(folder).then_some((mount, pid))
    })
}

async fn run(tool: &str, args: &[&Path]) -> anyhow::Result<()> {
    let mut command = process::command(tool);
    command.args(args);
    process::finish(command, DEADLINE).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_of_ours_are_leftovers() {
        let mounts = "/dev/loop0 /b/filepull-bench-x/stalling-disk-42 ext4 rw 0 0\n\
                      /dev/loop1 /c/stalling-disk-43 ext4 rw 0 0\n\
                      /dev/loop2 /b/data ext4 rw 0 0\n";
        let found: Vec<_> = leftovers(mounts, Path::new("/b")).collect();
        assert_eq!(found, [(Path::new("/b/filepull-bench-x/stalling-disk-42"), 42)]);
    }
}
