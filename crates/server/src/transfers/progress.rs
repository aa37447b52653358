//! The progress of an upload: when the last bytes arrived, and when the agent gets its next ack. No
//! clock, no access to the task.

use filepull_core::receive::Receiver;
use tokio::time::{Duration, Instant};

use super::view::Speed;

/// An agent gets an ack at least this often while bytes arrive.
const ACK_EVERY: Duration = Duration::from_secs(1);
/// An agent gets an ack after this many bytes.
const ACK_LEN: u64 = 4 * 1024 * 1024;

/// The slowest disk of a client that the server waits for, in bytes per second.
const SLOWEST_DISK: u64 = 256 * 1024;

/// How long the server waits for an agent that only reads its file. Keepalives extend the time, up
/// to a limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StallTimer {
    stall_timeout: Duration,
    last_keepalive: Instant,
    /// A keepalive costs an agent nothing, so keepalives do not extend the time forever.
    ends_at: Instant,
}

impl StallTimer {
    /// Starts the timer for an agent that may have `len` bytes to read.
    pub(crate) fn new(len: u64, stall_timeout: Duration, now: Instant) -> Self {
        let read_time = Duration::from_secs(len / SLOWEST_DISK);
        Self { stall_timeout, last_keepalive: now, ends_at: now + stall_timeout + read_time }
    }

    /// Extends the time, because the agent has sent a keepalive.
    pub(crate) fn keepalive(&mut self, now: Instant) {
        self.last_keepalive = now;
    }

    /// When the upload has stalled.
    pub(crate) fn deadline(&self) -> Instant {
        self.ends_at.min(self.last_keepalive + self.stall_timeout)
    }
}

/// The progress of one upload.
pub(crate) struct Progress {
    stall_timer: StallTimer,
    stall_timeout: Duration,
    received: u64,
    announced: u64,
    last_ack: Instant,
    acked: u64,
    speed: Speed,
}

/// What to do after new bytes have arrived.
#[derive(Debug)]
pub(crate) struct ProgressUpdate {
    /// All bytes received so far.
    pub(crate) received: u64,
    /// Bytes per second, if it was measured.
    pub(crate) bytes_per_second: Option<u64>,
    /// The view changes now. The last bytes are shown at once: the next event may be minutes later.
    pub(crate) is_shown: bool,
    /// The agent gets an ack now.
    pub(crate) ack_due: bool,
}

impl Progress {
    /// The progress of an upload into the partial of `receiver`.
    pub(crate) fn new(receiver: &Receiver, stall_timeout: Duration, now: Instant) -> Self {
        let received = receiver.received();
        let announced = receiver.announced();
        Self {
            stall_timer: StallTimer::new(announced, stall_timeout, now),
            stall_timeout,
            received,
            announced,
            last_ack: now,
            acked: received,
            speed: Speed::new(received, now.into_std()),
        }
    }

    /// All bytes received so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// When the upload has stalled.
    pub(crate) fn deadline(&self) -> Instant {
        self.stall_timer.deadline()
    }

    /// Restarts the stall timer: until now the agent waited for this server.
    pub(crate) fn renew(&mut self, now: Instant) {
        self.stall_timer = StallTimer::new(self.announced, self.stall_timeout, now);
    }

    /// Returns whether every byte has been received.
    pub(crate) fn is_complete(&self) -> bool {
        self.received == self.announced
    }

    /// Updates the progress after a write.
    pub(crate) fn on_write(&mut self, receiver: &Receiver, now: Instant) -> ProgressUpdate {
        self.update_timer(receiver, now);
        let received = self.received;
        let bytes_per_second = self.speed.update(received, now.into_std());
        let ack_due = ACK_EVERY <= now - self.last_ack || ACK_LEN <= received - self.acked;
        if ack_due {
            self.last_ack = now;
            self.acked = received;
        }
        let is_shown = bytes_per_second.is_some() || self.is_complete();
        ProgressUpdate { received, bytes_per_second, is_shown, ack_due }
    }

    /// New bytes restart the stall timer. An empty chunk is a keepalive only if the agent has sent
    /// everything, because then it reads its file again.
    fn update_timer(&mut self, receiver: &Receiver, now: Instant) {
        let received = receiver.received();
        if self.received < received {
            self.renew(now);
        } else if received == self.announced {
            self.stall_timer.keepalive(now);
        }
        self.received = received;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn keepalives_extend_the_time_as_long_as_a_slow_disk_may_read() {
        let start = Instant::now();
        let mut timer = StallTimer::new(100 << 20, MINUTE, start);
        assert_eq!(timer.deadline(), start + MINUTE);
        // A disk with 2 MiB/s needs 50 s; the server also waits for a disk with 1 MiB/s.
        for seconds in (5..100).step_by(5) {
            let now = start + Duration::from_secs(seconds);
            assert!(now < timer.deadline(), "after {seconds} s");
            timer.keepalive(now);
        }
        timer.keepalive(start + MINUTE * 60);
        assert_eq!(timer.deadline(), start + MINUTE + Duration::from_secs(400));
    }

    #[test]
    fn without_anything_to_read_a_keepalive_does_not_extend_the_time() {
        let start = Instant::now();
        let mut timer = StallTimer::new(0, MINUTE, start);
        timer.keepalive(start + MINUTE / 2);
        assert_eq!(timer.deadline(), start + MINUTE);
    }

    #[test]
    fn only_bytes_and_a_second_reading_count_as_progress() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut receiver = Receiver::new(4 << 20);
        let mut progress = Progress::new(&receiver, MINUTE, start);
        let mut write = |receiver: &Receiver, seconds| {
            progress.on_write(receiver, at(seconds));
            progress.deadline()
        };
        receiver.chunk(0, &[0; 1 << 20]).unwrap();
        assert_eq!(write(&receiver, 10), at(70), "bytes");
        assert_eq!(write(&receiver, 20), at(70), "an empty chunk in the middle");
        receiver.chunk(1 << 20, &[0; 3 << 20]).unwrap();
        assert_eq!(write(&receiver, 30), at(90), "the last bytes");
        assert_eq!(write(&receiver, 32), at(92), "an empty chunk after them");
        assert_eq!(write(&receiver, 80), at(90 + 16), "too many keepalives for 4 MiB");
    }

    #[test]
    fn an_ack_is_due_after_a_second_or_4_mib() {
        let start = Instant::now();
        let mut receiver = Receiver::new(100 << 20);
        let mut progress = Progress::new(&receiver, MINUTE, start);
        let mut ack_due = |receiver: &Receiver, millis| {
            progress.on_write(receiver, start + Duration::from_millis(millis)).ack_due
        };
        receiver.chunk(0, &[0; 1 << 20]).unwrap();
        assert!(!ack_due(&receiver, 100));
        assert!(ack_due(&receiver, 1000));
        receiver.chunk(1 << 20, &vec![0; 4 << 20]).unwrap();
        assert!(ack_due(&receiver, 1100));
        assert!(!ack_due(&receiver, 1200));
    }
}
