//! The list of `filepull invite --from stores.csv`: ids and labels, one client for each line.
//!
//! The whole list is checked before anything is sent, and all wrong lines are named at once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use csv::{ReaderBuilder, StringRecord, Trim};
use filepull_core::id::ClientId;
use serde::Serialize;

use crate::api::CommandError;

/// Labels of a client, in the order of their names.
pub(crate) type Labels = BTreeMap<String, String>;

/// A client that gets an invite.
#[derive(Debug, Serialize)]
pub(crate) struct InvitedClient {
    #[serde(rename = "client")]
    pub(crate) id: ClientId,
    pub(crate) labels: Labels,
    /// Where the list names it, for messages.
    #[serde(skip)]
    pub(crate) line: u64,
}

/// Maximum size of a list, so that a wrong file is not read whole: about 100,000 clients.
const MAX_LEN: u64 = 16 << 20;

/// How many wrong lines a message names.
const SHOWN_FLAWS: usize = 20;

/// Reads a list. `-` is standard input. `more` are labels for every client.
pub(crate) fn read(path: &Path, more: &Labels) -> Result<Vec<InvitedClient>, CommandError> {
    let name = path.display();
    let read = || -> io::Result<String> {
        let mut text = String::new();
        let input: Box<dyn io::Read> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path)?)
        };
        input.take(MAX_LEN + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| CommandError::usage(format!("reading {name}: {error}")))?;
    if MAX_LEN < text.len() as u64 {
        return Err(CommandError::usage(format!("{name} is larger than 16 MiB: split it")));
    }
    parse(&text, more).map_err(|flaws| {
        let n_more = flaws.len().saturating_sub(SHOWN_FLAWS);
        let mut lines: Vec<String> =
            flaws.iter().take(SHOWN_FLAWS).map(|flaw| format!("{name} {flaw}")).collect();
        if 0 < n_more {
            lines.push(format!("and {n_more} more"));
        }
        lines.push("No invite was made. Correct the list, then try again.".to_owned());
        CommandError::usage(lines.join("\n"))
    })
}

/// Parses a list. Returns all flaws if there is one.
fn parse(text: &str, more: &Labels) -> Result<Vec<InvitedClient>, Vec<String>> {
    // Spreadsheets write a byte order mark, and in many countries semicolons.
    let text = text.trim_start_matches('\u{feff}');
    let first = text.lines().next().unwrap_or_default();
    let delimiter = if first.contains(';') && !first.contains(',') { b';' } else { b',' };
    let lines = LineIndex::of(text);
    let mut reader =
        ReaderBuilder::new().delimiter(delimiter).trim(Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| vec![flaw_of(&error, &lines)])?.clone();
    let mut flaws = header_flaws(&header);
    if !flaws.is_empty() {
        return Err(flaws);
    }
    let mut clients = Vec::new();
    let mut lines_by_id: BTreeMap<String, u64> = BTreeMap::new();
    for record in reader.into_records() {
        let parsed = record.map_err(|error| flaw_of(&error, &lines)).and_then(|record| {
            let line = lines.line_of(record.position());
            let client = client_of(&header, &record, line, more)?;
            match lines_by_id.entry(client.id.as_str().to_ascii_lowercase()) {
                Entry::Occupied(first) => Err(at(
                    client.line,
                    &format!("{} is on line {} already", client.id, first.get()),
                )),
                Entry::Vacant(entry) => {
                    entry.insert(client.line);
                    Ok(client)
                }
            }
        });
        match parsed {
            Ok(client) => clients.push(client),
            Err(flaw) => flaws.push(flaw),
        }
    }
    if clients.is_empty() && flaws.is_empty() {
        flaws.push("lists no client: write one id per line beneath the header `id`".to_owned());
    }
    if flaws.is_empty() { Ok(clients) } else { Err(flaws) }
}

fn client_of(
    header: &StringRecord,
    record: &StringRecord,
    line: u64,
    more: &Labels,
) -> Result<InvitedClient, String> {
    let mut fields = header.iter().zip(record);
    let (_, raw_id) = fields.next().unwrap_or_default();
    let id = ClientId::parse(raw_id).map_err(|error| at(line, &error.to_string()))?;
    let mut labels = more.clone();
    let own = fields.filter(|(_, value)| !value.is_empty());
    labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    Ok(InvitedClient { id, labels, line })
}

/// Returns what is wrong with the first line.
fn header_flaws(header: &StringRecord) -> Vec<String> {
    let mut flaws = Vec::new();
    if header.get(0) != Some("id") {
        flaws.push(at(
            1,
            "the first column must be called id; further columns are labels: id,region,city",
        ));
    }
    for (index, name) in header.iter().enumerate() {
        if name.is_empty() {
            flaws.push(at(1, &format!("column {} has no name", index + 1)));
        } else if header.iter().take(index).any(|earlier| earlier == name) {
            flaws.push(at(1, &format!("two columns are called {name}")));
        }
    }
    flaws
}

