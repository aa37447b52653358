//! Checks the order in which a server makes its effects durable, from a trace of its system calls.
//!
//! ext4 and XFS do more than they guarantee: fsync of one file also makes the directory entries of
//! other files durable, so a power cut does not reveal a missing fsync. This check assumes only
//! what POSIX guarantees: fsync of a file makes its bytes durable, and fsync of a folder makes its
//! entries durable.

use std::collections::{BTreeSet, HashMap};

/// The calls that the trace must contain.
pub(crate) const CALLS: &str = "openat,mkdirat,mkdir,write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,\
                         fdatasync,rename,renameat,renameat2,linkat,unlinkat";

/// A folder and a name in it.
type Entry = (String, String);

/// What was not durable when an fsync began.
#[derive(Debug, Default)]
struct PendingSync {
    bytes: BTreeSet<String>,
    entries: BTreeSet<Entry>,
    records: BTreeSet<String>,
    text_len: usize,
}

/// What is durable, and what is not, after the calls so far.
#[derive(Debug, Default)]
pub(crate) struct WriteOrder {
    /// Files with bytes that are not durable.
    bytes: BTreeSet<String>,
    /// Transfers with a record that is not durable, and transfers with a durable record.
    unsynced: BTreeSet<String>,
    recorded: BTreeSet<String>,
    /// What was written to the records: not durable, and durable.
    unsynced_text: String,
    recorded_text: String,
    /// Directory entries that are not durable.
    entries: BTreeSet<Entry>,
    /// What an unfinished fsync will make durable, by thread.
    syncing: HashMap<String, PendingSync>,
    /// The start of the unfinished call of each thread.
    unfinished: HashMap<String, String>,
    /// Rules that were broken, each once.
    pub(crate) breaches: BTreeSet<String>,
    /// How often a rule was checked.
    pub(crate) checks: u64,
}

impl WriteOrder {
    /// Reads a trace made with `strace -f -yy -s 4096 -e trace=CALLS`.
    pub(crate) fn read(trace: &str) -> Self {
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

    /// A write counts from its start. What must precede a call is checked at its start.
    fn begin(&mut self, thread: &str, call: &str) {
        let (name, args) = call.split_once('(').unwrap_or_default();
        let file = path_in(args);
        match name {
            "fsync" | "fdatasync" => {
                let bytes = self.bytes.iter().filter(|path| **path == file).cloned().collect();
                let entries = self.entries.iter().filter(|(folder, _)| *folder == file);
                let mut records = BTreeSet::new();
                let mut text_len = 0;
                if is_records(&file) {
                    (records, text_len) = (self.unsynced.clone(), self.unsynced_text.len());
                }
                let entries = entries.cloned().collect();
                let syncing = PendingSync { bytes, entries, records, text_len };
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

    /// A new entry and an fsync count when the call has succeeded.
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
        // The probe of `/readyz` is removed at once; losing its entry is harmless.
        if !name.contains("probe-") {
            self.entries.insert((folder, name));
        }
    }

    /// A record may only name durable entries.
    fn check_record(&mut self) {
        self.checks += 1;
        if let Some((_, name)) = self.entries.first() {
            self.breaches
                .insert(format!("a record was written before the entry {name} was synced"));
        }
    }

    /// Before a file gets its final name, its bytes and the record of its seal must be durable.
    fn check_publication(&mut self, call: &str, args: &str) {
        let folder = path_in(args);
        let from = nth_text(args, 0);
        let to = nth_text(args, 1);
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

    /// An answer may only state what is durable.
    fn check_answer(&mut self, args: &str) {
        let made = args.contains("HTTP/1.1 201");
        let done = args.contains(r#"\"state\": \"done\""#);
        // The headers of a response contain other ids.
        let body = args.split_once(r#"\"id\": \""#).map_or("", |(_, body)| body);
        let Some(id) = ids_in(body).next().filter(|_| made || done) else { return };
        self.checks += 1;
        // While the response is sent, the next record of the same transfer may be written.
        let recorded = if done { self.is_recorded(&id) } else { self.recorded.contains(&id) };
        if !recorded {
            self.breaches.insert("an answer was sent before the record was synced".to_owned());
        }
        if let Some((_, name)) = self.entries.first().filter(|_| done) {
            self.breaches.insert(format!("an answer was sent before the entry {name} was synced"));
        }
    }

    /// Returns true if the newest record of a transfer is durable.
    fn is_recorded(&self, id: &str) -> bool {
        self.recorded.contains(id) && !self.unsynced.contains(id)
    }
}

fn is_records(path: &str) -> bool {
    path.ends_with("/records.db-wal")
}

/// Returns the ids of transfers in a text: UUIDs of version 7.
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

/// Returns the path that strace prints with the first file descriptor: `3</srv/client4>`.
fn path_in(args: &str) -> String {
    let path = args.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    path.map_or(String::new(), |(path, _)| path.to_owned())
}

/// Returns the nth quoted text in the arguments.
fn nth_text(args: &str, n: usize) -> String {
    args.split('"').nth(n * 2 + 1).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: &str = r#"
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
        let kept = COMPLETE.lines().filter(|line| {
            seen += usize::from(line.contains(call));
            !(line.contains(call) && seen == nth)
        });
        WriteOrder::read(&kept.collect::<Vec<_>>().join("\n")).breaches
    }

    #[test]
    fn the_correct_order_has_no_breach() {
        let order = WriteOrder::read(COMPLETE);
        assert_eq!((order.breaches, order.checks), (BTreeSet::new(), 5));
    }

    #[test]
    fn each_missing_fsync_is_a_breach() {
        let check = |nth, call, words: &str| {
            let breaches = without(nth, call);
            assert!(breaches.iter().any(|b| b.contains(words)), "{call} {nth}: {breaches:?}");
        };
        check(1, "fsync(6", "-1.tmp was synced");
        check(1, "fdatasync(9", "before its bytes were synced");
        check(2, "fdatasync(3", "before the record that seals it was synced");
        check(2, "fsync(6", "before the entry download-1.txt was synced");
        check(3, "fdatasync(3", "an answer was sent before the record was synced");
    }

    #[test]
    fn a_rename_that_replaces_is_a_breach() {
        let plain = COMPLETE.replace(", RENAME_NOREPLACE", ", 0");
        assert!(WriteOrder::read(&plain).breaches.iter().any(|breach| breach.contains("replaces")));
    }
}
