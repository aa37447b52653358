//! Requests for files that an agent shares, and for files that it must not send.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use tempfile::TempDir;

use super::*;

/// A folder in which `pos/menu.txt` is the default file, and `outside/` is not shared.
struct ShareFixture {
    folder: TempDir,
}

impl ShareFixture {
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

    fn open(&self, share: &[&str], requested: Option<&str>) -> Result<OpenFile, Problem> {
        let shares = Shares::new(&self.at("pos/menu.txt"), share.iter().copied()).unwrap();
        let requested = requested.map(|path| SharedPath::parse(path).unwrap());
        shares.open(&ClientId::parse("client4").unwrap(), requested.as_ref())
    }

    fn check_opens(&self, share: &[&str], requested: &str) {
        let opened = self.open(share, Some(requested));
        assert_eq!(opened.map(|opened| opened.source.size), Ok(7), "{requested}");
    }

    fn check_rejected(&self, share: &[&str], requested: &str, code: Code, detail: &str) {
        let problem = self.open(share, Some(requested)).map(|opened| opened.source).unwrap_err();
        assert_eq!((problem.code, problem.detail.as_str()), (code, detail));
    }
}

const LOGS: &[&str] = &["logs/*.log"];

#[test]
fn the_default_file_needs_no_path_and_has_a_name() {
    let fixture = ShareFixture::new();
    let opened = fixture.open(&[], None).unwrap();
    assert_eq!((opened.source.name.as_str(), opened.source.size), ("menu.txt", 7));
    fixture.check_opens(&[], "menu.txt");
    fixture.check_opens(&[], fixture.at("pos/menu.txt").to_str().unwrap());
}

#[test]
fn one_star_matches_one_folder_and_two_match_all() {
    let fixture = ShareFixture::new();
    fixture.check_opens(LOGS, "logs/pos.log");
    fixture.check_opens(&["logs/**"], "logs/old/2024.log");
    let detail = "client4 does not share logs/old/2024.log. It shares: menu.txt, logs/*.log";
    fixture.check_rejected(LOGS, "logs/old/2024.log", Code::PathNotShared, detail);
}

#[test]
fn an_absolute_entry_is_requested_by_its_absolute_path() {
    let fixture = ShareFixture::new();
    let secret = fixture.at("outside/secret");
    let entry = fixture.at("outside/*");
    let path = secret.to_str().unwrap();
    fixture.check_opens(&[entry.to_str().unwrap()], path);
    let problem = fixture.open(LOGS, Some(path)).unwrap_err();
    assert_eq!(problem.code, Code::PathNotShared);
}

#[test]
fn a_path_that_is_not_shared_is_rejected_with_the_list() {
    let fixture = ShareFixture::new();
    let detail = "client4 does not share C:\\Windows\\win.ini. It shares: menu.txt, logs/*.log";
    fixture.check_rejected(LOGS, "C:\\Windows\\win.ini", Code::PathNotShared, detail);
}

#[test]
fn a_link_must_not_lead_outside_its_folder() {
    let fixture = ShareFixture::new();
    symlink("old/2024.log", fixture.at("pos/logs/inside.log")).unwrap();
    fixture.check_opens(LOGS, "logs/inside.log");
    symlink("../../outside/secret", fixture.at("pos/logs/relative.log")).unwrap();
    symlink(fixture.at("outside/secret"), fixture.at("pos/logs/absolute.log")).unwrap();
    symlink(fixture.at("outside"), fixture.at("pos/logs/folder")).unwrap();
    for (share, requested) in [
        ("logs/*.log", "logs/relative.log"),
        ("logs/*.log", "logs/absolute.log"),
        ("logs/**", "logs/folder/secret"),
    ] {
        let detail = format!(
            "client4 does not share {requested}: it is a link that leads outside the shared folder."
        );
        fixture.check_rejected(&[share], requested, Code::PathNotShared, &detail);
    }
}

