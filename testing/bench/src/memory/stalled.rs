//! The worst case: the maximum number of uploads, while the disk accepts no more writes.
//!
//! The disk is an image with a file system that is frozen: a write waits in the kernel, as for a
//! disk that does not respond.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use filepull_testkit::{DEADLINE, process};
use serde::Serialize;
use tokio::time::sleep;

use super::many_clients::ManyClients;
use crate::Bench;
use crate::product::BothEnds;
use crate::report::log_progress;
use crate::source::{self, SourceFile};

/// Concurrent uploads: the default of MAX_RUNNING.
pub(super) const N_CLIENTS: u32 = 20;

/// The default of STREAM_WINDOW.
pub(super) const WINDOW: u64 = 16 << 20;

/// Memory of each upload besides its window: a batch that is being written, a batch that waits, and its
/// share of the buffers of direct writes.
pub(super) const BATCHES: u64 = 2 * (192 << 10) + (2 << 20) / 20;

/// Large enough that no upload ends before all have started.
const SIZE: u64 = 1 << 30;

/// Space for all files, though only a small part is written.
const DISK: u64 = 64 << 30;

/// The memory of the server must not grow for this time.
const STABLE_TIME: Duration = Duration::from_secs(5);

/// Shorter than the timeout of the server for an upload without progress.
const LIMIT: Duration = Duration::from_secs(45);

/// The name of the mount folder, without the process id.
const NAME: &str = "stalling-disk-";

/// The figures of one kind of data connection.
#[derive(Debug, Serialize)]
pub(super) struct StalledMeasurement {
    pub(super) data_conn: &'static str,
    /// After the connections, before the transfers.
    pub(super) before: BothEnds<u64>,
    pub(super) peak: BothEnds<u64>,
}

/// A disk that can be frozen.
#[derive(Debug)]
struct StalledDisk {
    mount: PathBuf,
}

/// A disk that is frozen until this is dropped.
#[derive(Debug)]
struct FrozenDisk<'a> {
    mount: &'a Path,
}

/// Freezes the disk during all uploads, and waits until the memory of the server stops growing.
pub(super) async fn measure(
    bench: &Bench,
    data_conn: &'static str,
) -> anyhow::Result<StalledMeasurement> {
    anyhow::ensure!(rustix::process::getuid().is_root(), "a separate disk needs root");
    let folder = source::folder(&bench.folder)?;
    let source = SourceFile::create(&folder.path().join("source"), SIZE)?;
    remove_leftovers(&bench.folder)?;
    let disk = StalledDisk::make(folder.path()).await?;
    let folders = (disk.mount.as_path(), folder.path());
    let many_clients =
        ManyClients::start(&bench.programs, folders, &source, N_CLIENTS, data_conn).await?;
    let before = many_clients.peak_rss()?;
    let ids = many_clients.begin_all().await?;
    let process = &many_clients.server.process;
    let all_run = async || match many_clients.written(&ids).await {
        Ok(written) => written.iter().all(|&bytes| 0 < bytes),
        Err(_) => false,
    };
    process.until("bytes from every agent", all_run).await?;
    // Thawed before the server is killed, also after an error: a process that waits for the disk
    // cannot be killed.
    let frozen = disk.freeze().await?;
    log_progress(format!("the disk stalls under {N_CLIENTS} uploads, data connection {data_conn}"));
    wait_until_stable(&many_clients).await?;
    let peak = many_clients.peak_rss()?;
    let written = many_clients.written(&ids).await?;
    sleep(STABLE_TIME).await;
    anyhow::ensure!(written == many_clients.written(&ids).await?, "the disk does not stall");
    drop(frozen);
    many_clients.end().await?;
    Ok(StalledMeasurement { data_conn, before, peak })
}

/// Waits until the memory of the server stops growing.
async fn wait_until_stable(many_clients: &ManyClients) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut highest = many_clients.server.process.rss()?;
    let mut grown = Instant::now();
    while grown.elapsed() < STABLE_TIME {
        sleep(Duration::from_millis(100)).await;
        let now = many_clients.server.process.rss()?;
        if highest < now {
            highest = now;
            grown = Instant::now();
        }
        anyhow::ensure!(
            began.elapsed() < LIMIT,
            "the server does not stop growing: {highest} bytes"
        );
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

    async fn freeze(&self) -> anyhow::Result<FrozenDisk<'_>> {
        let frozen = FrozenDisk { mount: &self.mount };
        run("fsfreeze", &["-f".as_ref(), &self.mount]).await?;
        Ok(frozen)
    }
}

impl Drop for FrozenDisk<'_> {
    fn drop(&mut self) {
        thaw(self.mount);
    }
}

impl Drop for StalledDisk {
    fn drop(&mut self) {
        unmount(&self.mount);
    }
}

/// Thaws the disk first. An earlier run may have thawed it already.
fn unmount(mount: &Path) {
    thaw(mount);
    let _ = std::process::Command::new("umount").arg("-l").arg(mount).output();
}

/// Thaws the disk, if it is frozen.
fn thaw(mount: &Path) {
    let _ = std::process::Command::new("fsfreeze").arg("-u").arg(mount).output();
}

/// Unmounts the disks of earlier runs that were killed.
fn remove_leftovers(folder: &Path) -> anyhow::Result<()> {
    let folder = folder.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    for mount in leftovers(&mounts, &folder).filter(|(_, pid)| !process::is_ours(*pid)) {
        unmount(mount.0);
    }
    Ok(())
}

/// Returns every mounted disk of this program in `folder`, with the process that mounted it.
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
    fn only_disks_of_this_program_are_leftovers() {
        let mounts = "/dev/loop0 /b/filepull-bench-x/stalling-disk-42 ext4 rw 0 0\n\
                      /dev/loop1 /c/stalling-disk-43 ext4 rw 0 0\n\
                      /dev/loop2 /b/data ext4 rw 0 0\n";
        let found: Vec<_> = leftovers(mounts, Path::new("/b")).collect();
        assert_eq!(found, [(Path::new("/b/filepull-bench-x/stalling-disk-42"), 42)]);
    }
}
