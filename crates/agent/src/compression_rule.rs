//! Decides whether an upload is compressed: only while the network is slower than the compressor.
//!
//! The buffers of both ends and of the network take megabytes at once, so a write that does not wait
//! shows nothing. What shows the speed is the server's acks. An upload starts compressed. When the
//! acks follow the compressor, the network may carry more than it makes, so a short stretch is sent
//! plain, and the faster of both ways stays. On a slow line the acks never follow the compressor, and
//! everything stays compressed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Content between two marks, in bytes.
const MARK_INTERVAL: u64 = 1 << 20;

/// Marks of content that is not acked yet. If there are more, they lie further apart.
const MAX_MARKS: usize = 64;

/// Content that a rate is measured with, in bytes: half of what the server acks at once.
const MIN_MEASURED: u64 = 2 << 20;

/// Content that the rate of a trial is measured with, in bytes: two acks of a fast network. A shorter
/// trial leads to a longer one.
const MIN_TRIAL: u64 = 8 << 20;

/// Maximum plain content of a trial, in bytes: what is sent until its acks arrive.
const MAX_TRIAL: u64 = 16 << 20;

/// A trial may send the plain content that the line carries in half a second, by the rate of its
/// compressed bytes. So a trial on a line that is slow after all costs that time.
const TRIALS_PER_SECOND: u64 = 2;

/// Content before the next trial after one that failed, in bytes: four times as much after each.
const RETRY_AFTER: u64 = 64 << 20;

/// A rate is measured from the start of an upload, and later over this time. After a loss, several acks
/// arrive at once: between two of them any line looks fast.
const STEADY_TIME: Duration = Duration::from_secs(2);

/// How often a network that carries plain content is measured again.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Measures one upload. Counts content: the bytes that data and zstd extents bring, not holes and copies.
#[derive(Debug)]
pub(crate) struct CompressionRule {
    mode: SendMode,
    sent: Mark,
    /// What was sent up to some offsets that are not acked yet, oldest first.
    marks: VecDeque<Mark>,
    /// The start of the current measurement.
    window: Option<(Mark, Instant)>,
    /// The content of the compressor, and the time that it took.
    encoded: (u64, Duration),
    /// What the network carried of compressed content, in bytes per second.
    zstd_rate: u64,
    /// No trial before this content.
    next_trial: u64,
    retry_after: u64,
}

/// How content is sent now.
#[derive(Clone, Copy, Debug, PartialEq)]
enum SendMode {
    Zstd,
    /// Plain from the content at `start` up to `end`, then compressed until the acks arrive.
    Trial {
        start: u64,
        end: u64,
    },
    Plain,
}

/// Sums over an upload, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// The offset in the file.
    offset: u64,
    content: u64,
    on_wire: u64,
}

/// Content that was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentContent {
    /// The offset in the file after it.
    pub(crate) end: u64,
    pub(crate) len: u64,
    pub(crate) on_wire: u64,
    /// The time of the compressor; none if the content is plain.
    pub(crate) encoding: Option<Duration>,
}

impl CompressionRule {
    /// Starts an upload at `offset` of its file.
    pub(crate) fn new(offset: u64, now: Instant) -> Self {
        let start = Mark { offset, ..Mark::default() };
        Self {
            mode: SendMode::Zstd,
            sent: start,
            marks: VecDeque::new(),
            window: Some((start, now)),
            encoded: (0, Duration::ZERO),
            zstd_rate: 0,
            next_trial: 0,
            retry_after: RETRY_AFTER,
        }
    }

    /// Returns whether the next content is compressed.
    pub(crate) fn compresses(&self) -> bool {
        match self.mode {
            SendMode::Zstd => true,
            SendMode::Trial { end, .. } => end <= self.sent.content,
            SendMode::Plain => false,
        }
    }

    pub(crate) fn on_sent(&mut self, sent: SentContent) {
        let SentContent { end, len, on_wire, encoding } = sent;
        self.sent.offset = end;
        self.sent.content += len;
        self.sent.on_wire += on_wire;
        if let Some(time) = encoding {
            self.encoded.0 += len;
            self.encoded.1 += time;
        }
        let last = self.marks.back().map_or(0, |mark| mark.content);
        if self.marks.len() < MAX_MARKS && last + MARK_INTERVAL <= self.sent.content {
            self.marks.push_back(self.sent);
        }
    }