#[test]
fn only_a_regular_file_is_opened_and_a_pipe_does_not_block() {
    let fixture = ShareFixture::new();
    fs::create_dir(fixture.at("pos/logs/folder.log")).unwrap();
    let pipe = fixture.at("pos/logs/pipe.log");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let _listener = UnixListener::bind(fixture.at("pos/logs/socket.log")).unwrap();
    symlink("cycle.log", fixture.at("pos/logs/cycle.log")).unwrap();
    for (requested, kind) in [
        ("logs/folder.log", "a directory"),
        ("logs/pipe.log", "a pipe (FIFO)"),
        ("logs/socket.log", "a socket"),
        ("logs/cycle.log", "a link that forms a cycle, or leads to a file of a process"),
    ] {
        let detail = format!("{requested} on client4 is {kind}.");
        fixture.check_rejected(LOGS, requested, Code::NotAFile, &detail);
    }
}

#[test]
fn a_missing_file_or_folder_is_reported_as_missing() {
    let fixture = ShareFixture::new();
    let share = &["logs/*.log", "none/*.log", "menu.txt/*"];
    for requested in ["logs/none.log", "none/pos.log", "menu.txt/x"] {
        let detail = format!("client4 has no file at {requested}.");
        fixture.check_rejected(share, requested, Code::FileMissing, &detail);
    }
}

#[test]
fn an_unreadable_file_is_reported_with_the_user_of_the_agent() {
    let fixture = ShareFixture::new();
    let path = fixture.at("pos/logs/pos.log");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(&path).is_ok() {
        // Root may read every file.
        return fixture.check_opens(LOGS, "logs/pos.log");
    }
    let user = rustix::process::geteuid().as_raw();
    let detail = format!(
        "client4 cannot read {}: Permission denied. The agent runs as user {user}.",
        path.display()
    );
    fixture.check_rejected(LOGS, "logs/pos.log", Code::FileUnreadable, &detail);
}

#[test]
fn every_invalid_entry_is_named() {
    let error = Shares::new(Path::new("pos/menu.txt"), ["../x", "[", "ok.txt"]).unwrap_err();
    assert_eq!(error.matches("SHARE: ").count(), 2, "{error}");
}

#[test]
fn an_invalid_default_file_is_reported_with_its_setting() {
    let check = |path: &[u8], expected: &str| {
        let error = Shares::new(Path::new(OsStr::from_bytes(path)), []).unwrap_err();
        assert!(error.starts_with("FILE_PATH: ") && error.contains(expected), "{error}");
    };
    check(b"/", "does not name a file");
    check(b"pos/menu\x07.txt", "control");
    check(b"pos/men\xfc.txt", "is not UTF-8");
}

#[test]
fn an_unreadable_default_file_is_reported_with_its_absolute_path() {
    let fixture = ShareFixture::new();
    fs::create_dir(fixture.at("folder")).unwrap();
    symlink("../outside/secret", fixture.at("pos/out")).unwrap();
    let check = |file: &str, code: Code, what: &str| {
        let shares = Shares::new(&fixture.at(file), []).unwrap();
        let error = shares.default_file(&ClientId::parse("client4").unwrap()).unwrap_err();
        let here = what.replace("PATH", fixture.at(file).to_str().unwrap());
        assert_eq!(
            error.local_text,
            format!("FILE_PATH: {here}. A pull without a path will fail.")
        );
        assert_eq!(error.problem.code, code);
    };
    check("none/menu.txt", Code::FileMissing, "there is no file at PATH");
    check("folder", Code::NotAFile, "PATH is a directory");
    check("pos/out", Code::PathNotShared, "PATH is a link that leads outside its folder");
    let shares = Shares::new(&fixture.at("pos/menu.txt"), []).unwrap();
    let timeout = shares.timed_out(&ClientId::parse("client4").unwrap());
    assert!(timeout.local_text.contains("menu.txt cannot be read: the disk does not respond."));
}

#[test]
fn the_path_of_the_default_file_is_absolute() {
    let here = std::env::current_dir().unwrap();
    let path = |file: &str| Shares::new(Path::new(file), []).unwrap().default_place().path();
    assert_eq!(path("pos/menu.txt"), here.join("pos/menu.txt"));
    assert_eq!(path("menu.txt"), here.join("menu.txt"));
    assert_eq!(path("/pos/menu.txt"), Path::new("/pos/menu.txt"));
}

