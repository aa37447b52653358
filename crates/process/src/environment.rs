//! Reads settings from the environment, and finds variables that only look like a setting.
//!
//! The rules are the same for every program. An empty variable counts as not set, because compose
//! files and env files set empty variables. A value with a control character or in quotes is
//! rejected: an env file with Windows line ends passes on the first, docker passes on the second.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Command, Parser};

/// Parses the command line and the environment of this process. Exits as clap does: with code 2 and
/// a message if a value is invalid.
pub fn parse<P: Parser>() -> P {
    try_parse_from(env::args_os()).unwrap_or_else(|error| error.exit())
}

/// Parses a command line, which starts with the program, and the environment of this process.
///
/// # Errors
/// The errors of clap: a value is invalid, or help was requested.
pub fn try_parse_from<P: Parser>(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<P, clap::Error> {
    let command = without_empty(P::command());
    let parsed = command.clone().try_get_matches_from(args).and_then(|m| P::from_arg_matches(&m));
    // The message about an invalid value is clearer than the parse error that it causes. Help does
    // not need a valid environment.
    let concerns_values = match &parsed {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation),
    };
    let flaws: Vec<String> = if concerns_values {
        names(&command).iter().filter_map(|name| flaw(name, &env::var_os(name)?)).collect()
    } else {
        Vec::new()
    };
    if !flaws.is_empty() {
        return Err(command.clone().error(ErrorKind::ValueValidation, flaws.join("\n")));
    }
    parsed
}

/// Reads a secret that has a variable and no flag: a command line is readable by every user of the
/// machine. An empty variable counts as not set.
///
/// # Errors
/// The value is not text, is in quotes, or contains a control character. The error names the variable
/// and not the value.
pub fn secret(name: &str) -> Result<Option<String>, String> {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    if let Some(flaw) = flaw(name, &value) {
        return Err(flaw);
    }
    value.into_string().map(Some).map_err(|_| format!("{name}: it is not valid UTF-8"))
}

/// Logs a warning for each variable of this process that looks like a misspelt setting of `P`.
pub fn warn_misspelt<P: Parser>() {
    let known = names(&P::command());
    let set = env::vars_os().filter(|(_, value)| !value.is_empty());
    for (found, meant) in misspelt(&known, set.map(|(name, _)| name)) {
        tracing::warn!(
            event = "setting.misspelt",
            "{found} is set, but there is no such setting. Did you mean {meant}?"
        );
    }
}

/// Checks a path from a flag or from the environment.
///
/// # Errors
/// The path is in quotes, contains a control character, or begins with a `~` or a variable, which
/// only a shell replaces.
pub fn check_path(path: &Path) -> Result<(), String> {
    if let Some(flaw) = flaw_of(path.as_os_str()) {
        return Err(flaw.to_owned());
    }
    check_no_shell(&path.to_string_lossy())
}

/// Rejects a path whose first part a shell would have replaced.
///
/// # Errors
/// The first part is `~`, `~NAME` or a variable. The error names it.
pub fn check_no_shell(path: &str) -> Result<(), String> {
    let first = path.split('/').next().unwrap_or_default();
    let variable = first.strip_prefix('$').is_some_and(|name| {
        name.starts_with(|c: char| c == '{' || c == '_' || c.is_ascii_alphabetic())
    });
    if first.starts_with('~') || variable {
        return Err(format!("{first} is not replaced here, only by a shell: write the whole path"));
    }
    Ok(())
}

/// Ignores each empty variable, so that clap takes the default.
fn without_empty(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let is_empty = arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
        if is_empty { arg.env(None::<&'static str>) } else { arg }
    });
    command.mut_subcommands(without_empty)
}

/// Returns the variables that a program reads, in all its commands.
fn names(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str());
    let all = command.get_subcommands().flat_map(names);
    own.map(str::to_owned).chain(all).collect()
}

fn flaw(name: &str, value: &OsStr) -> Option<String> {
    flaw_of(value).map(|flaw| format!("{name}: {flaw}"))
}

fn flaw_of(value: &OsStr) -> Option<&'static str> {
    let value = value.to_string_lossy();
    let is_in = |quote| value.len() > 1 && value.starts_with(quote) && value.ends_with(quote);
    if value.ends_with('\r') {
        Some("it ends with a carriage return: save the settings file with Unix line ends")
    } else if value.contains(char::is_control) {
        Some("it contains a control character, such as a line break")
    } else if is_in('"') || is_in('\'') {
        Some("it is in quotes, and the quotes are part of the value: remove them")
    } else {
        None
    }
}

