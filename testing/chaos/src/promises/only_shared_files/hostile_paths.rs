//! Paths that lead out of the shares, and things that are no files.

use std::fs::File;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::HostileServer;
use crate::trial::Trial;

const PATHS: u32 = 1000;
/// Longer than any disk. The file is sparse.
const HUGE: u64 = 10 << 40;

pub(super) async fn run(trial: &Trial, scenario: &mut HostileServer) -> anyhow::Result<()> {
    add_things(scenario)?;
    let fixed = fixed_paths(scenario);
    let mut rng = trial.rng("s5-paths");
    for n in 0..trial.times(PATHS) {
        let path = match fixed.get(n as usize) {
            Some(path) => path.clone(),
            None => generated_path(scenario, &mut rng),
        };
        scenario.request(&path).await?;
        trial.counters.fault("hostile paths");
    }
    let opened = scenario.request("logs/a.log").await?;
    anyhow::ensure!(opened, "after the hostile paths the agent does not send a shared file");
    Ok(())
}

/// Adds a pipe, a device, a folder, a huge file and links, all with shared names.
fn add_things(scenario: &HostileServer) -> anyhow::Result<()> {
    let name = |name: &str| scenario.files.join("logs").join(name);
    let mode = Mode::from_raw_mode(0o644);
    mknodat(CWD, name("fifo.log"), FileType::Fifo, mode, 0)?;
    // A container may not create devices.
    let _ = mknodat(CWD, name("zero.log"), FileType::CharacterDevice, mode, makedev(1, 5));
    std::fs::create_dir(name("folder.log"))?;
    File::create(name("huge.log"))?.set_len(HUGE)?;
    symlink(scenario.outside.join("a.log"), name("link.log"))?;
    symlink("../../outside/a.log", name("relative.log"))?;
    symlink("/proc/self/environ", name("proc.log"))?;
    symlink("loop.log", name("loop.log"))?;
    symlink(&scenario.outside, scenario.files.join("deep/link"))?;
    Ok(())
}

fn fixed_paths(scenario: &HostileServer) -> Vec<String> {
    let canary = scenario.outside.join("a.log").display().to_string();
    let own = ["fifo", "zero", "folder", "huge", "link", "relative", "proc", "loop"];
    let mut paths: Vec<String> = own.iter().map(|name| format!("logs/{name}.log")).collect();
    paths.extend([
        canary.clone(),
        format!("/{canary}"),
        format!("/proc/self/root{canary}"),
        format!("file://{canary}"),
        canary.replace('/', "\\"),
        format!("logs/a.log\0{canary}"),
        format!("logs/a.log\n{canary}"),
    ]);
    let more = [
        "../outside/a.log",
        "logs/../../outside/a.log",
        "deep/../../outside/a.log",
        "deep/link/a.log",
        "deep/link/../a.log",
        "/etc/passwd",
        "/dev/zero",
        "/proc/self/mem",
        "/dev/fd/3",
        "..",
        ".",
        "/",
        "logs",
        "logs/*.log",
        "LOGS/A.LOG",
        "-rf",
        "logs/%2e%2e/a.log",
        "logs/\u{1b}[2J.log",
        "deep/\u{ff0e}\u{ff0e}/a.log",
    ];
    paths.extend(more.map(str::to_owned));
    paths
}

/// Parts that a generated path combines.
const PARTS: [&str; 12] = [
    "..", ".", "", "logs", "deep", "link", "sub", "a.log", "b.txt", "outside", "data.txt", "%2e%2e",
];
const MAX_PARTS: usize = 8;

fn generated_path(scenario: &HostileServer, rng: &mut fastrand::Rng) -> String {
    let parts: Vec<&str> =
        (0..rng.usize(1..=MAX_PARTS)).map(|_| PARTS[rng.usize(0..PARTS.len())]).collect();
    let path = parts.join("/");
    match rng.u8(0..4) {
        0 => format!("{}/{path}", scenario.files.display()),
        1 => format!("/{path}"),
        _ => path,
    }
}
