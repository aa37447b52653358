//! The machine a measurement was made on: figures without it mean nothing.

use std::fs;
use std::path::Path;
use std::thread;

use filepull_core::human;
use serde::Serialize;

/// What a reader must know to compare the figures with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory: String,
    pub(crate) kernel: String,
    /// Type and device of the file system the files are on.
    pub(crate) file_system: String,
    /// Over 1, 5 and 15 minutes, before the measurement: above nought, others were at work.
    pub(crate) load: String,
}

impl Machine {
    /// Looks at this machine; the files will be in `folder`.
    pub(crate) fn look(folder: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let unknown = || "unknown".to_owned();
        let kib = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| {
            text.strip_suffix("kB").and_then(|number| number.trim().parse::<u64>().ok())
        });
        let load: Vec<_> = read("/proc/loadavg").split(' ').take(3).map(str::to_owned).collect();
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            cores: thread::available_parallelism().map_or(0, usize::from),
            memory: kib.map_or_else(unknown, |kib| human::size(kib * 1024)),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(&read("/proc/self/mounts"), folder).unwrap_or_else(unknown),
            load: load.join(" "),
        }
    }

    /// One line.
    pub(crate) fn in_words(&self) -> String {
        let Self { cpu, cores, memory, kernel, file_system, load } = self;
        format!("{cpu}, {cores} cores, {memory}; Linux {kernel}; {file_system}; load {load}")
    }
}

/// The value of the first line `NAME : VALUE`.
fn field(text: &str, name: &str) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.find(|(found, _)| found.trim() == name)?;
    Some(value.trim().to_owned())
}

/// `ext4 on /dev/sda1`: the mount that `folder` is on, of all in `mounts` the deepest, and of
/// several in one place the last.
fn file_system(mounts: &str, folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, place, kind) = (words.next()?, words.next()?, words.next()?);
        folder.starts_with(place).then(|| (place.len(), format!("{kind} on {device}")))
    });
    mounts.max_by_key(|(depth, _)| *depth).map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_counts() {
        let mounts =
            "/dev/a / ext4 rw 0 0\nproc /proc proc rw 0 0\ntmpfs /proc/self tmpfs rw 0 0\n";
        let check = |folder: &str, found: &str| {
            assert_eq!(file_system(mounts, Path::new(folder)).as_deref(), Some(found));
        };
        check("/", "ext4 on /dev/a");
        check("/proc", "proc on proc");
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "model\t\t: 1\nmodel name\t: A CPU: fast\n";
        assert_eq!(field(text, "model name").as_deref(), Some("A CPU: fast"));
        assert_eq!(field(text, "name"), None);
    }
}