/// Returns each name in `set` that is close to a name in `known`, with the known name.
fn misspelt(
    known: &BTreeSet<String>,
    set: impl Iterator<Item = OsString>,
) -> Vec<(String, String)> {
    let names: BTreeSet<String> = set.filter_map(|name| name.into_string().ok()).collect();
    let unknown = names.into_iter().filter(|name| !known.contains(name));
    let meant = |name: &str| known.iter().find(|known| is_close(known, name)).cloned();
    unknown.filter_map(|name| meant(&name).map(|meant| (name, meant))).collect()
}

/// The systemd variable of a unit with `StateDirectory=`. It is not a misspelt `STATE_DIR`.
const SYSTEMD_STATE: &str = "STATE_DIRECTORY";

/// Returns whether `name` is probably a misspelt `known`: it differs in case, underscores and one
/// letter (two letters in a long name), or completes an abbreviation, as `SERVER_ADDRESS` does.
fn is_close(known: &str, name: &str) -> bool {
    // A distance of one proves nothing for short names: SIZE, SITE.
    const SHORT: usize = 4;
    const LONG: usize = 9;
    if name == SYSTEMD_STATE {
        return false;
    }
    let [known, name] = [known, name].map(letters);
    if known.len() <= SHORT {
        return false;
    }
    let allowed = if LONG <= known.len() { 2 } else { 1 };
    let is_completed = LONG <= known.len() && name.starts_with(&known);
    is_completed || strsim::osa_distance(&known, &name) <= allowed
}

fn letters(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_uppercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_setting_is_found_and_a_variable_of_another_program_is_not() {
        let settings = ["CLIENT_ID", "SERVER_ADDR", "FILE_PATH", "SHARE", "STATE_DIR", "MAX_RATE"];
        let known = settings.into_iter().map(str::to_owned).collect();
        let check = |found: &str, meant: Option<&str>| {
            let expected: Vec<_> =
                meant.map(|meant| (found.to_owned(), meant.to_owned())).into_iter().collect();
            assert_eq!(misspelt(&known, [OsString::from(found)].into_iter()), expected, "{found}");
        };
        check("SERVER_ADRR", Some("SERVER_ADDR"));
        check("SEVER_ADDR", Some("SERVER_ADDR"));
        check("SERVER_ADDRESS", Some("SERVER_ADDR"));
        check("CLIENTID", Some("CLIENT_ID"));
        check("client_id", Some("CLIENT_ID"));
        check("FILEPATH", Some("FILE_PATH"));
        check("SHARES", Some("SHARE"));
        for other in ["SERVER_ADDR", "CLIENT_DIR", "STATE_DIRECTORY", "SHELL", "PATH", "SHLVL"] {
            check(other, None);
        }
        for other in ["DATA_DIR", "HTTP_ADDR", "GRPC_ADDR", "SERVER_PORT", "HOSTNAME", "HOME"] {
            check(other, None);
        }
    }

    #[test]
    fn a_value_that_an_env_file_mangled_is_explained() {
        let check = |value: &str, expected: Option<&str>| {
            let found = flaw("FILE_PATH", OsStr::new(value));
            assert_eq!(found.is_some(), expected.is_some(), "{value:?}: {found:?}");
            if let (Some(found), Some(expected)) = (found, expected) {
                assert!(found.starts_with("FILE_PATH: it ") && found.contains(expected), "{found}");
            }
        };
        check("/pos/menu.txt\r", Some("carriage return"));
        check("/pos/\nmenu.txt", Some("control character"));
        check("\"/pos/menu.txt\"", Some("quotes"));
        check("'/pos/menu.txt'", Some("quotes"));
        for fine in ["/pos/menu.txt", "/pos/5\" disk", "\"", "ü"] {
            check(fine, None);
        }
    }

    #[test]
    fn a_path_that_needs_a_shell_is_rejected() {
        for path in ["~/x", "~", "~pos/x", "$HOME/x", "${HOME}", "'/x'", "/x\r"] {
            assert!(check_path(Path::new(path)).is_err(), "{path:?} was accepted");
        }
        for path in ["/x", "./~/x", "a~", "a$b", "$1", "/pos/$x"] {
            assert_eq!(check_path(Path::new(path)), Ok(()), "{path:?}");
        }
    }
}
