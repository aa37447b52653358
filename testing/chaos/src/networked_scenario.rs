//! A scenario whose agents are behind a router.

use anyhow::Context as _;
use filepull_testkit::net::{Hosts, Namespace, Network};

use crate::scenario::Scenario;
use crate::trial::Trial;

const FAULTS: &str = "\
    add table ip faults_table; \
    add chain ip faults_table forward { type filter hook forward priority 0; }; \
    add chain ip faults_table faults; \
    add rule ip faults_table forward jump faults; ";

/// A server in this network namespace, its agents in another one, and a router between them.
#[derive(Debug)]
pub(crate) struct NetworkedScenario {
    pub(crate) scenario: Scenario,
    pub(crate) network: Network,
}

impl NetworkedScenario {
    /// Creates the network with this number and starts the server. No other trial of this process
    /// may use the number.
    pub(crate) async fn prepare(
        trial: &Trial,
        number: u8,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let network = Network::create_beside(number, &Hosts::usual()).await?;
        let open = [("GRPC_ADDR", "0.0.0.0:0"), ("AGENT_AUTH", "open")];
        let mut scenario = Scenario::prepare(trial, &[&open, settings].concat()).await?;
        scenario.start_server_without_agents().await?;
        // Its agents dial it directly, so it keeps its port when it restarts.
        let again = format!("0.0.0.0:{}", scenario.server.grpc().port());
        scenario.server.server_setting("GRPC_ADDR", &again);
        Ok(Self { scenario, network })
    }

    /// Adds a client behind the router. Does not start its agent.
    pub(crate) fn add_client(
        &mut self,
        id: &str,
        len: usize,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<usize> {
        let index = self.scenario.add_client(id, len, settings)?;
        let server =
            format!("http://{}:{}", self.network.server_addr(), self.scenario.server.grpc().port());
        self.scenario.client_setting(index, "SERVER_ADDR", &server);
        self.scenario.launch_client_by(index, self.network.launcher(Namespace::Agent));
        Ok(index)
    }

    /// Creates the chain `faults`, which every forwarded packet passes, and appends the rules
    /// `after` it.
    pub(crate) async fn prepare_faults(&self, after: &str) -> anyhow::Result<()> {
        self.rules(&format!("{FAULTS}{after}")).await
    }

    /// Gives the router nft rules, such as `add rule …`, all at once.
    pub(crate) async fn rules(&self, rules: &str) -> anyhow::Result<()> {
        let ruled = self.network.run_in(Namespace::Router, "nft", &[rules]).await;
        ruled.map(drop).with_context(|| format!("nft rules {rules}"))
    }
}