/// Opens `requested` after `change`. The folders were first resolved before the change.
fn open_after(
    fixture: &ShareFixture,
    share: &[&str],
    requested: &str,
    change: impl FnOnce(),
) -> Result<OpenFile, Problem> {
    let shares = Shares::new(&fixture.at("pos/menu.txt"), share.iter().copied()).unwrap();
    shares.remember();
    change();
    shares.open(&ClientId::parse("client4").unwrap(), Some(&SharedPath::parse(requested).unwrap()))
}

#[test]
fn a_folder_that_becomes_a_link_is_not_followed() {
    let replace = |fixture: &ShareFixture, folder: &str| {
        fs::rename(fixture.at(folder), fixture.at("away")).unwrap();
        symlink(fixture.at("outside"), fixture.at(folder)).unwrap();
    };
    // The folder of an entry.
    let fixture = ShareFixture::new();
    fs::write(fixture.at("outside/pos.log"), "SECRET").unwrap();
    let problem =
        open_after(&fixture, LOGS, "logs/pos.log", || replace(&fixture, "pos/logs")).unwrap_err();
    assert_eq!(problem.code, Code::PathNotShared, "{}", problem.detail);
    // The folder of FILE_PATH itself.
    let fixture = ShareFixture::new();
    fs::write(fixture.at("outside/menu.txt"), "SECRET").unwrap();
    let problem = open_after(&fixture, &[], "menu.txt", || replace(&fixture, "pos")).unwrap_err();
    assert_eq!(problem.code, Code::FileUnreadable);
    assert!(problem.detail.contains("/outside now. Restart the agent"), "{}", problem.detail);
    // The folder of an absolute entry, and one above it.
    for folder in ["pos/logs", "pos"] {
        let fixture = ShareFixture::new();
        fs::create_dir(fixture.at("outside/logs")).unwrap();
        for secret in ["outside/pos.log", "outside/logs/pos.log"] {
            fs::write(fixture.at(secret), "SECRET").unwrap();
        }
        let share = fixture.at("pos/logs/*.log");
        let requested = fixture.at("pos/logs/pos.log");
        let opened =
            open_after(&fixture, &[share.to_str().unwrap()], requested.to_str().unwrap(), || {
                replace(&fixture, folder);
            });
        let problem = opened.unwrap_err();
        assert!(problem.detail.contains("Restart the agent"), "{folder}: {}", problem.detail);
    }
}

#[test]
fn a_folder_may_be_missing_at_first_or_be_replaced_by_a_real_folder() {
    let fixture = ShareFixture::new();
    let replaced = open_after(&fixture, LOGS, "logs/pos.log", || {
        fs::rename(fixture.at("pos"), fixture.at("old")).unwrap();
        fs::create_dir_all(fixture.at("pos/logs")).unwrap();
        fs::write(fixture.at("pos/logs/pos.log"), "fresh").unwrap();
    });
    assert_eq!(replaced.map(|opened| opened.source.size), Ok(5));
    let fixture = ShareFixture::new();
    let share = fixture.at("drive/a/*.log");
    let requested = fixture.at("drive/a/x.log");
    let mounted =
        open_after(&fixture, &[share.to_str().unwrap()], requested.to_str().unwrap(), || {
            fs::create_dir_all(fixture.at("drive/a")).unwrap();
            fs::write(fixture.at("drive/a/x.log"), "new").unwrap();
        });
    assert_eq!(mounted.map(|opened| opened.source.size), Ok(3));
    // The folder was missing at first. A link that appears in its place is rejected.
    let fixture = ShareFixture::new();
    let share = fixture.at("drive/*");
    let requested = fixture.at("drive/secret");
    let linked =
        open_after(&fixture, &[share.to_str().unwrap()], requested.to_str().unwrap(), || {
            symlink(fixture.at("outside"), fixture.at("drive")).unwrap();
        });
    assert!(linked.unwrap_err().detail.contains("Restart the agent"));
}

