//! `/proc`: the parent, the CPU time and the memory of a process.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// The used fields of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessUsage {
    parent: u32,
    /// CPU time of all threads, user and system, in clock ticks.
    own: u64,
    /// CPU time of the children that were waited for, in clock ticks.
    reaped: u64,
}

/// The CPU time of a process with all its descendants, ended ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeUse {
    /// User time plus system time.
    pub cpu: Duration,
    /// The number of running processes.
    pub n_processes: usize,
}

/// Adds up the CPU time of a process and its descendants. Fails if the process has ended.
pub fn tree(root: u32) -> anyhow::Result<TreeUse> {
    let stats = all_stats()?;
    let belongs = |mut pid: u32| {
        // A chain of parents ends at 0, or at a process that has ended during the scan.
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

/// Returns the CPU time of the ended children of this process.
pub fn reaped_by_us() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
    let stat = parse_stat(&text).context("/proc/self/stat has an unknown format")?;
    Ok(from_ticks(stat.reaped))
}

/// Returns the maximum of the resident memory so far, in bytes.
pub fn peak_rss(pid: u32) -> anyhow::Result<u64> {
    memory(pid, "VmHWM:")
}

/// Returns the resident memory in bytes.
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
        // A process may end during the scan.
        let Ok(text) = fs::read_to_string(entry.path().join("stat")) else { continue };
        stats.extend(parse_stat(&text).map(|stat| (pid, stat)));
    }
    Ok(stats)
}

/// Parses proc_pid_stat(5). The name in parentheses may contain spaces and parentheses.
fn parse_stat(text: &str) -> Option<ProcessUsage> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The first one after the name is field 3 of the manual.
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
    fn the_name_of_a_program_does_not_break_the_stat_line() {
        let line = "42 (a) b (c)) S 7 42 42 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 1 0 5 0 0";
        assert_eq!(parse_stat(line), Some(ProcessUsage { parent: 7, own: 33, reaped: 77 }));
        assert_eq!(parse_stat("42 (cut) S 7"), None);
    }

    #[test]
    fn memory_is_returned_in_bytes() {
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
