//! The settings of TLS: files with certificates and keys.

use std::path::PathBuf;

use filepull_process::environment::check_path;

use super::{AgentAccess, Config};
use crate::data_folder::RECORDS_FOLDER;
use crate::tls::{AgentTls, CertificatePaths, TLS_FOLDER, TlsSources};

/// The settings of TLS, unvalidated.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TlsArgs {
    /// Certificate for agents in PEM, with the certificates of its issuers; read again when the file
    /// changes. Default: one of the server's own authority, which agents pin.
    #[arg(long, env = "TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of TLS_CERT in PEM.
    #[arg(long, env = "TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Certificate for the HTTP API in PEM, with the certificates of its issuers; read again when the
    /// file changes. With it the API speaks HTTPS only.
    #[arg(long, env = "HTTP_TLS_CERT")]
    pub http_tls_cert: Option<PathBuf>,
    /// Private key of HTTP_TLS_CERT in PEM.
    #[arg(long, env = "HTTP_TLS_KEY")]
    pub http_tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Returns the files for the listener for agents.
    pub(crate) fn agents(&self) -> Option<CertificatePaths> {
        paths(AGENTS, &self.tls_cert, &self.tls_key)
    }

    /// Returns the files for the listener for operators.
    pub(crate) fn operators(&self) -> Option<CertificatePaths> {
        paths(OPERATORS, &self.http_tls_cert, &self.http_tls_key)
    }

    /// Returns one sentence for each flaw.
    pub(crate) fn errors(&self) -> Vec<String> {
        let pairs = [
            (AGENTS, &self.tls_cert, &self.tls_key),
            (OPERATORS, &self.http_tls_cert, &self.http_tls_key),
        ];
        pairs.into_iter().flat_map(|(names, cert, key)| errors_of_pair(names, cert, key)).collect()
    }
}

impl Config {
    /// Returns where the certificates come from: for agents from the files of the operator if there are
    /// any, or else from the server's own authority. Plain text only if every agent gets a session.
    pub(crate) fn tls_sources(&self) -> TlsSources {
        let agents = match (self.tls.agents(), self.agent_access()) {
            (Some(paths), _) => AgentTls::Files(paths),
            (None, AgentAccess::Enrolled) => AgentTls::Own,
            (None, AgentAccess::Open) => AgentTls::Off,
        };
        TlsSources {
            agents,
            operators: self.tls.operators(),
            folder: self.data_dir.join(RECORDS_FOLDER).join(TLS_FOLDER),
            hosts: self.public_addr.iter().map(|address| address.host().to_owned()).collect(),
            grpc_addr: self.grpc_addr,
        }
    }
}

const AGENTS: [&str; 2] = ["TLS_CERT", "TLS_KEY"];

const OPERATORS: [&str; 2] = ["HTTP_TLS_CERT", "HTTP_TLS_KEY"];

fn paths(
    settings: [&'static str; 2],
    certificate: &Option<PathBuf>,
    key: &Option<PathBuf>,
) -> Option<CertificatePaths> {
    let (certificate, key) = certificate.clone().zip(key.clone())?;
    Some(CertificatePaths { certificate, key, settings })
}

fn errors_of_pair(
    names: [&str; 2],
    certificate: &Option<PathBuf>,
    key: &Option<PathBuf>,
) -> Vec<String> {
    let [certificate_name, key_name] = names;
    let half = |set, missing| vec![format!("{set} is set and {missing} is not. Set both.")];
    match (certificate, key) {
        (Some(_), None) => half(certificate_name, key_name),
        (None, Some(_)) => half(key_name, certificate_name),
        (None, None) | (Some(_), Some(_)) => {
            let set = [(certificate_name, certificate), (key_name, key)];
            let flaw = |(name, path): (&str, &Option<PathBuf>)| {
                check_path(path.as_ref()?).err().map(|flaw| format!("{name}: {flaw}"))
            };
            set.into_iter().filter_map(flaw).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_needs_its_key_and_the_reverse() {
        let path = || Some(PathBuf::from("/etc/x.pem"));
        let args = TlsArgs { tls_cert: path(), http_tls_key: path(), ..TlsArgs::default() };
        let expected = [
            "TLS_CERT is set and TLS_KEY is not. Set both.",
            "HTTP_TLS_KEY is set and HTTP_TLS_CERT is not. Set both.",
        ];
        assert_eq!(args.errors(), expected);
        let both = TlsArgs { tls_cert: path(), tls_key: path(), ..TlsArgs::default() };
        assert!(both.errors().is_empty() && both.agents().is_some());
        let quoted = Some(PathBuf::from("'/etc/x.pem'"));
        let flawed = TlsArgs { tls_cert: quoted, ..both };
        assert!(flawed.errors()[0].starts_with("TLS_CERT: "), "{:?}", flawed.errors());
    }
}
