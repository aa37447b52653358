//! The limit on the files and connections that a process may hold open at once.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit, which applies, to the hard limit, and returns it. Returns [`u64::MAX`] if
/// there is no limit.
///
/// Most systems start a process with a soft limit of 1024, for programs that use `select`. A fleet
/// needs more.
///
/// # Errors
/// The system rejects the call, although a process may always raise its soft limit.
pub fn raise_limit() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

/// The open file limit is lower than this process needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open only {limit} files and connections and needs {needed}. Allow more: \
     LimitNOFILE=65536 in a systemd unit, ulimits: nofile: 65536 in a compose file, \
     \"ulimit -n 65536\" in a shell"
)]
pub struct TooFewFiles {
    /// The highest limit that this process can set.
    pub limit: u64,
    /// The number of files and connections that must fit.
    pub needed: u64,
}

/// Raises the limit, and checks that `needed` files and connections may be open at once.
///
/// # Errors
/// The limit is lower than `needed`.
pub fn require(needed: u64) -> Result<(), TooFewFiles> {
    let raised = raise_limit();
    // If the limit cannot be raised, the current limit applies.
    let limit = raised.unwrap_or(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX));
    if limit < needed { Err(TooFewFiles { limit, needed }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_limit() {
        let hard = getrlimit(Resource::Nofile).maximum;
        assert_eq!(raise_limit().unwrap(), hard.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
        assert_eq!(raise_limit().unwrap(), hard.unwrap_or(u64::MAX), "a second call is no error");
        assert_eq!(require(3), Ok(()));
    }
}
