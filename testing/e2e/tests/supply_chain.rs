//! The rules of `deny.toml` that matter most, without cargo-deny (promise S14): what the programs contain,
//! and the oldest versions that are safe.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest version of each crate without a known weakness that matters here.
const FLOORS: [(&str, [u64; 3]); 4] = [
    // A stream reset by the server costs the peer nothing (RUSTSEC-2024-0003, "MadeYouReset").
    ("h2", [0, 4, 16]),
    ("rustls", [0, 23, 18]),
    ("tonic", [0, 14, 0]),
    // Forged log lines (RUSTSEC-2025-0055).
    ("tracing-subscriber", [0, 3, 20]),
];

/// Other TLS stacks and crypto libraries. `Cargo.lock` may name `ring`, because other crates have a
/// feature for it.
const FOREIGN: [&str; 5] =
    ["boring-sys", "native-tls", "openssl-sys", "rustls-openssl", "schannel"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the versions of each crate in `Cargo.lock`.
fn locked() -> BTreeMap<String, Vec<[u64; 3]>> {
    let text = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is committed");
    let mut found: BTreeMap<String, Vec<[u64; 3]>> = BTreeMap::new();
    for package in text.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let start = format!("{name} = \"");
            let line = package.lines().find_map(|line| line.strip_prefix(&start))?;
            line.strip_suffix('"')
        };
        let (Some(name), Some(version)) = (field("name"), field("version")) else {
            panic!("not a package: {package}")
        };
        let release = version.split(['-', '+']).next().unwrap_or_default();
        let mut numbers = release.split('.').map(|number| number.parse().expect("a number"));
        let version = [(); 3].map(|()| numbers.next().expect("three numbers"));
        found.entry(name.to_owned()).or_default().push(version);
    }
    found
}

/// Returns the names of the crates that the two programs contain, or are built with.
fn crates_of_programs() -> Vec<String> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(["tree", "--offline", "--locked", "--prefix=none"]);
    command.args(["-p", "filepull-cli", "-p", "filepull-agent", "--edges=normal,build"]);
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn no_crate_is_older_than_its_floor() {
    let locked = locked();
    for (name, floor) in FLOORS {
        let versions = locked.get(name).unwrap_or_else(|| panic!("{name} is not in Cargo.lock"));
        for version in versions {
            assert!(floor <= *version, "{name} {version:?} is older than {floor:?}");
        }
    }
    assert_eq!(locked["rustls"].len(), 1, "one version of rustls");
}

#[test]
fn the_programs_contain_one_tls_stack_and_one_crypto_library() {
    let crates = crates_of_programs();
    assert!(100 < crates.len(), "{crates:?}");
    for name in FOREIGN.iter().chain(&["ring"]) {
        assert!(!crates.iter().any(|found| found == name), "the programs contain {name}");
    }
    for name in ["rustls", "aws-lc-rs"] {
        assert!(crates.iter().any(|found| found == name), "the programs lack {name}");
    }
}

#[test]
fn no_crate_of_this_repository_may_contain_unsafe_code() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\nunsafe_code = \"forbid\"\n"));
    let mut n_crates = 0;
    for folder in ["crates", "testing"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path().join("Cargo.toml");
            let Ok(manifest) = fs::read_to_string(&path) else { continue };
            n_crates += 1;
            let inherits = manifest.contains("\n[lints]\nworkspace = true\n");
            assert!(inherits, "{} does not inherit the lints", path.display());
        }
    }
    assert!(10 <= n_crates, "only {n_crates} crates found");
}