    /// The server has received the bytes of the file before `offset`. It said so at `at`.
    pub(crate) fn on_ack(&mut self, offset: u64, at: Instant) {
        let mut acked = None;
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.offset <= offset) {
            acked = Some(mark);
        }
        let Some(acked) = acked else { return };
        // What was sent in another mode before is not measured.
        let measured_from = if let SendMode::Trial { start, .. } = self.mode { start } else { 0 };
        let Some((first, first_at)) = self.window.filter(|(mark, _)| measured_from <= mark.content)
        else {
            self.window = Some((acked, at));
            return;
        };
        let window = Window {
            is_first: first.content == 0,
            content: acked.content - first.content,
            on_wire: acked.on_wire - first.on_wire,
            time: at.saturating_duration_since(first_at),
        };
        if self.evaluate(&window) {
            self.window = Some((acked, at));
        }
    }

    /// Chooses the mode by what the network carried. Returns false if that was too little to measure.
    fn evaluate(&mut self, window: &Window) -> bool {
        let rate = window.rate();
        match self.mode {
            SendMode::Zstd if window.content < MIN_MEASURED => return false,
            SendMode::Zstd if !window.is_first && window.time < STEADY_TIME => return false,
            SendMode::Zstd => {
                self.zstd_rate = rate;
                let follows = self.encoder_rate() <= 2 * rate;
                if !follows || self.sent.content < self.next_trial {
                    return STEADY_TIME <= window.time;
                }
                self.start_trial(window);
            }
            SendMode::Trial { .. } if window.content < MIN_TRIAL => return false,
            SendMode::Trial { start, end } if self.zstd_rate / 10 * 9 <= rate => {
                if end - start < MIN_TRIAL {
                    self.start_trial(window);
                } else {
                    self.mode = SendMode::Plain;
                }
            }
            SendMode::Plain if window.content < MIN_MEASURED || window.time < CHECK_INTERVAL => {
                return false;
            }
            SendMode::Plain if self.encoder_rate() <= 2 * rate => {}
            SendMode::Trial { .. } | SendMode::Plain => {
                self.mode = SendMode::Zstd;
                self.next_trial = self.sent.content.saturating_add(self.retry_after);
                self.retry_after = self.retry_after.saturating_mul(4);
            }
        }
        true
    }

    fn start_trial(&mut self, window: &Window) {
        let start = self.sent.content;
        self.mode = SendMode::Trial { start, end: start + window.trial_len().min(MAX_TRIAL) };
    }

    /// Returns the content that the compressor takes in a second of its own time, in bytes.
    fn encoder_rate(&self) -> u64 {
        let (content, time) = self.encoded;
        per_second(content, time)
    }
}

/// What the network carried between two acks.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// It starts with the upload.
    is_first: bool,
    content: u64,
    on_wire: u64,
    time: Duration,
}

impl Window {
    fn rate(&self) -> u64 {
        per_second(self.content, self.time)
    }

