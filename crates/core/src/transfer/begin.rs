//! Decides whether an upload may begin, and into which partial.

use super::{Phase, Receiving, Transfer};
use crate::source::Source;

/// What must happen before an upload begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadStart {
    /// The upload continues after the bytes of the partial. The phase has the source of the upload:
    /// put it on record if it differs from the current phase.
    Resume(Receiving),
    /// The upload needs a new partial: begin [`Transfer::next_partial`] on the disk, then call
    /// [`Transfer::receive`].
    Create,
    /// The received bytes are useless. Call [`Transfer::start_over`] first, so that their space is
    /// free for the new partial, then begin the upload again.
    Restart,
}

/// Why an upload may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// A later attempt has been ordered since, or the transfer receives no more bytes.
    #[error("attempt {found} is not the current one, {current}")]
    StaleAttempt {
        /// The attempt that may upload.
        current: u32,
        /// The attempt of the upload.
        found: u32,
    },
    /// The upload starts after its own end, or its start is not zero and not the end of the partial.
    #[error("expected an upload from {expected}, found one from {found}")]
    WrongOffset {
        /// Where the partial ends.
        expected: u64,
        /// Where the upload starts.
        found: u64,
    },
}

impl Transfer {
    /// Decides how an upload of `source` may begin at `offset`. The partial holds `held` bytes; none
    /// if there is no partial.
    ///
    /// An upload that starts where the partial ends has proved that its source begins with the
    /// partial's bytes. An upload that starts at zero has no such proof. It gets a new partial, so
    /// that two versions of a file are never mixed.
    ///
    /// # Errors
    /// The upload belongs to another attempt, or starts at another offset.
    pub fn begin(
        &self,
        attempt: u32,
        offset: u64,
        source: &Source,
        held: Option<u64>,
    ) -> Result<UploadStart, BeginError> {
        let is_open = matches!(self.phase, Phase::Queued | Phase::Receiving(_));
        if !is_open || attempt != self.attempt {
            return Err(BeginError::StaleAttempt { current: self.attempt, found: attempt });
        }
        match (&self.phase, held) {
            (Phase::Receiving(receiving), Some(held))
                if held == offset && offset <= source.size =>
            {
                Ok(UploadStart::Resume(receiving.clone().with_source(source.clone())))
            }
            (_, held) if offset != 0 => {
                Err(BeginError::WrongOffset { expected: held.unwrap_or(0), found: offset })
            }
            (Phase::Receiving(_), _) => Ok(UploadStart::Restart),
            _ => Ok(UploadStart::Create),
        }
    }
}
