//! A till's folder with everything in it that must not be sent.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use tempfile::TempDir;

use super::*;

/// `pos/menu.txt` is the default file; `outside/` is none of anybody's business.
struct Till {
    folder: TempDir,
}

impl Till {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        for path in ["pos/menu.txt", "pos/logs/pos.log", "pos/logs/old/2024.log", "outside/secret"]
        {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "content").unwrap();
        }
        Self { folder }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn open(&self, share: &[&str], asked: Option<&str>) -> Result<Opened, Problem> {
        let shares = Shares::new(&self.at("pos/menu.txt"), share.iter().copied()).unwrap();
        let asked = asked.map(|path| SharedPath::parse(path).unwrap());
        shares.open(&ClientId::parse("client4").unwrap(), asked.as_ref())
    }

    fn check_opens(&self, share: &[&str], asked: &str) {
        let opened = self.open(share, Some(asked));
        assert_eq!(opened.map(|opened| opened.source.size), Ok(7), "{asked}");
    }

    fn check_refused(&self, share: &[&str], asked: &str, code: Code, detail: &str) {
        let problem = self.open(share, Some(asked)).map(|opened| opened.source).unwrap_err();
        assert_eq!((problem.code, problem.detail.as_str()), (code, detail));
    }
}

const LOGS: &[&str] = &["logs/*.log"];

#[test]
fn the_default_file_needs_no_path_and_has_a_name() {
    let till = Till::new();
    let opened = till.open(&[], None).unwrap();
    assert_eq!((opened.source.name.as_str(), opened.source.size), ("menu.txt", 7));
    till.check_opens(&[], "menu.txt");
    till.check_opens(&[], till.at("pos/menu.txt").to_str().unwrap());
}

#[test]
fn a_star_stays_in_its_folder_and_two_do_not() {
    let till = Till::new();
    till.check_opens(LOGS, "logs/pos.log");
    till.check_opens(&["logs/**"], "logs/old/2024.log");
    let detail = "client4 does not share logs/old/2024.log. It shares: menu.txt, logs/*.log";
    till.check_refused(LOGS, "logs/old/2024.log", Code::PathNotShared, detail);
}

#[test]
fn an_absolute_entry_is_asked_for_by_its_absolute_path() {
    let till = Till::new();
    let secret = till.at("outside/secret");
    let (entry, path) = (till.at("outside/*"), secret.to_str().unwrap());
    till.check_opens(&[entry.to_str().unwrap()], path);
    let problem = till.open(LOGS, Some(path)).unwrap_err();
    assert_eq!(problem.code, Code::PathNotShared);
}

#[test]
fn what_is_not_shared_is_refused_with_the_list() {
    let till = Till::new();
    let detail = "client4 does not share C:\\Windows\\win.ini. It shares: menu.txt, logs/*.log";
    till.check_refused(LOGS, "C:\\Windows\\win.ini", Code::PathNotShared, detail);
}

#[test]
fn a_link_may_lead_anywhere_but_out() {
    let till = Till::new();
    symlink("old/2024.log", till.at("pos/logs/inside.log")).unwrap();
    till.check_opens(LOGS, "logs/inside.log");
    symlink("../../outside/secret", till.at("pos/logs/relative.log")).unwrap();
    symlink(till.at("outside/secret"), till.at("pos/logs/absolute.log")).unwrap();
    symlink(till.at("outside"), till.at("pos/logs/folder")).unwrap();
    for (share, asked) in [
        ("logs/*.log", "logs/relative.log"),
        ("logs/*.log", "logs/absolute.log"),
        ("logs/**", "logs/folder/secret"),
    ] {
        let detail = format!(
            "client4 does not share {asked}: it is a link that leads outside the shared folder."
        );
        till.check_refused(&[share], asked, Code::PathNotShared, &detail);
    }
}

