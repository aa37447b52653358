//! In which order a server's effects reach the disk, read from a trace of its system calls.
//!
//! ext4 and XFS are kinder than they promise to be: a sync of one file brings the entries of others
//! to the disk too, so that no power cut shows a sync that is missing. Here the disk is as unkind as
//! POSIX allows: only `fsync` of a file keeps its bytes, only `fsync` of a folder keeps its entries.

use std::collections::{BTreeSet, HashMap};

/// The calls that a trace must hold.
pub const CALLS: &str = "openat,mkdirat,mkdir,write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,\
                         fdatasync,rename,renameat,renameat2,linkat,unlinkat";

/// A folder and a name in it.
type Entry = (String, String);

/// What was not on the disk when a sync began.
#[derive(Debug, Default)]
struct Syncing {
    bytes: BTreeSet<String>,
    entries: BTreeSet<Entry>,
    records: BTreeSet<String>,
    text_len: usize,
}

/// The disk as the calls so far have left it.
#[derive(Debug, Default)]
pub struct WriteOrder {
    /// Files with bytes that are not on the disk.
    bytes: BTreeSet<String>,
    /// Transfers of which a record is not on the disk, and those of which one is.
    unsynced: BTreeSet<String>,
    recorded: BTreeSet<String>,
    /// What has been written to the records: not on the disk, and on it.
    unsynced_text: String,
    recorded_text: String,
    /// Entries that are not on the disk.
    entries: BTreeSet<Entry>,
    /// What a sync that has begun will have brought to the disk when it ends, by thread.
    syncing: HashMap<String, Syncing>,
    /// Calls that have begun and not ended, by thread.
    unfinished: HashMap<String, String>,
    /// What was done too early, each once.
    pub breaches: BTreeSet<String>,
    /// How often a rule was applied.
    pub checks: u64,
}

impl WriteOrder {
    /// Reads a trace made with `strace -f -yy -s 4096 -e trace=CALLS`.
    pub fn read(trace: &str) -> Self {
        let mut order = Self::default();
        trace.lines().for_each(|line| order.line(line));
        order
    }

    fn line(&mut self, line: &str) {
        let Some((thread, call)) = line.trim_start().split_once(' ') else { return };
        let call = call.trim_start();
        if let Some(begun) = call.strip_suffix("<unfinished ...>") {
            self.begin(thread, begun);
            self.unfinished.insert(thread.to_owned(), begun.to_owned());
        } else if let Some((_, rest)) =
            call.strip_prefix("<... ").and_then(|call| call.split_once(" resumed>"))
        {
            let begun = self.unfinished.remove(thread).unwrap_or_default();
            self.end(thread, &format!("{begun}{rest}"));
        } else {
            self.begin(thread, call);
            self.end(thread, call);
        }
    }

    /// A write is there from its beginning, and so is what must come before a call.
    fn begin(&mut self, thread: &str, call: &str) {
        let (name, args) = call.split_once('(').unwrap_or_default();
        let file = path_in(args);
        match name {
            "fsync" | "fdatasync" => {
                let bytes = self.bytes.iter().filter(|path| **path == file).cloned().collect();
                let entries = self.entries.iter().filter(|(folder, _)| *folder == file);
                let (mut records, mut text_len) = (BTreeSet::new(), 0);
                if is_records(&file) {
                    (records, text_len) = (self.unsynced.clone(), self.unsynced_text.len());
                }
                let entries = entries.cloned().collect();
                let syncing = Syncing { bytes, entries, records, text_len };
                self.syncing.insert(thread.to_owned(), syncing);
            }
            "write" | "writev" | "pwrite64" | "pwritev" | "sendto" | "sendmsg" => {
                if args.contains("TCP") {
                    self.check_answer(args);
                } else if file.starts_with('/') {
                    if is_records(&file) {
                        self.check_record();
                        self.unsynced.extend(ids_in(args));
                        self.unsynced_text.push_str(args);
                    }
                    self.bytes.insert(file);
                }
            }
            "rename" | "renameat" | "renameat2" | "linkat" => self.check_publication(name, args),
            _ => {}
        }
    }

