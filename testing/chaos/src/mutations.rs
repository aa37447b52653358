//! Planted bugs: proof that the trials would find what they look for.
//!
//! Each `mutations/NAME.patch` breaks one thing in a copy of the workspace. Its head names what
//! catches it: a trial (`Caught-by: R3 --count 10`) or a test (`Caught-by: cargo test -p
//! filepull-e2e --test limits a_test`). That command must fail with the patch, and pass without it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::report::tell;

/// A build or a trial of one bug takes no longer.
const LIMIT: Duration = Duration::from_secs(600);
const EVIDENCE_LEN: usize = 200;
/// The trials of planted bugs always play the same game.
const SEED: &str = "1";

/// A bug, and the commands that catch it.
struct Mutation {
    name: String,
    patch: PathBuf,
    catchers: Vec<String>,
}

/// Plants each of the named bugs, or all of them.
///
/// # Errors
/// A copy cannot be made or built.
pub async fn run(names: &[String]) -> anyhow::Result<ExitCode> {
    let source = run_tool(Command::new("git").args(["rev-parse", "--show-toplevel"])).await?;
    let source = PathBuf::from(String::from_utf8(source.stdout)?.trim());
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("a program is in a folder")?;
    let copy = WorkspaceCopy { source, folder: target.join("chaos-mutations") };
    let bugs = bugs(&copy.source, names)?;
    copy.refresh().await?;
    copy.build().await?;
    let commands: BTreeSet<&String> = bugs.iter().flat_map(|bug| &bug.catchers).collect();
    for command in commands {
        let (caught, words) = copy.attempt(command).await?;
        anyhow::ensure!(!caught, "{command} breaks without a planted bug:\n{words}");
    }
    let mut n_green = 0;
    for bug in &bugs {
        n_green += copy.plant(bug).await?;
    }
    copy.refresh().await?;
    tell(format!("{} bugs planted, {n_green} not caught", bugs.len()));
    Ok(ExitCode::from(u8::from(n_green != 0)))
}

fn bugs(source: &Path, names: &[String]) -> anyhow::Result<Vec<Mutation>> {
    let mut bugs = Vec::new();
    for entry in fs::read_dir(source.join("testing/chaos/mutations"))? {
        let patch = entry?.path();
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        let text = fs::read_to_string(&patch)?;
        let catchers = text.lines().filter_map(|line| line.strip_prefix("Caught-by: "));
        let catchers: Vec<String> = catchers.map(str::to_owned).collect();
        anyhow::ensure!(!catchers.is_empty(), "{name} does not say what catches it");
        bugs.push(Mutation { name, patch, catchers });
    }
    bugs.sort_by(|a, b| a.name.cmp(&b.name));
    anyhow::ensure!(!bugs.is_empty(), "no planted bug is called {}", names.join(", "));
    Ok(bugs)
}

/// A copy of the workspace that keeps what it has built.
struct WorkspaceCopy {
    source: PathBuf,
    folder: PathBuf,
}

impl WorkspaceCopy {
    fn workspace(&self) -> PathBuf {
        self.folder.join("workspace")
    }

    /// Makes every file as git has it here; those that are the same are not touched, so that they
    /// are not built again.
    async fn refresh(&self) -> anyhow::Result<()> {
        let mut command = Command::new("git");
        command.current_dir(&self.source).args(["ls-files", "-z"]);
        let listed = run_tool(&mut command).await?.stdout;
        for name in String::from_utf8(listed)?.split_terminator('\0') {
            let (from, to) = (self.source.join(name), self.workspace().join(name));
            let Ok(bytes) = fs::read(&from) else { continue };
            if fs::read(&to).is_ok_and(|there| there == bytes) {
                continue;
            }
            fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
            fs::write(&to, bytes)?;
        }
        Ok(())
    }

    async fn build(&self) -> anyhow::Result<()> {
        let mut command = Command::new("cargo");
        command.current_dir(self.workspace()).env("CARGO_TARGET_DIR", self.folder.join("target"));
        command.args(["build", "-q", "-p", "filepull-cli", "-p", "filepull-agent"]);
        run_tool(&mut command).await.map(drop)
    }

    /// Runs a trial or a test on the copy. Returns whether it failed, and its output.
    async fn attempt(&self, catcher: &str) -> anyhow::Result<(bool, String)> {
        match catcher.strip_prefix("cargo ") {
            Some(arguments) => self.attempt_test(arguments).await,
            None => self.attempt_promise(catcher).await,
        }
    }

    /// Runs the one test that `arguments` name.
    async fn attempt_test(&self, arguments: &str) -> anyhow::Result<(bool, String)> {
        let cargo = |extra: &[&str]| {
            let mut command = Command::new("cargo");
            command.current_dir(self.workspace());
            command.env("CARGO_TARGET_DIR", self.folder.join("target"));
            command.args(arguments.split_whitespace()).args(extra);
            command
        };
        // A patch must compile: a build error would look like a test failure.
        run_tool(&mut cargo(&["--no-run", "-q"])).await?;
        let output = output(&mut cargo(&[])).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let failed = text.contains("test result: FAILED");
        let ran = failed || text.contains("test result: ok. 1 passed");
        anyhow::ensure!(ran, "cargo {arguments} must run exactly one test:\n{text}");
        Ok((failed, text))
    }

    async fn attempt_promise(&self, promise: &str) -> anyhow::Result<(bool, String)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(promise.split_whitespace()).args(["--seed", SEED, "--bin-dir"]);
        command.arg(self.folder.join("target/debug"));
        let output = output(&mut command).await?;
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.code() {
            Some(0) => Ok((false, words)),
            Some(1) => Ok((true, words)),
            _ => anyhow::bail!("{promise}: {}\n{words}", output.status),
        }
    }

    /// How many commands did not catch a bug.
    async fn plant(&self, bug: &Mutation) -> anyhow::Result<usize> {
        self.refresh().await?;
        let mut command = Command::new("patch");
        command.current_dir(self.workspace()).args(["-p1", "-s", "-i"]).arg(&bug.patch);
        run_tool(&mut command).await.with_context(|| bug.name.clone())?;
        self.build().await.with_context(|| bug.name.clone())?;
        let mut n_green = 0;
        for promise in &bug.catchers {
            let began = Instant::now();
            let (caught, words) = self.attempt(promise).await?;
            n_green += usize::from(!caught);
            let (name, seconds) = (&bug.name, began.elapsed().as_secs_f64());
            let verdict = if caught { "caught by" } else { "NOT CAUGHT by" };
            tell(format!("{name:24} {verdict} {promise} ({seconds:.1} s){}", evidence(&words)));
        }
        Ok(n_green)
    }
}

/// The first line that says what broke.
fn evidence(words: &str) -> String {
    let says_so = |line: &&str| line.contains("BROKEN") || line.contains("panicked at");
    let line = words.lines().skip_while(|line| !says_so(line)).nth(1);
    let short = |line: &str| line.trim().chars().take(EVIDENCE_LEN).collect::<String>();
    line.map_or(String::new(), |line| format!(": {}", short(line)))
}

async fn output(command: &mut Command) -> anyhow::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = timeout(LIMIT, command.output()).await;
    output.with_context(|| format!("{name} does not end"))?.context(name)
}

async fn run_tool(command: &mut Command) -> anyhow::Result<Output> {
    let output = output(command).await?;
    let words = [&output.stdout[..], &output.stderr].concat();
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&words));
    Ok(output)
}
