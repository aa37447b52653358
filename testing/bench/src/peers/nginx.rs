//! `curl -T` to nginx: an HTTP/1.1 PUT, and a rename at the end.

use std::fs;
use std::path::Path;

use filepull_testkit::process::{self, Process};

use super::{Facts, Peer, find, folders, free_port, version};
use crate::source::SourceFile;

pub(crate) async fn start(folder: &Path) -> anyhow::Result<Peer> {
    let nginx = find("nginx")?;
    let curl = find("curl")?;
    let (home, inbox) = folders(folder, "nginx")?;
    let port = free_port()?;
    let config_path = home.join("nginx.conf");
    fs::write(&config_path, config(&home, port))?;
    let mut command = process::command(&nginx);
    command.arg("-p").arg(&home).arg("-c").arg(&config_path).args(["-e", "stderr"]);
    let daemon = Process::spawn(command)?;
    daemon.listens_on(port).await?;

    let versions = [version(&nginx, "-v", 3).await?, version(&curl, "--version", 2).await?];
    let facts = Facts {
        name: "curl -T to nginx",
        version: versions.join("; "),
        guarantees: "nothing, not synced",
        target: None,
    };
    let copy = move |source: &SourceFile, name: &str| {
        let mut command = process::command(&curl);
        let limit = source.limit().as_secs().to_string();
        command.args(["-q", "-sS", "--fail", "--max-time", &limit, "-T"]).arg(&source.path);
        command.arg(format!("http://127.0.0.1:{port}/{name}"));
        command
    };
    Ok(Peer { facts, inbox, daemon: Some(daemon), copy: Box::new(copy) })
}

/// A single process, so that no worker survives it. The large buffer is to nginx's advantage.
fn config(home: &Path, port: u16) -> String {
    let home = home.display();
    format!(
        "daemon off; master_process off; pid {home}/nginx.pid; error_log stderr;\n\
         events {{}}\n\
         http {{\n\
           access_log off; client_max_body_size 0; client_body_buffer_size 1m;\n\
           client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;\n\
           fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi;\n\
           scgi_temp_path {home}/scgi;\n\
           server {{ listen 127.0.0.1:{port}; root {home}/inbox; location / {{ dav_methods PUT; }} }}\n\
         }}\n"
    )
}
