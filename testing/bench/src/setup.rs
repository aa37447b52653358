//! Starts the product in network namespaces: a server in its own, and the agent in another.

use std::path::Path;

use filepull_testkit::net::{Namespace, Network};

use crate::Bench;
use crate::product::Product;
use crate::server::ServerProcess;
use crate::source::SourceFile;

/// What the measurement of a link needs.
pub(crate) struct Setup<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) network: &'a Network,
    pub(crate) source: &'a SourceFile,
    pub(crate) folder: &'a Path,
}

impl Setup<'_> {
    /// Starts both programs in the folder `name` with additional settings.
    pub(crate) async fn start(
        &self,
        name: &str,
        server_settings: &[(&str, &str)],
        agent_settings: &[(&str, &str)],
    ) -> anyhow::Result<Product> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let addr = format!("{}:0", self.network.server_addr());
        let open = [("GRPC_ADDR", addr.as_str()), ("AGENT_AUTH", "open")];
        let programs = &self.bench.programs;
        let settings = [&open, server_settings].concat();
        let server = ServerProcess::start_with(&settings, &programs.server, &folder).await?;
        let mut agent = self.network.command_in(Namespace::Agent, &programs.agent);
        agent.envs(agent_settings.iter().copied());
        Product::join(server, agent, self.source, &folder).await
    }
}
