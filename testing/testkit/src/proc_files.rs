//! What Linux tells about a process in `/proc`: its parent, the CPU it used, its memory.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessUsage {
    parent: u32,
    /// CPU of the process and all its threads, user and system, in clock ticks.
    own: u64,
    /// The same of its ended and waited-for children.
    reaped: u64,
}

/// The CPU that a process used, with all its living and its ended descendants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeUse {
    /// User and system.
    pub cpu: Duration,
    /// Those that live.
    pub n_processes: usize,
}

/// Sums up over the process and its descendants.
pub fn tree(root: u32) -> anyhow::Result<TreeUse> {
    let stats = all_stats()?;
    let belongs = |mut pid: u32| {
        // A chain of parents ends at 0; a process that vanished meanwhile ends it too.
        while pid != root {
            match stats.get(&pid) {
                Some(stat) if stat.parent != pid => pid = stat.parent,
                _ => return false,
            }
        }
        true
    };
    let mut sum = TreeUse::default();
    for (_, stat) in stats.iter().filter(|(pid, _)| belongs(**pid)) {
        sum.cpu += from_ticks(stat.own + stat.reaped);
        sum.n_processes += 1;
    }
    anyhow::ensure!(stats.contains_key(&root), "process {root} has ended");
    Ok(sum)
}

/// The CPU of the children of this process that have ended.
pub fn reaped_by_us() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
    let stat = parse_stat(&text).context("/proc/self/stat has another form")?;
    Ok(from_ticks(stat.reaped))
}

/// The most memory that the process ever had resident, in bytes.
pub fn peak_rss(pid: u32) -> anyhow::Result<u64> {
    memory(pid, "VmHWM:")
}

/// The memory that the process has resident now, in bytes.
pub fn rss(pid: u32) -> anyhow::Result<u64> {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, field: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_memory(&text, field).with_context(|| format!("{path} has no {field}"))
}

fn all_stats() -> anyhow::Result<HashMap<u32, ProcessUsage>> {
    let mut stats = HashMap::new();
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Processes come and go while we look.
        let Ok(text) = fs::read_to_string(entry.path().join("stat")) else { continue };
        stats.extend(parse_stat(&text).map(|stat| (pid, stat)));
    }
    Ok(stats)
}

/// proc_pid_stat(5): the name in brackets may hold blanks and brackets; fields count after it.
fn parse_stat(text: &str) -> Option<ProcessUsage> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The first of them is field 3 in the manual.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(ProcessUsage {
        parent: u32::try_from(field(4)?).ok()?,
        own: field(14)? + field(15)?,
        reaped: field(16)? + field(17)?,
    })
}

fn parse_memory(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_program_is_called() {
        let line = "42 (a) b (c)) S 7 42 42 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 1 0 5 0 0";
        assert_eq!(parse_stat(line), Some(ProcessUsage { parent: 7, own: 33, reaped: 77 }));
        assert_eq!(parse_stat("42 (cut) S 7"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    8192 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_memory(status, "VmHWM:"), Some(8 << 20));
        assert_eq!(parse_memory(status, "VmRSS:"), Some(1 << 10));
        assert_eq!(parse_memory("Name:\tkthreadd\n", "VmHWM:"), None);
    }

    #[test]
    fn this_process_is_in_its_own_tree() {
        assert!(1 <= tree(std::process::id()).unwrap().n_processes);
        let pid = std::process::id();
        assert!(0 < rss(pid).unwrap() && 0 < peak_rss(pid).unwrap());
    }
}
