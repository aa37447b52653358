//! A till's folder with everything in it that must not be sent.

use std::ffi::OsStr;
use std::fs::{self, File};
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

    fn open(&self, share: &[&str], asked: Option<&str>) -> Result<OpenFile, Problem> {
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
        ("logs/circle.log", "a link that leads in a circle, or to a file of a process"),
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
        "client4 cannot read {}: Permission denied. The agent runs as user {user}.",
        path.display()
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
    let path = |file: &str| Shares::new(Path::new(file), []).unwrap().default_place().path();
    assert_eq!(path("pos/menu.txt"), here.join("pos/menu.txt"));
    assert_eq!(path("menu.txt"), here.join("menu.txt"));
    assert_eq!(path("/pos/menu.txt"), Path::new("/pos/menu.txt"));
}

/// Returns what a share leads to after `swap`. The share was first resolved in an unchanged till.
fn after(
    till: &Till,
    share: &[&str],
    asked: &str,
    swap: impl FnOnce(),
) -> Result<OpenFile, Problem> {
    let shares = Shares::new(&till.at("pos/menu.txt"), share.iter().copied()).unwrap();
    shares.remember();
    swap();
    shares.open(&ClientId::parse("client4").unwrap(), Some(&SharedPath::parse(asked).unwrap()))
}

#[test]
fn a_folder_that_becomes_a_link_leads_nowhere() {
    let out = |till: &Till, folder: &str| {
        fs::rename(till.at(folder), till.at("away")).unwrap();
        symlink(till.at("outside"), till.at(folder)).unwrap();
    };
    // The folder of an entry.
    let till = Till::new();
    fs::write(till.at("outside/pos.log"), "SECRET").unwrap();
    let problem = after(&till, LOGS, "logs/pos.log", || out(&till, "pos/logs")).unwrap_err();
    assert_eq!(problem.code, Code::PathNotShared, "{}", problem.detail);
    // The folder of FILE_PATH itself.
    let till = Till::new();
    fs::write(till.at("outside/menu.txt"), "SECRET").unwrap();
    let problem = after(&till, &[], "menu.txt", || out(&till, "pos")).unwrap_err();
    assert_eq!(problem.code, Code::FileUnreadable);
    assert!(problem.detail.contains("/outside now. Restart the agent"), "{}", problem.detail);
    // The folder of an absolute entry, and one above it.
    for folder in ["pos/logs", "pos"] {
        let till = Till::new();
        fs::create_dir(till.at("outside/logs")).unwrap();
        for secret in ["outside/pos.log", "outside/logs/pos.log"] {
            fs::write(till.at(secret), "SECRET").unwrap();
        }
        let (share, asked) = (till.at("pos/logs/*.log"), till.at("pos/logs/pos.log"));
        let (share, asked) = (share.to_str().unwrap(), asked.to_str().unwrap());
        let problem = after(&till, &[share], asked, || out(&till, folder)).unwrap_err();
        assert!(problem.detail.contains("Restart the agent"), "{folder}: {}", problem.detail);
    }
}

#[test]
fn a_folder_may_be_missing_at_first_or_be_replaced_by_a_real_one() {
    let till = Till::new();
    let replaced = after(&till, LOGS, "logs/pos.log", || {
        fs::rename(till.at("pos"), till.at("old")).unwrap();
        fs::create_dir_all(till.at("pos/logs")).unwrap();
        fs::write(till.at("pos/logs/pos.log"), "fresh").unwrap();
    });
    assert_eq!(replaced.map(|opened| opened.source.size), Ok(5));
    let till = Till::new();
    let share = till.at("drive/a/*.log");
    let asked = till.at("drive/a/x.log");
    let mounted = after(&till, &[share.to_str().unwrap()], asked.to_str().unwrap(), || {
        fs::create_dir_all(till.at("drive/a")).unwrap();
        fs::write(till.at("drive/a/x.log"), "new").unwrap();
    });
    assert_eq!(mounted.map(|opened| opened.source.size), Ok(3));
    // The folder was missing at first. A link that appears in its place is rejected.
    let till = Till::new();
    let (share, asked) = (till.at("drive/*"), till.at("drive/secret"));
    let linked = after(&till, &[share.to_str().unwrap()], asked.to_str().unwrap(), || {
        symlink(till.at("outside"), till.at("drive")).unwrap();
    });
    assert!(linked.unwrap_err().detail.contains("Restart the agent"));
}

