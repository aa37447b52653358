//! S13: both programs as an ordinary user without capabilities, on a read-only system where only their own
//! folder can be written.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use filepull_testkit::Process;
use futures::FutureExt as _;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::tool::Requirement;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S13",
    statement: "Least privilege: the programs need no right but to write their own folder.",
    requirements: &[Requirement::Root, Requirement::Program("setpriv", "util-linux")],
    limit: Duration::from_secs(30),
    run: |trial| run(trial).boxed_local(),
};

const USER: u32 = 65_534;
/// Makes a copy of all mounts read-only, except for the folder `$0`, and runs a program in it.
const SCRIPT: &str = "\
    mount --rbind / /mnt && \
    awk '$5 ~ \"^/mnt\" { print $5 }' /proc/self/mountinfo | while read -r m; do \
    mount -o remount,bind,ro \"$m\" 2>/dev/null || true; done && \
    mount --bind \"$0\" \"/mnt$0\" && exec chroot /mnt \"$@\"";
/// Removes every privilege.
const SETPRIV: [&str; 8] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--no-new-privs",
    "--bounding-set=-all",
    "--inh-caps=-all",
    "--",
];

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare_secure(trial, &[]).await?;
    let folder = scenario.server.folder().to_owned();
    let launcher = launcher(&folder);
    scenario.server.launch_server_by(launcher.clone());
    let enter = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(trial.sandbox.folder(), enter.clone())?;
    std::fs::set_permissions(&folder, enter)?;
    give_away(&folder)?;
    let tried = smoke_test(trial, &mut scenario, launcher).await;
    scenario.explain("without privileges", tried)?;
    scenario.teardown().await?;
    write_elsewhere(trial).await
}

fn launcher(folder: &Path) -> Vec<String> {
    let start = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT];
    let folder = folder.display().to_string();
    let words = start.into_iter().chain([folder.as_str()]).chain(SETPRIV);
    words.map(str::to_owned).collect()
}

/// Gives a folder and everything in it to the user.
fn give_away(path: &Path) -> anyhow::Result<()> {
    chown(path, Some(USER), Some(USER))?;
    if path.is_dir() {
        for entry in std::fs::read_dir(path)?.flatten() {
            give_away(&entry.path())?;
        }
    }
    Ok(())
}

async fn smoke_test(
    trial: &Trial,
    scenario: &mut Scenario,
    launcher: Vec<String>,
) -> anyhow::Result<()> {
    scenario.start_server().await?;
    let index = scenario.add_invited_client("client1", 3 << 20, &[]).await?;
    give_away(scenario.server.folder())?;
    scenario.launch_client_by(index, launcher);
    scenario.connect(index).await?;
    for process in [scenario.server_process()?, scenario.agent(index)?] {
        check_privileges(process)?;
    }
    for _ in 0..3 {
        let id = scenario.trigger(index).await?;
        scenario.wait_until_done(&id).await?;
        scenario.new_version(index)?;
        give_away(&scenario.files(index))?;
    }
    let ready = scenario.server.get("/readyz?verbose").await?;
    anyhow::ensure!(ready.status == 200, "{}: {}", ready.status, ready.text());
    trial.counters.fault("programs without privileges");
    scenario.audit(true).await
}

fn check_privileges(process: &Process) -> anyhow::Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.split_whitespace().next().unwrap_or_default().to_owned())
    };
    for (name, expected) in [
        ("Uid:", USER.to_string()),
        ("CapEff:", "0".repeat(16)),
        ("CapBnd:", "0".repeat(16)),
        ("NoNewPrivs:", "1".to_owned()),
    ] {
        let found = field(name).context("/proc/PID/status has an unknown format")?;
        anyhow::ensure!(found == expected, "{name} {found} instead of {expected}");
    }
    Ok(())
}

/// A data folder that is not writable is a clear error at startup.
async fn write_elsewhere(trial: &Trial) -> anyhow::Result<()> {
    let settings = [("DATA_DIR", "/var/lib/filepull-chaos-elsewhere")];
    let mut scenario = Scenario::prepare(trial, &settings).await?;
    let folder = scenario.server.folder().to_owned();
    give_away(&folder)?;
    scenario.server.launch_server_by(launcher(&folder));
    let started = scenario.start_server().await;
    trial.counters.fault("writes outside the own folder");
    let error = started.err().context("the server writes outside its folder")?;
    let text = format!("{error:#}");
    anyhow::ensure!(text.contains("filepull-chaos-elsewhere"), "an unclear error: {text}");
    Ok(())
}