#[test]
fn only_a_regular_file_is_a_file_and_a_pipe_does_not_block() {
    let till = Till::new();
    fs::create_dir(till.at("pos/logs/folder.log")).unwrap();
    let pipe = till.at("pos/logs/pipe.log");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let _listener = UnixListener::bind(till.at("pos/logs/socket.log")).unwrap();
    symlink("circle.log", till.at("pos/logs/circle.log")).unwrap();
    for (asked, kind) in [
        ("logs/folder.log", "a directory"),
        ("logs/pipe.log", "a pipe (FIFO)"),
        ("logs/socket.log", "a socket"),
        ("logs/circle.log", "a link that leads in a circle"),
    ] {
        let detail = format!("{asked} on client4 is {kind}.");
        till.check_refused(LOGS, asked, Code::NotAFile, &detail);
    }
}

#[test]
fn a_missing_file_or_folder_is_missing() {
    let till = Till::new();
    let share = &["logs/*.log", "none/*.log", "menu.txt/*"];
    for asked in ["logs/none.log", "none/pos.log", "menu.txt/x"] {
        let detail = format!("client4 has no file at {asked}.");
        till.check_refused(share, asked, Code::FileMissing, &detail);
    }
}

#[test]
fn a_file_that_may_not_be_read_is_said_so_with_the_account() {
    let till = Till::new();
    let path = till.at("pos/logs/pos.log");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(&path).is_ok() {
        // Root reads everything, and so does its agent.
        return till.check_opens(LOGS, "logs/pos.log");
    }
    let user = rustix::process::geteuid().as_raw();
    let detail = format!(
        "client4 cannot read logs/pos.log: Permission denied. The agent runs as user {user}."
    );
    till.check_refused(LOGS, "logs/pos.log", Code::FileUnreadable, &detail);
}

#[test]
fn an_entry_that_climbs_or_is_no_glob_is_refused_and_all_are_named() {
    let error = Shares::new(Path::new("pos/menu.txt"), ["../x", "[", "ok.txt"]).unwrap_err();
    assert_eq!(error.matches("SHARE: ").count(), 2, "{error}");
}

#[test]
fn a_default_file_that_cannot_be_named_is_told_by_its_own_setting() {
    let check = |path: &[u8], said: &str| {
        let error = Shares::new(Path::new(OsStr::from_bytes(path)), []).unwrap_err();
        assert!(error.starts_with("FILE_PATH: ") && error.contains(said), "{error}");
    };
    check(b"/", "does not name a file");
    check(b"pos/menu\x07.txt", "control");
    check(b"pos/men\xfc.txt", "is not UTF-8");
}

#[test]
fn a_default_file_that_cannot_be_sent_is_told_in_words_and_with_its_whole_path() {
    let till = Till::new();
    fs::create_dir(till.at("folder")).unwrap();
    symlink("../outside/secret", till.at("pos/out")).unwrap();
    let check = |file: &str, code: Code, what: &str| {
        let shares = Shares::new(&till.at(file), []).unwrap();
        let why = shares.default_file(&ClientId::parse("client4").unwrap()).unwrap_err();
        let here = what.replace("PATH", till.at(file).to_str().unwrap());
        assert_eq!(why.here, format!("FILE_PATH: {here}. A pull without a path will fail."));
        assert_eq!(why.problem.code, code);
    };
    check("none/menu.txt", Code::FileMissing, "there is no file at PATH");
    check("folder", Code::NotAFile, "PATH is a directory");
    check("pos/out", Code::PathNotShared, "PATH is a link that leads outside its folder");
    let shares = Shares::new(&till.at("pos/menu.txt"), []).unwrap();
    let hangs = shares.no_answer(&ClientId::parse("client4").unwrap());
    assert!(hangs.here.contains("menu.txt cannot be read: the disk does not answer."));
}

#[test]
fn the_default_file_is_shown_with_its_whole_path() {
    let here = std::env::current_dir().unwrap();
    let path = |file: &str| Shares::new(Path::new(file), []).unwrap().default_path();
    assert_eq!(path("pos/menu.txt"), here.join("pos/menu.txt"));
    assert_eq!(path("menu.txt"), here.join("menu.txt"));
    assert_eq!(path("/pos/menu.txt"), Path::new("/pos/menu.txt"));
}
