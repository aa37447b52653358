//! What the programs said last: for whoever wants to know why something broke.

use filepull_testkit::Process;

use super::Scenario;

/// Lines of each program.
const LAST_WORDS: usize = 12;

impl Scenario {
    /// Adds to an error where it happened, and the last log lines of both programs.
    ///
    /// # Errors
    /// The error, if there was one.
    pub fn explain<T>(&self, place: &str, tried: anyhow::Result<T>) -> anyhow::Result<T> {
        tried.map_err(|error| anyhow::anyhow!("{place}: {error:#}\n{}", self.last_words()))
    }

    /// The last log lines of both programs.
    fn last_words(&self) -> String {
        let mut words: Vec<String> = self.past.iter().cloned().collect();
        if let Ok(server) = self.bed.server() {
            words.push(last_lines("server", server));
        }
        let agents = self.clients.iter().filter_map(|player| {
            let agent = player.client.agent().ok()?;
            Some(last_lines(&format!("agent {}", player.client.id), agent))
        });
        words.extend(agents.take(3));
        words.join("\n")
    }

    pub(super) fn remember(&mut self, name: &str, process: &Process) {
        self.past.push_back(last_lines(&format!("{name}, before"), process));
        if 3 < self.past.len() {
            self.past.pop_front();
        }
    }
}

fn last_lines(name: &str, process: &Process) -> String {
    let said = process.said();
    let last = said[said.len().saturating_sub(LAST_WORDS)..].join("\n    ");
    format!("  {name} said last:\n    {last}")
}
