//! What happens during an upload, and when it last did: for whoever looks at it, for the agent, and
//! for the server's patience.

use filepull_core::receive::Receiver;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use super::Reply;
use super::stall_timer::StallTimer;
use super::task::TransferTask;
use super::view::Speed;

/// The agent hears of its progress at least this often while bytes flow ...
const ACK_EVERY: Duration = Duration::from_secs(1);
/// ... and after this many bytes.
const ACK_LEN: u64 = 4 * 1024 * 1024;

/// When things last happened during an upload.
pub(super) struct Progress {
    pub(super) patience: StallTimer,
    pub(super) durable: u64,
    stall_timeout: Duration,
    received: u64,
    announced: u64,
    last_ack: Instant,
    acked: u64,
    speed: Speed,
}

impl Progress {
    /// For an upload that goes into `receiver`.
    pub(super) fn new(receiver: &Receiver, stall_timeout: Duration, now: Instant) -> Self {
        let (received, announced) = (receiver.received(), receiver.announced());
        Self {
            patience: StallTimer::new(announced, stall_timeout, now),
            durable: 0,
            stall_timeout,
            received,
            announced,
            last_ack: now,
            acked: received,
            speed: Speed::new(received, now.into_std()),
        }
    }

    /// Restarts the stall timer: until now the agent waited for this server.
    pub(super) fn renew(&mut self, now: Instant) {
        self.patience = StallTimer::new(self.announced, self.stall_timeout, now);
    }

    /// Every byte has been received.
    pub(super) fn is_complete(&self) -> bool {
        self.received == self.announced
    }

    /// Notes what has been received. New bytes renew the patience; an empty chunk is a sign of life
    /// only from an agent that has sent everything, and reads its file once more.
    fn beat(&mut self, receiver: &Receiver, now: Instant) {
        let received = receiver.received();
        if self.received < received {
            self.renew(now);
        } else if received == self.announced {
            self.patience.sign(now);
        }
        self.received = received;
    }
}

impl TransferTask {
    /// Shows and acknowledges progress.
    pub(super) fn on_progress(&self, pulse: &mut Progress, replies: &mpsc::Sender<Reply>) {
        let Some(held) = &self.held else { return };
        let (received, now) = (held.receiver.received(), Instant::now());
        pulse.beat(&held.receiver, now);
        let speed = pulse.speed.update(received, now.into_std());
        // Show the last bytes at once: the next event may be minutes later.
        if speed.is_some() || received == held.receiver.announced() {
            self.view.send_modify(|view| {
                view.bytes_done = received;
                view.bytes_per_second = speed.or(view.bytes_per_second);
            });
        }
        let ack_due = ACK_EVERY <= now - pulse.last_ack || ACK_LEN <= received - pulse.acked;
        if ack_due {
            // A full queue means that the agent has not read the last one yet.
            let _ = replies.try_send(Reply::Ack { received, durable: pulse.durable });
            (pulse.last_ack, pulse.acked) = (now, received);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_and_a_second_reading_are_signs_of_life() {
        let (start, minute) = (Instant::now(), Duration::from_mins(1));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut receiver = Receiver::new(4 << 20);
        let mut pulse = Progress::new(&receiver, minute, start);
        let mut beat = |receiver: &Receiver, seconds| {
            pulse.beat(receiver, at(seconds));
            pulse.patience.deadline()
        };
        receiver.chunk(0, &[0; 1 << 20]).unwrap();
        assert_eq!(beat(&receiver, 10), at(70), "bytes");
        assert_eq!(beat(&receiver, 20), at(70), "an empty chunk in the middle");
        receiver.chunk(1 << 20, &[0; 3 << 20]).unwrap();
        assert_eq!(beat(&receiver, 30), at(90), "the last bytes");
        assert_eq!(beat(&receiver, 32), at(92), "an empty chunk after them");
        assert_eq!(beat(&receiver, 80), at(90 + 16), "too many of them for 4 MiB");
    }
}