#[test]
fn a_folder_that_is_a_link_from_the_start_is_followed() {
    let fixture = ShareFixture::new();
    symlink(fixture.at("pos"), fixture.at("current")).unwrap();
    let shares = Shares::new(&fixture.at("current/menu.txt"), []).unwrap();
    assert!(shares.open(&ClientId::parse("client4").unwrap(), None).is_ok());
    // A link to a drive that is not mounted yet is followed, too.
    let fixture = ShareFixture::new();
    symlink(fixture.at("drive"), fixture.at("current")).unwrap();
    let share = fixture.at("current/*.log");
    let requested = fixture.at("current/x.log");
    let mounted =
        open_after(&fixture, &[share.to_str().unwrap()], requested.to_str().unwrap(), || {
            fs::create_dir(fixture.at("drive")).unwrap();
            fs::write(fixture.at("drive/x.log"), "new").unwrap();
        });
    assert_eq!(mounted.map(|opened| opened.source.size), Ok(3));
}

#[test]
fn an_absolute_path_is_not_matched_by_a_relative_glob() {
    let fixture = ShareFixture::new();
    let secret = fixture.at("outside/secret");
    let requested = secret.to_str().unwrap();
    let detail = format!("client4 does not share {requested}. It shares: menu.txt, **");
    fixture.check_rejected(&["**"], requested, Code::PathNotShared, &detail);
}

#[test]
fn a_file_of_unknown_size_is_read_to_its_end_or_rejected() {
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
    let too_long = open("/proc/self/pagemap").unwrap_err();
    assert_eq!(too_long.code, Code::FileUnreadable);
    let expected = "the system does not know its size, and it has more than 1.0 MiB";
    assert!(too_long.detail.contains(expected), "{}", too_long.detail);
}

#[test]
fn an_empty_and_a_sparse_file_have_their_true_size() {
    let fixture = ShareFixture::new();
    fs::write(fixture.at("pos/logs/empty.log"), "").unwrap();
    File::create(fixture.at("pos/logs/sparse.log")).unwrap().set_len(4096).unwrap();
    File::create(fixture.at("pos/logs/large.log")).unwrap().set_len(1 << 40).unwrap();
    for (requested, size) in [("empty", 0), ("sparse", 4096), ("large", 1 << 40)] {
        let opened = fixture.open(LOGS, Some(&format!("logs/{requested}.log"))).unwrap();
        assert_eq!((opened.source.size, opened.content), (size, None), "{requested}");
    }
}

#[test]
fn likely_mistakes_in_a_list_are_reported() {
    let fixture = ShareFixture::new();
    symlink(fixture.at("outside"), fixture.at("pos/out")).unwrap();
    let share = ["logs", "logs/*.csv", "none/**", "out/*", "logs/**", "menu.txt", "later.txt"];
    let warnings = Shares::new(&fixture.at("pos/menu.txt"), share).unwrap().survey();
    assert_eq!(warnings.len(), 4, "{warnings:#?}");
    assert!(
        warnings[3].starts_with("SHARE: out/*: out is a link that leads outside"),
        "{}",
        warnings[3]
    );
    assert!(
        warnings[0].starts_with("SHARE: logs is a folder, and only files are sent: write logs/*")
    );
    assert!(
        warnings[1].starts_with("SHARE: logs/*.csv matches no file beneath /"),
        "{}",
        warnings[1]
    );
    assert!(warnings[2].starts_with("SHARE: none/** matches no file beneath /"), "{}", warnings[2]);
}

#[test]
fn too_many_open_files_are_not_reported_as_a_missing_file() {
    let fixture = ShareFixture::new();
    let shares = Shares::new(&fixture.at("pos/menu.txt"), []).unwrap();
    let error = OpenError::System(io::Error::from_raw_os_error(24));
    let problem = error.problem(
        &ClientId::parse("client4").unwrap(),
        "menu.txt",
        &shares.default_place().path(),
    );
    assert_eq!(problem.code, Code::FileUnreadable);
    let expected = format!(
        "client4 cannot read {}: too many open files",
        fixture.at("pos/menu.txt").display()
    );
    assert!(problem.detail.starts_with(&expected), "{}", problem.detail);
}
