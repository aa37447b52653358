//! Watches a data folder and reads every file as soon as it has a name without `.tmp`: a partial
//! must never have a final name.

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
pub(crate) struct DirWatcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<String>>>,
}

const FOLDER: WatchFlags = WatchFlags::CREATE.union(WatchFlags::MOVED_TO).union(WatchFlags::MODIFY);

impl DirWatcher {
    /// Watches the folder of every client in `data_dir`, including folders that are created later.
    pub(crate) fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut watch = Watch { events, folders: HashMap::new(), flaws: Vec::new() };
        watch.add(data_dir)?;
        for entry in fs::read_dir(data_dir)?.flatten() {
            if is_client(&entry.path()) {
                watch.add(&entry.path())?;
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let data_dir = data_dir.to_owned();
        let thread = std::thread::spawn(move || watch.run(&data_dir, &until));
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops, and fails if any file was not complete.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        let joined = self.thread.take().and_then(|thread| thread.join().ok());
        let flaws = joined.context("the watcher panicked")?;
        anyhow::ensure!(flaws.is_empty(), "found by the watcher: {}", flaws.join("; "));
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
            let stopping = stop.load(Ordering::SeqCst);
            for (path, modified) in self.events() {
                if path.parent() == Some(data_dir) {
                    // A file may be older than the watch.
                    if is_client(&path) && self.add(&path).is_ok() {
                        let names = fs::read_dir(&path).into_iter().flatten().flatten();
                        names.for_each(|entry| self.check(&entry.path(), false));
                    }
                } else {
                    self.check(&path, modified);
                }
            }
            if stopping {
                return self.flaws;
            }
            #[allow(
                clippy::disallowed_methods,
                reason = "its own thread, which polls 1,000 times a second"
            )]
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn events(&self) -> Vec<(PathBuf, bool)> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(&self.events, &mut buffer);
        let mut found = Vec::new();
        // The reader ends with "would block".
        while let Ok(event) = reader.next() {
            let folder = self.folders.get(&event.wd());
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
            if let (Some(folder), Some(name)) = (folder, name) {
                found.push((folder.join(name), event.events().contains(ReadFlags::MODIFY)));
            }
        }
        found
    }

    fn check(&mut self, path: &Path, modified: bool) {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let folder_name = path.parent().and_then(|folder| folder.file_name());
        let client = folder_name.map(|name| name.to_string_lossy()).unwrap_or_default();
        if is_partial(&name) || !name.starts_with("download-") {
            return;
        }
        if modified {
            self.flaws.push(format!("{client}/{name} was written to"));
        }
        // After a power cut the file may be gone or unreadable: the oracle checks it after the
        // remount.
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

    fn watched(change: impl FnOnce(&Path)) -> anyhow::Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let watcher = DirWatcher::start(folder.path()).unwrap();
        let client = folder.path().join("client4");
        fs::create_dir(&client).unwrap();
        change(&client);
        watcher.stop()
    }

    #[test]
    fn a_complete_file_and_any_partial_are_accepted() {
        watched(|client| {
            fs::write(client.join("a.tmp"), b"torn").unwrap();
            fs::write(client.join("b.tmp"), TestPattern::new("client4", 1, 6400).bytes()).unwrap();
            fs::rename(client.join("b.tmp"), client.join("download-1.txt")).unwrap();
        })
        .unwrap();
    }

    #[test]
    fn a_truncated_file_is_found() {
        let result = watched(|client| fs::write(client.join("download-1.txt"), b"torn").unwrap());
        assert!(result.unwrap_err().to_string().contains("download-1.txt"));
    }
}
