//! Watches a data folder while things happen to it, and reads every file the moment it gets a name
//! without `.tmp`: at no instant may a partial be seen under one.

use std::collections::HashMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use crate::oracle::is_partial;
use crate::test_pattern::TestPattern;

/// A thread that watches until it is stopped.
#[derive(Debug)]
pub struct DirWatcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<String>>>,
}

const FOLDER: WatchFlags = WatchFlags::CREATE.union(WatchFlags::MOVED_TO).union(WatchFlags::MODIFY);

impl DirWatcher {
    /// Watches every client's folder in `data_dir`, also those that are made later.
    ///
    /// # Errors
    /// The system does not let it watch.
    pub fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut watch = Watch { events, folders: HashMap::new(), flaws: Vec::new() };
        watch.add(data_dir)?;
        for entry in fs::read_dir(data_dir)?.flatten() {
            if is_client(&entry.path()) {
                watch.add(&entry.path())?;
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (until, data_dir) = (Arc::clone(&stop), data_dir.to_owned());
        let thread = std::thread::spawn(move || watch.run(&data_dir, &until));
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it.
    ///
    /// # Errors
    /// A file was seen that was not whole.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        let flaws = self.thread.take().and_then(|thread| thread.join().ok());
        let flaws = flaws.context("the watcher has died")?;
        anyhow::ensure!(flaws.is_empty(), "seen by the watcher: {}", flaws.join("; "));
        Ok(())
    }
}

impl Drop for DirWatcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

struct Watch {
    events: OwnedFd,
    folders: HashMap<i32, PathBuf>,
    flaws: Vec<String>,
}

impl Watch {
    fn add(&mut self, folder: &Path) -> anyhow::Result<()> {
        let watch = inotify::add_watch(&self.events, folder, FOLDER)?;
        self.folders.insert(watch, folder.to_owned());
        Ok(())
    }

    fn run(mut self, data_dir: &Path, stop: &AtomicBool) -> Vec<String> {
        loop {
            let last = stop.load(Ordering::SeqCst);
            for (path, modified) in self.events() {
                if path.parent() == Some(data_dir) {
                    // A file may have come before the watch.
                    if is_client(&path) && self.add(&path).is_ok() {
                        let names = fs::read_dir(&path).into_iter().flatten().flatten();
                        names.for_each(|entry| self.look(&entry.path(), false));
                    }
                } else {
                    self.look(&path, modified);
                }
            }
            if last {
                return self.flaws;
            }
            #[allow(
                clippy::disallowed_methods,
                reason = "a thread of its own, 1,000 looks a second"
            )]
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn events(&self) -> Vec<(PathBuf, bool)> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(&self.events, &mut buffer);
        let mut found = Vec::new();
        // It ends with "would block".
        while let Ok(event) = reader.next() {
            let folder = self.folders.get(&event.wd());
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
            if let (Some(folder), Some(name)) = (folder, name) {
                found.push((folder.join(name), event.events().contains(ReadFlags::MODIFY)));
            }
        }
        found
    }

    fn look(&mut self, path: &Path, modified: bool) {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let client = path.parent().and_then(|folder| folder.file_name());
        let client = client.map(|client| client.to_string_lossy()).unwrap_or_default();
        if is_partial(&name) || !name.starts_with("download-") {
            return;
        }
        if modified {
            self.flaws.push(format!("{client}/{name} was written to"));
        }
        // After a power cut it may be gone or unreadable: the oracle looks when the disk is back.
        if let Ok(bytes) = fs::read(path)
            && let Err(flaw) = TestPattern::read(&client, &bytes)
        {
            self.flaws.push(format!("{client}/{name}: {flaw}"));
        }
    }
}

fn is_client(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.is_dir() && !name.starts_with('.') && name != "lost+found"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(happens: impl FnOnce(&Path)) -> anyhow::Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let watcher = DirWatcher::start(folder.path()).unwrap();
        let client = folder.path().join("client4");
        fs::create_dir(&client).unwrap();
        happens(&client);
        watcher.stop()
    }

    #[test]
    fn a_whole_file_may_appear_and_a_partial_may_be_anything() {
        watched(|client| {
            fs::write(client.join("a.tmp"), b"torn").unwrap();
            fs::write(client.join("b.tmp"), TestPattern::new("client4", 1, 6400).bytes()).unwrap();
            fs::rename(client.join("b.tmp"), client.join("download-1.txt")).unwrap();
        })
        .unwrap();
    }

    #[test]
    fn a_torn_file_is_seen() {
        let seen = watched(|client| fs::write(client.join("download-1.txt"), b"torn").unwrap());
        assert!(seen.unwrap_err().to_string().contains("download-1.txt"));
    }
}
