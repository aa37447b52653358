//! The report of a verification, as text and as JSON.

use std::time::Duration;

use filepull_core::human;
use filepull_server::verify::{Finding, FindingKind, VerifyEvent};
use serde::Serialize;

/// The events of a verification so far.
#[derive(Debug, Default)]
pub(crate) struct VerifyReport {
    same: usize,
    bytes: u64,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct ReportJson {
    downloads: usize,
    same: usize,
    changed: usize,
    missing: usize,
    unreadable: usize,
    records_unreadable: usize,
    foreign: usize,
    bytes_read: u64,
    duration_seconds: f64,
    findings: Vec<FindingJson>,
}

#[derive(Serialize)]
struct FindingJson {
    kind: FindingKind,
    path: String,
    transfer: Option<String>,
    detail: String,
}

impl VerifyReport {
    pub(crate) fn add(&mut self, event: VerifyEvent) {
        match event {
            VerifyEvent::Read(bytes) => self.bytes += bytes,
            VerifyEvent::Same => self.same += 1,
            VerifyEvent::Found(finding) => self.findings.push(finding),
        }
    }

    /// Returns whether any download may differ from what arrived.
    pub(crate) fn is_loss(&self) -> bool {
        self.findings.iter().any(|finding| finding.kind.is_loss())
    }

    fn count(&self, kind: FindingKind) -> usize {
        self.findings.iter().filter(|finding| finding.kind == kind).count()
    }

    fn downloads(&self) -> usize {
        let lost = [FindingKind::Changed, FindingKind::Missing, FindingKind::Unreadable]
            .map(|kind| self.count(kind));
        self.same + lost.iter().sum::<usize>()
    }

    /// `200 downloads: 199 as they arrived, 1 changed. 19.5 GiB read in 12.1 s (1.6 GiB/s).`
    pub(crate) fn summary(&self, took: Duration) -> String {
        let downloads = self.downloads();
        let (noun, verb) = if downloads == 1 { ("download", "it") } else { ("downloads", "they") };
        let mut parts = vec![format!("{} as {verb} arrived", self.same)];
        let kinds = [
            FindingKind::Changed,
            FindingKind::Missing,
            FindingKind::Unreadable,
            FindingKind::Record,
            FindingKind::Foreign,
        ];
        for (kind, count) in kinds.map(|kind| (kind, self.count(kind))) {
            match (count, kind) {
                (0, _) => {}
                (1, FindingKind::Record) => parts.push("1 record unreadable".to_owned()),
                (count, FindingKind::Record) => parts.push(format!("{count} records unreadable")),
                (count, kind) => parts.push(format!("{count} {}", kind.as_str())),
            }
        }
        format!(
            "{downloads} {noun}: {}. {} read in {}.",
            parts.join(", "),
            human::size(self.bytes),
            human::took_for(took, self.bytes)
        )
    }

    pub(crate) fn json(&self, took: Duration) -> anyhow::Result<String> {
        let findings = self.findings.iter().map(|finding| FindingJson {
            kind: finding.kind,
            path: finding.path.to_string_lossy().into_owned(),
            transfer: finding.transfer.map(|id| id.to_string()),
            detail: finding.detail.clone(),
        });
        Ok(serde_json::to_string_pretty(&ReportJson {
            downloads: self.downloads(),
            same: self.same,
            changed: self.count(FindingKind::Changed),
            missing: self.count(FindingKind::Missing),
            unreadable: self.count(FindingKind::Unreadable),
            records_unreadable: self.count(FindingKind::Record),
            foreign: self.count(FindingKind::Foreign),
            bytes_read: self.bytes,
            duration_seconds: took.as_secs_f64(),
            findings: findings.collect(),
        })?)
    }
}

/// `changed     server-data/client4/download-20260205-140000.txt  its SHA-256 is …, not …; …`
pub(crate) fn line(finding: &Finding) -> String {
    let path = human::printable(&finding.path.to_string_lossy(), 1000);
    format!("{:<10}  {path}  {}", finding.kind.as_str(), finding.detail)
}

#[cfg(test)]
mod tests {
    use filepull_core::id::TransferId;

    use super::*;

    fn found(kind: FindingKind, path: &str) -> VerifyEvent {
        let transfer = kind.is_loss().then(TransferId::generate);
        VerifyEvent::Found(Finding { kind, path: path.into(), transfer, detail: "why".to_owned() })
    }

    fn report(events: Vec<VerifyEvent>) -> VerifyReport {
        let mut report = VerifyReport::default();
        events.into_iter().for_each(|event| report.add(event));
        report
    }

    #[test]
    fn the_summary_counts_each_kind_of_finding() {
        let check = |events, expected: &str, is_loss| {
            let report = report(events);
            assert_eq!(report.summary(Duration::from_secs(2)), expected);
            assert_eq!(report.is_loss(), is_loss, "{expected}");
        };
        check(vec![], "0 downloads: 0 as they arrived. 0 B read in 2.0 s.", false);
        check(
            vec![VerifyEvent::Read(2 << 20), VerifyEvent::Same, found(FindingKind::Foreign, "a/b")],
            "1 download: 1 as it arrived, 1 foreign. 2.0 MiB read in 2.0 s (1.0 MiB/s).",
            false,
        );
        check(
            vec![
                VerifyEvent::Same,
                found(FindingKind::Changed, "a"),
                found(FindingKind::Missing, "b"),
                found(FindingKind::Unreadable, "c"),
                found(FindingKind::Record, "d"),
            ],
            "4 downloads: 1 as they arrived, 1 changed, 1 missing, 1 unreadable, \
             1 record unreadable. 0 B read in 2.0 s.",
            true,
        );
    }

    #[test]
    fn a_file_name_cannot_forge_a_line() {
        let VerifyEvent::Found(finding) = found(FindingKind::Foreign, "a/x\nchanged") else {
            return;
        };
        assert_eq!(line(&finding), "foreign     a/x?changed  why");
    }
}