#[test]
fn a_folder_that_is_a_link_from_the_start_is_followed() {
    let till = Till::new();
    symlink(till.at("pos"), till.at("current")).unwrap();
    let shares = Shares::new(&till.at("current/menu.txt"), []).unwrap();
    assert!(shares.open(&ClientId::parse("client4").unwrap(), None).is_ok());
    // So is a link to a drive that is not mounted yet.
    let till = Till::new();
    symlink(till.at("drive"), till.at("current")).unwrap();
    let share = till.at("current/*.log");
    let asked = till.at("current/x.log");
    let mounted = after(&till, &[share.to_str().unwrap()], asked.to_str().unwrap(), || {
        fs::create_dir(till.at("drive")).unwrap();
        fs::write(till.at("drive/x.log"), "new").unwrap();
    });
    assert_eq!(mounted.map(|opened| opened.source.size), Ok(3));
}

#[test]
fn an_absolute_path_is_not_matched_by_a_relative_glob() {
    let till = Till::new();
    let secret = till.at("outside/secret");
    let asked = secret.to_str().unwrap();
    let detail = format!("client4 does not share {asked}. It shares: menu.txt, **");
    till.check_refused(&["**"], asked, Code::PathNotShared, &detail);
}

#[test]
fn a_file_whose_size_is_not_known_is_read_to_its_end_or_refused() {
    let open = |path: &str| {
        let shares = Shares::new(Path::new(path), []).unwrap();
        shares.open(&ClientId::parse("client4").unwrap(), None)
    };
    for path in ["/proc/version", "/proc/cpuinfo", "/sys/class/net/lo/mtu"] {
        let Ok(expected) = fs::read(path) else { continue };
        let opened = open(path).unwrap();
        assert_eq!(opened.source.size, opened.content.as_ref().unwrap().len() as u64, "{path}");
        if path != "/proc/cpuinfo" {
            assert_eq!(opened.content.unwrap(), expected, "{path}");
        }
    }
    let endless = open("/proc/self/pagemap").unwrap_err();
    assert_eq!(endless.code, Code::FileUnreadable);
    let why = "the system does not know its size, and it has more than 1.0 MiB";
    assert!(endless.detail.contains(why), "{}", endless.detail);
}

#[test]
fn an_empty_and_a_sparse_file_are_what_they_are() {
    let till = Till::new();
    fs::write(till.at("pos/logs/empty.log"), "").unwrap();
    File::create(till.at("pos/logs/sparse.log")).unwrap().set_len(4096).unwrap();
    File::create(till.at("pos/logs/large.log")).unwrap().set_len(1 << 40).unwrap();
    for (asked, size) in [("empty", 0), ("sparse", 4096), ("large", 1 << 40)] {
        let opened = till.open(LOGS, Some(&format!("logs/{asked}.log"))).unwrap();
        assert_eq!((opened.source.size, opened.content), (size, None), "{asked}");
    }
}

#[test]
fn what_is_odd_about_a_list_is_found_on_the_disk() {
    let till = Till::new();
    symlink(till.at("outside"), till.at("pos/out")).unwrap();
    let share = ["logs", "logs/*.csv", "none/**", "out/*", "logs/**", "menu.txt", "later.txt"];
    let odd = Shares::new(&till.at("pos/menu.txt"), share).unwrap().survey();
    assert_eq!(odd.len(), 4, "{odd:#?}");
    assert!(odd[3].starts_with("SHARE: out/*: out is a link that leads outside"), "{}", odd[3]);
    assert!(odd[0].starts_with("SHARE: logs is a folder, and only files are sent: write logs/*"));
    assert!(odd[1].starts_with("SHARE: logs/*.csv matches no file beneath /"), "{}", odd[1]);
    assert!(odd[2].starts_with("SHARE: none/** matches no file beneath /"), "{}", odd[2]);
}

#[test]
fn too_many_open_files_are_not_a_missing_file() {
    let till = Till::new();
    let shares = Shares::new(&till.at("pos/menu.txt"), []).unwrap();
    let error = OpenError::System(io::Error::from_raw_os_error(24));
    let problem = error.problem(
        &ClientId::parse("client4").unwrap(),
        "menu.txt",
        &shares.default_place().path(),
    );
    assert_eq!(problem.code, Code::FileUnreadable);
    let says =
        format!("client4 cannot read {}: too many open files", till.at("pos/menu.txt").display());
    assert!(problem.detail.starts_with(&says), "{}", problem.detail);
}
