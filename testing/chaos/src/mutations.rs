//! Checks that the trials and tests catch bugs that are added on purpose.
//!
//! Each `mutations/NAME.patch` adds one bug to a copy of the workspace. Its first lines name what
//! catches the bug: a promise (`Caught-by: R3 --count 10`) or a test (`Caught-by: cargo test -p
//! filepull-e2e --test limits a_test`). That command must fail with the patch and pass without it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::report::print_line;

/// Maximum time of one build or one catcher.
const LIMIT: Duration = Duration::from_secs(600);
const EVIDENCE_LEN: usize = 200;
/// The trials of mutations always use the same seed.
const SEED: &str = "1";

/// A bug, and the commands that catch it.
struct Mutation {
    name: String,
    patch: PathBuf,
    catchers: Vec<String>,
}

/// Checks the named mutations, or all of them. Prints one line for each, then the total.
pub(crate) async fn run(names: &[String]) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let toplevel = run_tool(Command::new("git").args(["rev-parse", "--show-toplevel"])).await?;
    let source = PathBuf::from(String::from_utf8(toplevel.stdout)?.trim());
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("a program is in a folder")?;
    let copy = WorkspaceCopy { source, folder: target.join("chaos-mutations") };
    let mutations = read_mutations(&copy.source, names)?;
    copy.refresh().await?;
    copy.build().await?;
    let catchers: BTreeSet<&String> =
        mutations.iter().flat_map(|mutation| &mutation.catchers).collect();
    for catcher in catchers {
        let result = copy.run_catcher(catcher).await?;
        anyhow::ensure!(!result.failed, "{catcher} fails without a mutation:\n{}", result.output);
    }
    let mut n_caught = 0;
    for mutation in &mutations {
        n_caught += usize::from(copy.check(mutation).await?);
    }
    copy.refresh().await?;
    let n_missed = mutations.len() - n_caught;
    let minutes = began.elapsed().as_secs() / 60;
    print_line(format!(
        "{} mutations: {n_caught} caught, {n_missed} not caught, in {minutes} min",
        mutations.len()
    ));
    Ok(ExitCode::from(u8::from(n_missed != 0)))
}

fn read_mutations(source: &Path, names: &[String]) -> anyhow::Result<Vec<Mutation>> {
    let mut mutations = Vec::new();
    for entry in fs::read_dir(source.join("testing/chaos/mutations"))? {
        let patch = entry?.path();
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        let text = fs::read_to_string(&patch)?;
        let named = text.lines().filter_map(|line| line.strip_prefix("Caught-by: "));
        let catchers: Vec<String> = named.map(str::to_owned).collect();
        anyhow::ensure!(!catchers.is_empty(), "{name}.patch has no line `Caught-by:`");
        mutations.push(Mutation { name, patch, catchers });
    }
    mutations.sort_by(|a, b| a.name.cmp(&b.name));
    anyhow::ensure!(!mutations.is_empty(), "there is no mutation {}", names.join(", "));
    Ok(mutations)
}

/// A copy of the workspace with its own target folder.
struct WorkspaceCopy {
    source: PathBuf,
    folder: PathBuf,
}

struct CatcherResult {
    failed: bool,
    output: String,
}

impl WorkspaceCopy {
    fn workspace(&self) -> PathBuf {
        self.folder.join("workspace")
    }

    /// Copies every file that git tracks. Equal files are not written, so that cargo does not build
    /// them again.
    async fn refresh(&self) -> anyhow::Result<()> {
        let mut command = Command::new("git");
        command.current_dir(&self.source).args(["ls-files", "-z"]);
        let listed = run_tool(&mut command).await?.stdout;
        for name in String::from_utf8(listed)?.split_terminator('\0') {
            let from = self.source.join(name);
            let to = self.workspace().join(name);
            let Ok(bytes) = fs::read(&from) else { continue };
            if fs::read(&to).is_ok_and(|copied| copied == bytes) {
                continue;
            }
            fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
            fs::write(&to, bytes)?;
        }
        Ok(())
    }