    /// An entry is there, and a sync has done its work, when the call has ended well.
    fn end(&mut self, thread: &str, call: &str) {
        let (name, args) = call.split_once('(').unwrap_or_default();
        let failed = call.rsplit_once(" = ").is_none_or(|(_, result)| result.starts_with('-'));
        if failed {
            return;
        }
        match name {
            "fsync" | "fdatasync" => {
                let done = self.syncing.remove(thread).unwrap_or_default();
                self.bytes.retain(|path| !done.bytes.contains(path));
                self.entries.retain(|entry| !done.entries.contains(entry));
                self.unsynced.retain(|id| !done.records.contains(id));
                self.recorded.extend(done.records);
                let synced = self.unsynced_text.drain(..done.text_len);
                self.recorded_text.extend(synced);
            }
            "openat" if args.contains("O_EXCL") => self.entry(path_in(args), nth_text(args, 0)),
            "mkdirat" => self.entry(path_in(args), nth_text(args, 0)),
            "renameat" | "renameat2" | "linkat" => {
                let folder = path_in(args);
                self.entries.remove(&(folder.clone(), nth_text(args, 0)));
                self.entry(folder, nth_text(args, 1));
            }
            "unlinkat" => {
                self.entries.remove(&(path_in(args), nth_text(args, 0)));
            }
            _ => {}
        }
    }

    fn entry(&mut self, folder: String, name: String) {
        // The probe of `readyz` is removed at once and never missed.
        if !name.contains("probe-") {
            self.entries.insert((folder, name));
        }
    }

    /// A record speaks only of entries that are on the disk.
    fn check_record(&mut self) {
        self.checks += 1;
        if let Some((_, name)) = self.entries.first() {
            self.breaches
                .insert(format!("a record was written before the entry {name} was synced"));
        }
    }

    /// A name is given to bytes that are on the disk, when the record that seals them is too.
    fn check_publication(&mut self, call: &str, args: &str) {
        let (folder, from, to) = (path_in(args), nth_text(args, 0), nth_text(args, 1));
        if !from.contains(".tmp") {
            return;
        }
        self.checks += 1;
        if self.bytes.contains(&format!("{folder}/{from}")) {
            self.breaches.insert(format!("{to} was published before its bytes were synced"));
        }
        let sealed = self.recorded_text.contains(&to) && !self.unsynced_text.contains(&to);
        if !sealed {
            self.breaches
                .insert(format!("{to} was published before the record that seals it was synced"));
        }
        if call != "linkat" && !args.contains("RENAME_NOREPLACE") {
            self.breaches.insert(format!("{to} was published by a rename that replaces"));
        }
    }