    fn trial_len(&self) -> u64 {
        per_second(self.on_wire, self.time) / TRIALS_PER_SECOND
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1);
    // A rate can be doubled.
    u64::try_from(rate).unwrap_or(u64::MAX).min(1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK_LEN: u64 = 512 * 1024;
    const MB: u64 = 1_000_000;

    /// An upload through a network that carries `line_rate` bytes per second, behind buffers of 16 MiB.
    struct Simulation {
        line_rate: u64,
        /// Content per second of the compressor, and of a sender that does not compress.
        encoder_rate: u64,
        plain_rate: u64,
        /// Content per byte on the wire.
        ratio: u64,
    }

    /// The end of an upload.
    #[derive(Debug)]
    struct SimulatedUpload {
        plain: u64,
        time: Duration,
    }

    fn time_of(bytes: u64, rate: u64) -> Duration {
        Duration::from_nanos(bytes * 1_000_000_000 / rate)
    }

    impl Simulation {
        const BUFFERS: u64 = 16 << 20;

        fn run(&self, size: u64) -> SimulatedUpload {
            let start = Instant::now();
            let mut rule = CompressionRule::new(0, start);
            let mut now = start;
            // What is on its way: the content and the wire bytes of each block, and when it arrives.
            let mut in_flight: VecDeque<(u64, u64, Instant)> = VecDeque::new();
            let mut line_free_at = start;
            let mut acked = (0, start);
            let mut plain = 0;
            for end in (1..=size / BLOCK_LEN).map(|n_blocks| n_blocks * BLOCK_LEN) {
                let encoding = rule.compresses().then(|| time_of(BLOCK_LEN, self.encoder_rate));
                let on_wire = if encoding.is_some() { BLOCK_LEN / self.ratio } else { BLOCK_LEN };
                plain += if encoding.is_some() { 0 } else { BLOCK_LEN };
                now += encoding.unwrap_or(time_of(BLOCK_LEN, self.plain_rate));
                let in_buffers: u64 = in_flight.iter().map(|(_, on_wire, _)| on_wire).sum();
                if Self::BUFFERS < in_buffers {
                    now = now.max(in_flight.front().unwrap().2);
                }
                rule.on_sent(SentContent { end, len: BLOCK_LEN, on_wire, encoding });
                line_free_at = line_free_at.max(now) + time_of(on_wire, self.line_rate);
                in_flight.push_back((end, on_wire, line_free_at));
                while let Some((end, _, at)) = in_flight.pop_front_if(|(.., at)| *at <= now) {
                    if acked.0 + (4 << 20) <= end || acked.1 + Duration::from_secs(1) <= at {
                        acked = (end, at);
                        rule.on_ack(end, at);
                    }
                }
            }
            SimulatedUpload { plain, time: line_free_at - start }
        }
    }

    fn log_file(line_rate: u64) -> Simulation {
        Simulation { line_rate, encoder_rate: 400 * MB, plain_rate: 1000 * MB, ratio: 6 }
    }

    #[test]
    fn a_slow_line_stays_compressed_throughout() {
        // 5 Mbit/s, 100 Mbit/s, 200 Mbit/s.
        for line_rate in [625_000, 12 * MB, 25 * MB] {
            let outcome = log_file(line_rate).run(100 << 20);
            assert_eq!(outcome.plain, 0, "{line_rate} B/s: {outcome:?}");
        }
    }

    #[test]
    fn a_fast_network_soon_carries_plain_bytes() {
        let outcome = log_file(2000 * MB).run(100 << 20);
        assert!(80 << 20 <= outcome.plain, "{outcome:?}");
    }

    #[test]
    fn a_network_that_is_faster_than_compressed_bytes_but_slower_than_plain_ones_stays_compressed()
    {
        // 1 Gbit/s carries what the compressor makes, and plain bytes at a third of that rate.
        let simulation = log_file(118 * MB);
        let outcome = simulation.run(1 << 30);
        assert!(outcome.plain <= 48 << 20, "{outcome:?}");
        let compressed_only = time_of(1 << 30, simulation.encoder_rate);
        assert!(outcome.time < compressed_only * 5 / 4, "{outcome:?} {compressed_only:?}");
    }

    #[test]
    fn a_trial_on_a_slow_line_costs_little() {
        // Nearly all zeros: even 5 Mbit/s carries what the compressor makes.
        let simulation = Simulation {
            line_rate: 625_000,
            encoder_rate: 1500 * MB,
            plain_rate: 2000 * MB,
            ratio: 5000,
        };
        let outcome = simulation.run(1 << 30);
        assert!(outcome.time < Duration::from_secs(6), "{outcome:?}");
    }

    #[test]
    fn a_network_that_becomes_slow_is_noticed() {
        let mut rule = CompressionRule::new(0, Instant::now());
        rule.mode = SendMode::Plain;
        rule.encoded = (400 * MB, Duration::from_secs(1));
        let mut now = Instant::now();
        for n_sent in 1..=10 {
            let end = n_sent << 20;
            rule.on_sent(SentContent { end, len: 1 << 20, on_wire: 1 << 20, encoding: None });
            now += Duration::from_secs(1);
            rule.on_ack(end, now);
        }
        assert!(rule.compresses());
    }

    #[test]
    fn bytes_that_are_not_sent_are_not_measured() {
        let start = Instant::now();
        let mut rule = CompressionRule::new(0, start);
        let encoding = Some(Duration::from_millis(3));
        // Each MiB of content follows a GiB of copies, and the line carries 1 MB/s.
        for n_sent in 1_u64..=20 {
            let end = n_sent << 30;
            rule.on_sent(SentContent { end, len: 1 << 20, on_wire: 1 << 18, encoding });
            rule.on_ack(end, start + Duration::from_secs(n_sent));
            assert!(rule.compresses(), "after {n_sent} MiB");
        }
    }

    #[test]
    fn acks_that_arrive_at_once_after_a_loss_do_not_look_like_a_fast_line() {
        let start = Instant::now();
        let mut rule = CompressionRule::new(0, start);
        let encoding = Some(Duration::from_millis(40));
        for n_stalls in 1..=20_u64 {
            // The line carries 2 MB/s. The acks of 5 s arrive within a millisecond.
            let at = start + Duration::from_secs(5 * n_stalls);
            for n_acks in 0..2 {
                let end = (2 * n_stalls + n_acks) * (5 << 20);
                let sent = SentContent { end, len: 5 << 20, on_wire: 2 << 20, encoding };
                rule.on_sent(sent);
                rule.on_ack(end, at + Duration::from_millis(n_acks));
                assert!(rule.compresses(), "after {n_stalls} stalls");
            }
        }
    }

    #[test]
    fn an_ack_of_unsent_bytes_is_harmless() {
        let mut rule = CompressionRule::new(5, Instant::now());
        for offset in [u64::MAX, 0, 5] {
            rule.on_ack(offset, Instant::now());
            assert!(rule.compresses());
        }
    }
}
