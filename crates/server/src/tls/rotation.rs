//! Which authorities a server has, and in which order they follow each other. No I/O.
//!
//! Agents learn the pin of a successor over sessions that they trust already. So a successor is announced
//! long before it signs, and the old authority is retired long after.

use std::convert::Infallible;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The authorities of a server. `A` is an authority, or its fingerprint on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum Rotation<A> {
    /// One authority, which every agent pins.
    Steady { current: A },
    /// The successor exists. Agents store its pin; it signs nothing yet.
    Announced { current: A, next: A },
    /// The successor signs the server's certificate. The old authority vouches for it, so agents that
    /// have only the old pin still connect, and receive the new one.
    Switched { current: A, previous: A },
}

/// The states of a rotation, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RotationState {
    Steady,
    Announced,
    Switched,
}

/// A step that does not follow the current state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StepError {
    /// A successor exists already.
    #[error("a rotation is under way: its state is {0}")]
    UnderWay(RotationState),
    /// There is no successor to switch to.
    #[error("no successor is announced: the state is {0}")]
    NotAnnounced(RotationState),
    /// There is no old authority to retire.
    #[error("the server has not switched to a successor: the state is {0}")]
    NotSwitched(RotationState),
}

impl<A> Rotation<A> {
    /// Returns the state.
    pub(crate) fn state(&self) -> RotationState {
        match self {
            Self::Steady { .. } => RotationState::Steady,
            Self::Announced { .. } => RotationState::Announced,
            Self::Switched { .. } => RotationState::Switched,
        }
    }

    /// Returns the authority that signs the server's certificate.
    pub(crate) fn current(&self) -> &A {
        let (Self::Steady { current }
        | Self::Announced { current, .. }
        | Self::Switched { current, .. }) = self;
        current
    }

    /// Returns the announced successor.
    pub(crate) fn next(&self) -> Option<&A> {
        if let Self::Announced { next, .. } = self { Some(next) } else { None }
    }

    /// Returns the old authority, until it is retired.
    pub(crate) fn previous(&self) -> Option<&A> {
        if let Self::Switched { previous, .. } = self { Some(previous) } else { None }
    }

    /// Returns the authorities that agents pin, the current one first.
    pub(crate) fn pinned(&self) -> impl Iterator<Item = &A> {
        [Some(self.current()), self.next(), self.previous()].into_iter().flatten()
    }

    /// Returns the same state with `change` applied to each authority.
    pub(crate) fn try_map<B, E>(
        &self,
        mut change: impl FnMut(&A) -> Result<B, E>,
    ) -> Result<Rotation<B>, E> {
        Ok(match self {
            Self::Steady { current } => Rotation::Steady { current: change(current)? },
            Self::Announced { current, next } => {
                Rotation::Announced { current: change(current)?, next: change(next)? }
            }
            Self::Switched { current, previous } => {
                Rotation::Switched { current: change(current)?, previous: change(previous)? }
            }
        })
    }

    /// As [`try_map`](Self::try_map), for a change that cannot fail.
    pub(crate) fn map<B>(&self, mut change: impl FnMut(&A) -> B) -> Rotation<B> {
        let Ok(mapped) = self.try_map(|authority| Ok::<_, Infallible>(change(authority)));
        mapped
    }
}

impl<A: Clone> Rotation<A> {
    /// Adds the successor.
    pub(crate) fn announce(&self, next: A) -> Result<Self, StepError> {
        match self {
            Self::Steady { current } => Ok(Self::Announced { current: current.clone(), next }),
            Self::Announced { .. } | Self::Switched { .. } => {
                Err(StepError::UnderWay(self.state()))
            }
        }
    }

    /// Lets the successor sign. The authority before it becomes the previous one.
    pub(crate) fn switch(&self) -> Result<Self, StepError> {
        match self {
            Self::Announced { current, next } => {
                Ok(Self::Switched { current: next.clone(), previous: current.clone() })
            }
            Self::Steady { .. } | Self::Switched { .. } => {
                Err(StepError::NotAnnounced(self.state()))
            }
        }
    }

    /// Drops the previous authority.
    pub(crate) fn retire(&self) -> Result<Self, StepError> {
        match self {
            Self::Switched { current, .. } => Ok(Self::Steady { current: current.clone() }),
            Self::Steady { .. } | Self::Announced { .. } => {
                Err(StepError::NotSwitched(self.state()))
            }
        }
    }
}

impl fmt::Display for RotationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Steady => "steady",
            Self::Announced => "announced",
            Self::Switched => "switched",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_has_three_steps_in_one_order() {
        let steady = Rotation::Steady { current: 1 };
        assert_eq!(steady.switch(), Err(StepError::NotAnnounced(RotationState::Steady)));
        assert_eq!(steady.retire(), Err(StepError::NotSwitched(RotationState::Steady)));
        let announced = steady.announce(2).unwrap();
        assert!(announced.announce(3).is_err() && announced.retire().is_err());
        let switched = announced.switch().unwrap();
        assert!(switched.announce(3).is_err() && switched.switch().is_err());
        assert_eq!(switched.retire(), Ok(Rotation::Steady { current: 2 }));
    }

    #[test]
    fn agents_pin_every_authority_and_the_one_that_signs_comes_first() {
        let pinned = |rotation: &Rotation<u8>| rotation.pinned().copied().collect::<Vec<_>>();
        let steady = Rotation::Steady { current: 1 };
        assert_eq!(pinned(&steady), [1]);
        let announced = steady.announce(2).unwrap();
        assert_eq!(pinned(&announced), [1, 2]);
        assert_eq!(pinned(&announced.switch().unwrap()), [2, 1]);
    }
}