    /// An answer tells only what is on the disk.
    fn check_answer(&mut self, args: &str) {
        let made = args.contains("HTTP/1.1 201");
        let done = args.contains(r#"\"state\": \"done\""#);
        // The head of an answer has ids of other things.
        let body = args.split_once(r#"\"id\": \""#).map_or("", |(_, body)| body);
        let Some(id) = ids_in(body).next().filter(|_| made || done) else { return };
        self.checks += 1;
        // While the answer is on its way the next record of the same transfer may be too.
        let recorded = if done { self.is_recorded(&id) } else { self.recorded.contains(&id) };
        if !recorded {
            self.breaches.insert("an answer was given before the record was synced".to_owned());
        }
        if let Some((_, name)) = self.entries.first().filter(|_| done) {
            self.breaches.insert(format!("an answer was given before the entry {name} was synced"));
        }
    }

    /// The newest record of a transfer is on the disk.
    fn is_recorded(&self, id: &str) -> bool {
        self.recorded.contains(id) && !self.unsynced.contains(id)
    }
}

fn is_records(path: &str) -> bool {
    path.ends_with("/records.db-wal")
}

/// The ids of transfers in a text: UUIDs of version 7.
fn ids_in(text: &str) -> impl Iterator<Item = String> {
    let is_id = |word: &[u8]| {
        word.iter().enumerate().all(|(n, byte)| match n {
            8 | 13 | 18 | 23 => *byte == b'-',
            14 => *byte == b'7',
            _ => byte.is_ascii_hexdigit(),
        })
    };
    let ids = text.as_bytes().windows(36).filter(move |word| is_id(word));
    ids.map(|word| String::from_utf8_lossy(word).into_owned())
}

/// The path that strace shows with the first descriptor: `3</srv/client4>`.
fn path_in(args: &str) -> String {
    let path = args.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    path.map_or(String::new(), |(path, _)| path.to_owned())
}

/// The nth quoted text among the arguments.
fn nth_text(args: &str, n: usize) -> String {
    args.split('"').nth(n * 2 + 1).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
7 openat(5</d/c>, "01a2141e-5acc-756c-b669-d84145b2aa93-1.tmp", O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0640) = 9</d/c/01a2141e-5acc-756c-b669-d84145b2aa93-1.tmp>
7 fsync(6</d/c>) = 0
8 pwrite64(3</d/.filepull/records.db-wal>, "x01a2141e-5acc-756c-b669-d84145b2aa93"..., 24, 0) = 24
8 fdatasync(3</d/.filepull/records.db-wal>) = 0
7 writev(9</d/c/01a2141e-5acc-756c-b669-d84145b2aa93-1.tmp>, [{iov_base="x", iov_len=1}], 1) = 1
7 fdatasync(9</d/c/01a2141e-5acc-756c-b669-d84145b2aa93-1.tmp> <unfinished ...>
9 write(4<TCP:[1->2]>, "nothing"..., 7) = 7
7 <... fdatasync resumed>) = 0
8 pwrite64(3</d/.filepull/records.db-wal>, "x01a2141e-5acc-756c-b669-d84145b2aa93download-1.txt"..., 24, 24) = 24
8 fdatasync(3</d/.filepull/records.db-wal>) = 0
7 renameat2(6</d/c>, "01a2141e-5acc-756c-b669-d84145b2aa93-1.tmp", 6</d/c>, "download-1.txt", RENAME_NOREPLACE) = 0
7 fsync(6</d/c>) = 0
8 pwrite64(3</d/.filepull/records.db-wal>, "x01a2141e-5acc-756c-b669-d84145b2aa93"..., 24, 48) = 24
8 fdatasync(3</d/.filepull/records.db-wal>) = 0
9 writev(4<TCP:[1->2]>, [{iov_base="HTTP/1.1 200 OK\r\n{ \"id\": \"01a2141e-5acc-756c-b669-d84145b2aa93\", \"state\": \"done\" }"}], 1) = 7
"#;

    fn without(nth: usize, call: &str) -> BTreeSet<String> {
        let mut seen = 0;
        let kept = WHOLE.lines().filter(|line| {
            seen += usize::from(line.contains(call));
            !(line.contains(call) && seen == nth)
        });
        WriteOrder::read(&kept.collect::<Vec<_>>().join("\n")).breaches
    }

    #[test]
    fn the_right_order_has_no_breach() {
        let order = WriteOrder::read(WHOLE);
        assert_eq!((order.breaches, order.checks), (BTreeSet::new(), 5));
    }

    #[test]
    fn each_missing_sync_is_a_breach() {
        let check = |nth, call, words: &str| {
            let breaches = without(nth, call);
            assert!(breaches.iter().any(|b| b.contains(words)), "{call} {nth}: {breaches:?}");
        };
        check(1, "fsync(6", "-1.tmp was synced");
        check(1, "fdatasync(9", "before its bytes were synced");
        check(2, "fdatasync(3", "before the record that seals it was synced");
        check(2, "fsync(6", "before the entry download-1.txt was synced");
        check(3, "fdatasync(3", "an answer was given before the record was synced");
    }

    #[test]
    fn a_rename_that_replaces_is_a_breach() {
        let plain = WHOLE.replace(", RENAME_NOREPLACE", ", 0");
        assert!(WriteOrder::read(&plain).breaches.iter().any(|breach| breach.contains("replaces")));
    }
}