    async fn build(&self) -> anyhow::Result<()> {
        run_tool(&mut self.cargo("build -q -p filepull-cli -p filepull-agent", &[])).await.map(drop)
    }

    fn cargo(&self, arguments: &str, more: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.current_dir(self.workspace()).env("CARGO_TARGET_DIR", self.folder.join("target"));
        command.args(arguments.split_whitespace()).args(more);
        command
    }

    /// Runs a trial or a test on the copy.
    async fn run_catcher(&self, catcher: &str) -> anyhow::Result<CatcherResult> {
        match catcher.strip_prefix("cargo ") {
            Some(arguments) => self.run_test(arguments).await,
            None => self.run_promise(catcher).await,
        }
    }

    /// Runs the one test that `arguments` name.
    async fn run_test(&self, arguments: &str) -> anyhow::Result<CatcherResult> {
        // A patch must compile: a build error would look like a test failure.
        run_tool(&mut self.cargo(arguments, &["--no-run", "-q"])).await?;
        let finished = run_to_end(&mut self.cargo(arguments, &[])).await?;
        let output = String::from_utf8_lossy(&finished.stdout).into_owned();
        let failed = output.contains("test result: FAILED");
        let ran = failed || output.contains("test result: ok. 1 passed");
        anyhow::ensure!(ran, "cargo {arguments} must run exactly one test:\n{output}");
        Ok(CatcherResult { failed, output })
    }

    async fn run_promise(&self, arguments: &str) -> anyhow::Result<CatcherResult> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments.split_whitespace()).args(["--seed", SEED, "--bin-dir"]);
        command.arg(self.folder.join("target/debug"));
        let finished = run_to_end(&mut command).await?;
        let output = String::from_utf8_lossy(&finished.stdout).into_owned();
        match finished.status.code() {
            Some(code @ (0 | 1)) => Ok(CatcherResult { failed: code == 1, output }),
            _ => anyhow::bail!("{arguments}: {}\n{output}", finished.status),
        }
    }

    /// Applies a mutation and runs its catchers. Returns whether every one of them caught it.
    async fn check(&self, mutation: &Mutation) -> anyhow::Result<bool> {
        let Mutation { name, patch, catchers } = mutation;
        self.refresh().await?;
        let mut command = Command::new("patch");
        command.current_dir(self.workspace()).args(["-p1", "-s", "-i"]).arg(patch);
        run_tool(&mut command).await.with_context(|| name.clone())?;
        self.build().await.with_context(|| name.clone())?;
        let mut all_caught = true;
        let mut texts = Vec::new();
        for catcher in catchers {
            let began = Instant::now();
            let CatcherResult { failed, output } =
                self.run_catcher(catcher).await.with_context(|| name.clone())?;
            all_caught &= failed;
            let verdict = if failed { "caught by" } else { "NOT CAUGHT by" };
            let seconds = began.elapsed().as_secs_f64();
            texts.push(format!("{verdict} {catcher} ({seconds:.1} s){}", evidence(&output)));
        }
        print_line(format!("{name:36} {}", texts.join("; ")));
        Ok(all_caught)
    }
}

/// Returns the first line that names what failed.
fn evidence(output: &str) -> String {
    let is_failure = |line: &&str| line.contains("BROKEN") || line.contains("panicked at");
    let line = output.lines().skip_while(|line| !is_failure(line)).nth(1);
    let shorten = |line: &str| line.trim().chars().take(EVIDENCE_LEN).collect::<String>();
    line.map_or(String::new(), |line| format!(": {}", shorten(line)))
}

async fn run_to_end(command: &mut Command) -> anyhow::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = timeout(LIMIT, command.output()).await;
    output.with_context(|| format!("{name} timed out after {} s", LIMIT.as_secs()))?.context(name)
}

async fn run_tool(command: &mut Command) -> anyhow::Result<Output> {
    let output = run_to_end(command).await?;
    let text = [&output.stdout[..], &output.stderr].concat();
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    Ok(output)
}
