//! Checks whether a file fits on the disk, with the measurements of the disk sampler.

use std::time::Duration;

use filepull_core::human;
use filepull_core::problem::{Code, Problem};

use super::TaskContext;
use crate::store::FreeSpace;

/// How long a measurement with enough space stays valid, so that a thousand triggers at once need one
/// measurement. It is valid for an upload if files of its size fit for the maximum of running
/// transfers.
const VALID_FOR: Duration = Duration::from_millis(100);

/// A file, the folder of a new client and the journal of the records each take one.
const MIN_FREE_INODES: u64 = 4;

impl TaskContext {
    /// Checks that `needed` bytes more fit. A rejection is based on a measurement made after this call.
    pub(crate) async fn check_space_for(&self, needed: u64) -> Result<(), Problem> {
        let max_running = u64::try_from(self.limits.max_running).unwrap_or(u64::MAX);
        let needed_by_all = needed.saturating_mul(max_running);
        let enough =
            |space: FreeSpace| shortage(space, needed_by_all, self.limits.min_free).is_none();
        if self.disk.space(VALID_FOR).await.is_ok_and(enough) {
            return Ok(());
        }
        match self.disk.space(Duration::ZERO).await {
            Ok(space) => match shortage(space, needed, self.limits.min_free) {
                Some(detail) => Err(Problem::new(Code::ServerFull, detail)),
                None => Ok(()),
            },
            // A file system that does not report its space fails the write if the file does not fit.
            Err(_) => Ok(()),
        }
    }
}

/// Returns why `needed` bytes more do not fit, as a sentence; none if they fit.
pub(crate) fn shortage(space: FreeSpace, needed: u64, min_free: u64) -> Option<String> {
    if let Some(inodes) = space.inodes
        && inodes < MIN_FREE_INODES
    {
        let inodes = if inodes == 0 { "no".to_owned() } else { format!("only {inodes}") };
        return Some(format!(
            "The server's disk has {inodes} inodes left: it can hold no more files."
        ));
    }
    if needed.saturating_add(min_free) <= space.bytes {
        return None;
    }
    let free = human::size(space.bytes);
    let min_free = human::size(min_free);
    Some(match needed {
        0 => format!("The server has {free} free; {min_free} must stay free."),
        _ => {
            let needed = human::size(needed);
            format!(
                "The server has {free} free; the file needs {needed}, and {min_free} must stay free."
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_inodes_are_both_required_and_named() {
        let check = |bytes, inodes, needed, expected: Option<&str>| {
            assert_eq!(shortage(FreeSpace { bytes, inodes }, needed, 1 << 20).as_deref(), expected);
        };
        check(1 << 20, Some(MIN_FREE_INODES), 0, None);
        check(1 << 20, None, 0, None);
        check(3 << 20, Some(100), 2 << 20, None);
        check(1000, None, 0, Some("The server has 1000 B free; 1.0 MiB must stay free."));
        check(
            2 << 20,
            None,
            2 << 20,
            Some(
                "The server has 2.0 MiB free; the file needs 2.0 MiB, and 1.0 MiB must stay free.",
            ),
        );
        let full = "The server's disk has no inodes left: it can hold no more files.";
        check(1 << 30, Some(0), 0, Some(full));
        let almost = "The server's disk has only 3 inodes left: it can hold no more files.";
        check(1 << 30, Some(3), 0, Some(almost));
    }
}
