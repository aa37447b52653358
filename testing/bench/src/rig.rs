//! The product in the network: a server in its namespace, and the agent of one client in its own.

use std::path::Path;

use filepull_testkit::net::{Network, Place};

use crate::Bench;
use crate::product::Product;
use crate::server::Server;
use crate::source::Source;

/// What a line is measured with.
pub(crate) struct Rig<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) network: &'a Network,
    pub(crate) source: &'a Source,
    pub(crate) folder: &'a Path,
}

impl Rig<'_> {
    /// Starts both in a folder `name`, with these settings besides the usual ones.
    pub(crate) async fn start(
        &self,
        name: &str,
        of_server: &[(&str, &str)],
        of_agent: &[(&str, &str)],
    ) -> anyhow::Result<Product> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let addr = format!("{}:0", self.network.server_addr());
        let open = [("GRPC_ADDR", addr.as_str()), ("AGENT_AUTH", "open")];
        let programs = &self.bench.programs;
        let settings = [&open, of_server].concat();
        let server = Server::start_with(&settings, &programs.server, &folder).await?;
        let mut agent = self.network.command_in(Place::Agent, &programs.agent);
        agent.envs(of_agent.iter().copied());
        Product::join(server, agent, self.source, &folder).await
    }
}
