//! A text log as the tills of a store write it: repetitive, with some numbers that do not repeat.

use std::io::{self, Write};

use chrono::{DateTime, TimeDelta, Utc};
use fastrand::Rng;

/// The events and the number of times each occurs in a hundred lines.
const EVENTS: [(&str, &str, u8); 6] = [
    ("INFO ", "item scanned", 62),
    ("INFO ", "item weighed", 12),
    ("INFO ", "receipt printed", 10),
    ("INFO ", "payment accepted", 10),
    ("DEBUG", "drawer opened", 5),
    ("WARN ", "scanner read nothing, trying again", 1),
];

const NAMES: [&str; 12] = [
    "espresso beans 1 kg",
    "oat drink 1 l",
    "rye bread 750 g",
    "butter 250 g",
    "apples, loose",
    "washing powder 20 x",
    "mineral water 6 x 1.5 l",
    "dark chocolate 100 g",
    "tomatoes, vine",
    "toothpaste 75 ml",
    "cheddar 200 g",
    "batteries AA 4 x",
];

/// The number of different items.
const N_ITEMS: u64 = 3000;

/// The time of the first line, in seconds since 1970: 2026-03-02 07:00 UTC.
const BEGIN: i64 = 1_772_434_800;

/// Writes `len` bytes of a log. Its last line may be cut.
pub(crate) fn write_log(out: &mut impl Write, rng: &mut Rng, len: u64) -> io::Result<()> {
    let mut lines = LogLines::new(rng);
    let mut remaining = len;
    while 0 < remaining {
        let line = lines.next_line(rng);
        let n_bytes = usize::try_from(remaining).unwrap_or(usize::MAX).min(line.len());
        out.write_all(&line.as_bytes()[..n_bytes])?;
        remaining -= n_bytes as u64;
    }
    Ok(())
}

/// Returns `text` with `n_lines` lines inserted at random places, which are not the ends of lines.
pub(crate) fn insert_lines(text: &[u8], rng: &mut Rng, n_lines: usize) -> Vec<u8> {
    let mut places: Vec<usize> = (0..n_lines).map(|_| rng.usize(..=text.len())).collect();
    places.sort_unstable();
    let mut lines = LogLines::new(rng);
    let mut changed = Vec::with_capacity(text.len() + n_lines * 200);
    let mut copied = 0;
    for place in places {
        changed.extend(&text[copied..place]);
        changed.extend(lines.next_line(rng).bytes());
        copied = place;
    }
    changed.extend(&text[copied..]);
    changed
}

struct LogLines {
    time: DateTime<Utc>,
    receipt: u64,
}

impl LogLines {
    fn new(rng: &mut Rng) -> Self {
        let begin = DateTime::from_timestamp(BEGIN, 0).unwrap_or_default();
        let time = begin + TimeDelta::milliseconds(rng.i64(0..86_400_000));
        Self { time, receipt: rng.u64(1_000_000..9_000_000) }
    }

    fn next_line(&mut self, rng: &mut Rng) -> String {
        self.time += TimeDelta::milliseconds(rng.i64(1..400));
        let (level, event) = random_event(rng);
        if event == "receipt printed" {
            self.receipt += 1;
        }
        let time = self.time.format("%Y-%m-%dT%H:%M:%S%.3fZ");
        let till = rng.u8(1..=12);
        let Self { receipt, .. } = self;
        // Few items are sold often.
        let item = rng.u64(..N_ITEMS).min(rng.u64(..N_ITEMS));
        let name = NAMES[usize::try_from(item).unwrap_or_default() % NAMES.len()];
        let number = 4_000_000_000_000 + item * 7_919_117;
        let cents = 49 + item * 37 % 2400;
        let price = format!("{}.{:02}", cents / 100, cents % 100);
        let took = rng.u16(3..90);
        let trace = rng.u64(..);
        format!(
            "{time} till-{till:02} {level} {event} receipt={receipt} item={number} \
             name=\"{name}\" price={price} took={took}ms trace={trace:016x}\n"
        )
    }
}

fn random_event(rng: &mut Rng) -> (&'static str, &'static str) {
    let mut place = rng.u8(..100);
    for (level, event, share) in EVENTS {
        if place < share {
            return (level, event);
        }
        place -= share;
    }
    let (level, event, _) = EVENTS[0];
    (level, event)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(seed: u64, len: u64) -> Vec<u8> {
        let mut text = Vec::new();
        write_log(&mut text, &mut Rng::with_seed(seed), len).unwrap();
        text
    }

    #[test]
    fn the_shares_of_all_events_are_a_hundred() {
        assert_eq!(EVENTS.iter().map(|(_, _, share)| u32::from(*share)).sum::<u32>(), 100);
    }

    #[test]
    fn lines_are_in_the_order_of_time() {
        let text = String::from_utf8(log(1, 100_000)).unwrap();
        let times: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(400 < times.len() && times.is_sorted(), "{} lines", times.len());
    }

    #[test]
    fn an_insertion_keeps_all_bytes_of_the_text() {
        let text = log(1, 50_000);
        let changed = insert_lines(&text, &mut Rng::with_seed(2), 200);
        let n_lines = |text: &[u8]| text.iter().filter(|&&byte| byte == b'\n').count();
        assert_eq!(n_lines(&changed), n_lines(&text) + 200);
        let mut rest = changed.iter();
        assert!(text.iter().all(|byte| rest.any(|other| other == byte)));
    }
}
