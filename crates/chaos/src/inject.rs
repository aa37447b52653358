//! A launcher for a program whose system calls fail, or kill it, from its start on. strace counts
//! the calls of each thread by itself.

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// The program is killed (SIGKILL) and the call not made.
    Kill,
    /// The call fails with this error, such as `ENOSPC`, and is not made.
    Error(&'static str),
}

/// Which of the calls it happens at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The nth, from 1.
    Nth(u32),
    /// The nth and every later one.
    From(u32),
}

/// The launcher; give it to [`launch_server_by`](filepull_e2e::TestBed::launch_server_by). strace
/// stays in the background, so that the process is the program itself.
pub fn launcher(call: &str, blow: Blow, when: When) -> Vec<String> {
    let blow = match blow {
        Blow::Kill => "signal=SIGKILL".to_owned(),
        Blow::Error(error) => format!("error={error}"),
    };
    let when = match when {
        When::Nth(n) => n.to_string(),
        When::From(n) => format!("{n}+"),
    };
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{blow}:when={when}"));
    ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject]
        .map(str::to_owned)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(blow: Blow, when: When, program: &[&str]) -> std::process::ExitStatus {
        let words = launcher("fsync", blow, when);
        let mut command = std::process::Command::new(&words[0]);
        command.args(&words[1..]).args(program).stderr(std::process::Stdio::null());
        command.status().unwrap()
    }

    #[test]
    fn the_nth_call_fails_or_kills() {
        if crate::tool::Need::Program("strace", "strace").missing().is_some() {
            return; // what needs it says so when it is tried
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, b"a").unwrap();
        let sync = ["sync", file.to_str().unwrap()];
        assert!(run(Blow::Error("EIO"), When::Nth(2), &sync).success(), "there is only one");
        assert_eq!(run(Blow::Error("EIO"), When::From(1), &sync).code(), Some(1));
        assert!(!run(Blow::Kill, When::Nth(1), &sync).success());
    }
}
