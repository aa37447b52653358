//! A stage whose agents are behind a router of their own.

use anyhow::Context as _;
use filepull_testkit::net::{Hosts, Namespace, Network};

use crate::scenario::Scenario;
use crate::trial::Trial;

const FAULTS: &str = "\
    add table ip line; \
    add chain ip line forward { type filter hook forward priority 0; }; \
    add chain ip line faults; \
    add rule ip line forward jump faults; ";

/// A server here, its agents in another network namespace, a router between them.
#[derive(Debug)]
pub struct NetworkedScenario {
    /// The server and its clients.
    pub stage: Scenario,
    /// What lies between them.
    pub network: Network,
}

impl NetworkedScenario {
    /// Makes the network with this number, which no other trial of this process uses meanwhile, and
    /// starts the server.
    ///
    /// # Errors
    /// One of both fails.
    pub async fn set(trial: &Trial, number: u8, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let network = Network::create_beside(number, &Hosts::usual()).await?;
        let open = [("GRPC_ADDR", "0.0.0.0:0"), ("AGENT_AUTH", "open")];
        let mut stage = Scenario::set(trial, &[&open, settings].concat()).await?;
        stage.start_server_alone().await?;
        // Its agents dial it directly: it comes back where it was.
        let again = format!("0.0.0.0:{}", stage.bed.grpc().port());
        stage.bed.server_setting("GRPC_ADDR", &again);
        Ok(Self { stage, network })
    }

    /// Adds a client behind the router; its agent has not been started.
    ///
    /// # Errors
    /// The disk failed.
    pub fn add_client(
        &mut self,
        id: &str,
        len: usize,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<usize> {
        let index = self.stage.add_client(id, len, settings)?;
        let server = format!("{}:{}", self.network.server_addr(), self.stage.bed.grpc().port());
        self.stage.client_setting(index, "SERVER_ADDR", &server);
        self.stage.launch_client_by(index, self.network.launcher(Namespace::Agent));
        Ok(index)
    }

    /// Makes the chain `faults`, through which the router sends everything it forwards, and adds
    /// rules of the trial behind it.
    ///
    /// # Errors
    /// nft does not take them.
    pub async fn prepare_faults(&self, behind: &str) -> anyhow::Result<()> {
        self.rules(&format!("{FAULTS}{behind}")).await
    }

    /// Gives the router rules in the language of nft, such as `add rule …`, all at once.
    ///
    /// # Errors
    /// nft does not take them.
    pub async fn rules(&self, rules: &str) -> anyhow::Result<()> {
        let ruled = self.network.run_in(Namespace::Router, "nft", &[rules]).await;
        ruled.map(drop).with_context(|| format!("the rules {rules}"))
    }
}