/// The beginnings of the lines. The lines that the CSV reader counts are one too small after an empty
/// line, and in a file with Windows line ends.
struct LineIndex {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl LineIndex {
    fn of(text: &str) -> Self {
        let ends = text.match_indices('\n').map(|(end, _)| end).collect();
        Self { text: text.into(), ends }
    }

    /// Returns the line of a record: the first one at its position that is not empty.
    fn line_of(&self, position: Option<&csv::Position>) -> u64 {
        let n_before = position.map_or(0, csv::Position::byte);
        let after = usize::try_from(n_before).unwrap_or(0).min(self.text.len());
        let n_empty = self.text[after..].iter().take_while(|&&byte| byte == b'\r' || byte == b'\n');
        let start = after + n_empty.count();
        self.ends.partition_point(|&end| end < start) as u64 + 1
    }
}

fn flaw_of(error: &csv::Error, lines: &LineIndex) -> String {
    let line = lines.line_of(error.position());
    let csv::ErrorKind::UnequalLengths { expected_len, len, .. } = error.kind() else {
        return at(line, &error.to_string());
    };
    at(line, &format!("it has {len} columns, the header has {expected_len}"))
}

fn at(line: u64, flaw: &str) -> String {
    format!("line {line}: {flaw}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// An id, its line, and its labels.
    type Expected<'a> = (&'a str, u64, &'a [(&'a str, &'a str)]);

    fn check(text: &str, expected: &[Expected<'_>]) {
        let found = parse(text, &Labels::new()).unwrap();
        assert_eq!(found.len(), expected.len(), "{text:?}");
        for (client, &(id, line, pairs)) in found.iter().zip(expected) {
            assert_eq!((client.id.as_str(), client.line), (id, line), "{text:?}");
            assert_eq!(client.labels, labels(pairs), "{text:?}");
        }
    }

    #[test]
    fn each_line_is_a_client_and_each_further_column_a_label() {
        check("id\nlyon-1\nlyon-2\n", &[("lyon-1", 2, &[]), ("lyon-2", 3, &[])]);
        check(
            "id,region,city\nlyon-1,south,\"Lyon, Part-Dieu\"\n\nlille-1,,Lille",
            &[
                ("lyon-1", 2, &[("region", "south"), ("city", "Lyon, Part-Dieu")]),
                ("lille-1", 4, &[("city", "Lille")]),
            ],
        );
    }

    #[test]
    fn the_files_of_spreadsheets_are_read() {
        check("\u{feff}id;region\r\nlyon-1; south\r\n", &[("lyon-1", 2, &[("region", "south")])]);
    }

    #[test]
    fn labels_of_the_command_line_are_for_every_client_and_a_column_is_more_precise() {
        let more = labels(&[("chain", "bistro"), ("region", "north")]);
        let found = parse("id,region\na,south\nb,", &more).unwrap();
        assert_eq!(found[0].labels, labels(&[("chain", "bistro"), ("region", "south")]));
        assert_eq!(found[1].labels, more);
    }

    #[test]
    fn every_wrong_line_is_named() {
        let check = |text: &str, expected: &[&str]| {
            let flaws = parse(text, &Labels::new()).unwrap_err();
            assert_eq!(flaws.len(), expected.len(), "{flaws:?}");
            for (flaw, part) in flaws.iter().zip(expected) {
                assert!(flaw.contains(part), "{flaw:?} lacks {part:?}");
            }
        };
        check("", &["line 1: the first column must be called id"]);
        check("id\n", &["lists no client"]);
        check("lyon-1\nlyon-2\n", &["line 1: the first column must be called id"]);
        check(
            "id,a,,a\nx,1,2,3",
            &["line 1: column 3 has no name", "line 1: two columns are called a"],
        );
        check(
            "id,region\nok,south\n../etc,south\nshort\nok,north\nOK,north\n",
            &[
                "line 3: \"../etc\" is not a client id",
                "line 4: it has 1 columns, the header has 2",
                "line 5: ok is on line 2 already",
                "line 6: OK is on line 2 already",
            ],
        );
    }

    #[test]
    fn a_list_with_many_flaws_is_reported_in_twenty_lines() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("stores.csv");
        std::fs::write(&file, format!("id\n{}", "a/b\n".repeat(30))).unwrap();
        let error = read(&file, &Labels::new()).unwrap_err();
        let text = error.to_string();
        assert_eq!(text.lines().count(), 22, "{text}");
        assert!(text.contains("stores.csv line 2: ") && text.contains("and 10 more"), "{text}");
        assert!(text.ends_with("No invite was made. Correct the list, then try again."), "{text}");
        assert_eq!(error.exit_code(), 2);
    }
}
