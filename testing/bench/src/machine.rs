//! The machine of a measurement: figures have no meaning without it.

use std::fs;
use std::path::Path;
use std::thread;

use filepull_core::human;
use serde::Serialize;

/// What a reader needs to compare the figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory: String,
    pub(crate) kernel: String,
    /// Type and device of the file system of the data.
    pub(crate) file_system: String,
    /// Load averages over 1, 5 and 15 minutes before the measurement. Above zero, other programs
    /// were running.
    pub(crate) load: String,
}

impl Machine {
    /// Describes this machine; the data will be in `folder`.
    pub(crate) fn describe(folder: &Path) -> Self {
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

    /// Returns what other readers need: not the device of the disk, and not the load.
    pub(crate) fn hardware(&self) -> String {
        let Self { cpu, cores, memory, file_system, .. } = self;
        let kind = file_system.split(' ').next().unwrap_or_default();
        format!("{cpu}, {cores} cores, {memory}, {kind}")
    }

    pub(crate) fn description(&self) -> String {
        let Self { cpu, cores, memory, kernel, file_system, load } = self;
        format!("{cpu}, {cores} cores, {memory}; Linux {kernel}; {file_system}; load {load}")
    }
}

/// Returns the value of the first line `NAME : VALUE`.
fn field(text: &str, name: &str) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.find(|(found, _)| found.trim() == name)?;
    Some(value.trim().to_owned())
}

/// Returns `ext4 on /dev/sda1` for the mount that contains `folder`: the deepest one, and the last
/// one of several at the same path.
fn file_system(mounts: &str, folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let device = fields.next()?;
        let path = fields.next()?;
        let kind = fields.next()?;
        folder.starts_with(path).then(|| (path.len(), format!("{kind} on {device}")))
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
