//! How many files and connections a process may hold open at once.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit that holds (the soft one) to the most that the system allows this process (the
/// hard one), and returns it; [`u64::MAX`] if there is none.
///
/// Most systems start a process with 1024, for the sake of programs that use `select`. Nobody
/// who serves a fleet wants to find that out from the client that does not fit any more.
///
/// # Errors
/// The system refuses, although it should not.
pub fn raise_limit() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

/// This process may open too few files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open only {limit} files and connections and needs {needed}. Allow more: \
     LimitNOFILE=65536 in a systemd unit, ulimits: nofile: 65536 in a compose file, \
     \"ulimit -n 65536\" in a shell"
)]
pub struct TooFewFiles {
    /// The limit, as far as this process can raise it.
    pub limit: u64,
    /// The required minimum.
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
    fn the_limit_is_raised_as_far_as_it_goes() {
        let hard = getrlimit(Resource::Nofile).maximum;
        assert_eq!(raise_limit().unwrap(), hard.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
        assert_eq!(raise_limit().unwrap(), hard.unwrap_or(u64::MAX), "it may be raised twice");
        assert_eq!(require(3), Ok(()));
    }
}
