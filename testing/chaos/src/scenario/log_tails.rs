//! Adds the last log lines of the programs to an error.

use filepull_testkit::Process;

use super::Scenario;

impl Scenario {
    /// Adds to an error the place where it happened and the last log lines of the programs.
    pub(crate) fn explain<T>(&self, place: &str, tried: anyhow::Result<T>) -> anyhow::Result<T> {
        tried.map_err(|error| anyhow::anyhow!("{place}: {error:#}\n{}", self.log_tails()))
    }

    fn log_tails(&self) -> String {
        let mut texts: Vec<String> = self.past.iter().cloned().collect();
        if let Ok(server) = self.server_process() {
            texts.push(last_lines("server", server));
        }
        let agents = self.clients.iter().filter_map(|client| {
            let agent = client.client.agent().ok()?;
            Some(last_lines(&format!("agent {}", client.client.id), agent))
        });
        texts.extend(agents.take(3));
        texts.join("\n")
    }

    pub(super) fn remember(&mut self, name: &str, process: &Process) {
        self.past.push_back(last_lines(&format!("{name}, before"), process));
        if 3 < self.past.len() {
            self.past.pop_front();
        }
    }
}

fn last_lines(name: &str, process: &Process) -> String {
    format!("  {name}, {}", process.last_output().replace('\n', "\n    "))
}
