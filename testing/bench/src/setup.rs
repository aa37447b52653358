//! The product in the network: a server in its namespace, and the agent of one client in its own.

use std::path::Path;

use filepull_testkit::net::{Namespace, Network};

use crate::Bench;
use crate::product::Product;
use crate::server::ServerProcess;
use crate::source::SourceFile;

/// What a line is measured with.
pub(crate) struct Setup<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) network: &'a Network,
    pub(crate) source: &'a SourceFile,
    pub(crate) folder: &'a Path,
}

impl Setup<'_> {
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
        let server = ServerProcess::start_with(&settings, &programs.server, &folder).await?;
        let mut agent = self.network.command_in(Namespace::Agent, &programs.agent);
        agent.envs(of_agent.iter().copied());
        Product::join(server, agent, self.source, &folder).await
    }
}
