//! Complete handshakes in memory, between the configurations of both ends.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use filepull_core::fingerprint::Fingerprint;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::Acceptor;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    ServerConnection,
};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn authority() -> CertificateAuthority {
    CertificateAuthority::generate("test CA").unwrap()
}

/// Valid from yesterday until tomorrow.
fn now() -> Range<SystemTime> {
    SystemTime::now() - DAY..SystemTime::now() + DAY
}

fn issue(authority: &CertificateAuthority) -> IssuedCertificate {
    authority.issue(&["pull.example.com".to_owned()], now()).unwrap()
}

fn server(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Arc<ServerConfig> {
    server_config(chain, key, &[b"h2"], ClientKeys::Accept).unwrap()
}

fn pins(pins: &[Fingerprint]) -> Arc<ClientConfig> {
    client_config(&ServerTrust::Pins(pins.to_vec()), Some(&AgentKey::generate())).unwrap()
}

/// Both ends after a handshake.
#[derive(Debug)]
struct Connection {
    client: ClientConnection,
    server: ServerConnection,
}

/// Exchanges messages until the handshake is done, and delivers the session ticket.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<Connection, rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    for _ in 0..4 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Connection { client, server })
}

fn rejection(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> ServerRejection {
    let error = handshake(client, server, "pull.example.com").unwrap_err();
    let wrapped = std::io::Error::other(error);
    server_rejection(&wrapped).unwrap_or_else(|| panic!("another error: {wrapped}")).clone()
}

#[test]
fn a_server_of_the_pinned_authority_is_accepted_under_any_name() {
    let authority = authority();
    let issued = issue(&authority);
    let server = server(issued.chain, issued.key);
    let client = pins(&[authority.fingerprint()]);
    for name in ["pull.example.com", "192.0.2.1", "other.example.org"] {
        let connection = handshake(&client, &server, name).unwrap();
        assert_eq!(connection.client.alpn_protocol(), Some(&b"h2"[..]));
    }
}

#[test]
fn the_hybrid_key_exchange_and_tls_1_3_are_agreed() {
    let authority = authority();
    let issued = issue(&authority);
    let client = pins(&[authority.fingerprint()]);
    let connection =
        handshake(&client, &server(issued.chain, issued.key), "pull.example.com").unwrap();
    let group = connection.server.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
    assert_eq!(connection.server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn a_client_of_tls_1_2_is_rejected() {
    let provider = provider();
    assert!(provider.cipher_suites.iter().all(|suite| suite.tls13().is_some()));
    // A ClientHello of TLS 1.2: one cipher suite, no extensions.
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2f, 1, 0]].concat();
    let len = u8::try_from(body.len()).unwrap();
    let hello = [&[22, 3, 1, 0, len + 4, 1, 0, 0, len][..], &body].concat();
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut hello.as_slice()).unwrap();
    let issued = issue(&authority());
    let accepted = acceptor.accept().map(|accepted| {
        let accepted = accepted.expect("the hello is complete");
        accepted.into_connection(server(issued.chain, issued.key)).map(drop)
    });
    let is_accepted = matches!(accepted, Ok(Ok(())));
    assert!(!is_accepted);
}

#[test]
fn during_a_rotation_either_pin_is_enough() {
    let old = authority();
    let new = CertificateAuthority::generate("next CA").unwrap();
    let mut issued = issue(&new);
    issued.chain.push(old.cross_sign(&new).unwrap());
    issued.chain.push(old.certificate().clone());
    let server = server(issued.chain, issued.key);
    for pin in [old.fingerprint(), new.fingerprint()] {
        handshake(&pins(&[pin]), &server, "pull.example.com").unwrap();
    }
    let other = authority().fingerprint();
    assert!(matches!(rejection(&pins(&[other]), &server), ServerRejection::NotPinned { .. }));
}

#[test]
fn dates_decide_nothing_for_a_pinned_server() {
    let authority = authority();
    let past = SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH + DAY;
    let future = SystemTime::now() + 50 * 365 * DAY..SystemTime::now() + 51 * 365 * DAY;
    for validity in [past, future] {
        let issued = authority.issue(&["pull.example.com".to_owned()], validity).unwrap();
        let server = server(issued.chain, issued.key);
        for year in [1970, 2026, 2099] {
            let client = at_year(&pins(&[authority.fingerprint()]), year);
            handshake(&client, &server, "pull.example.com").unwrap();
        }
    }
}

#[test]
fn another_authority_with_the_same_name_is_rejected() {
    let pinned = authority();
    let stranger = authority();
    let issued = issue(&stranger);
    let rejected = rejection(&pins(&[pinned.fingerprint()]), &server(issued.chain, issued.key));
    let found = stranger.fingerprint();
    assert_eq!(rejected, ServerRejection::NotPinned { issuer: "test CA".to_owned(), found });
}

#[test]
fn a_stranger_who_sends_the_pinned_certificate_along_is_rejected() {
    let pinned = authority();
    let stranger = authority();
    for chain in [
        vec![pinned.certificate().clone()],
        vec![stranger.certificate().clone(), pinned.certificate().clone()],
        vec![pinned.certificate().clone(), stranger.certificate().clone()],
    ] {
        let issued = issue(&stranger);
        let chain = [&issued.chain[..1], &chain].concat();
        let rejected = rejection(&pins(&[pinned.fingerprint()]), &server(chain, issued.key));
        assert!(matches!(rejected, ServerRejection::NotSigned { .. }), "{rejected:?}");
    }
}

#[test]
fn a_certificate_of_a_server_issues_no_other() {
    let pinned = authority();
    let first = issue(&pinned);
    // The owner of one certificate signs another one with its key.
    let first_key = KeyPair::try_from(first.key.secret_der()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&first.chain[0], first_key).unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let params = CertificateParams::new(["pull.example.com".to_owned()]).unwrap();
    let second = params.signed_by(&key, &issuer).unwrap();
    let chain = [&[CertificateDer::from(second)], &first.chain[..]].concat();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let rejected = rejection(&pins(&[pinned.fingerprint()]), &server(chain, key));
    assert!(matches!(rejected, ServerRejection::NotSigned { .. }), "{rejected:?}");
}

#[test]
fn a_server_without_the_key_of_its_certificate_is_rejected() {
    let authority = authority();
    let real = issue(&authority);
    let other = issue(&authority);
    let key = provider().key_provider.load_private_key(other.key).unwrap();
    // No `keys_match`: a thief sends the certificate of the server with a key of its own.
    let certified = rustls::sign::CertifiedKey::new(real.chain, key);
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    let mut server = server;
    server.alpn_protocols = vec![b"h2".to_vec()];
    let error = handshake(&pins(&[authority.fingerprint()]), &Arc::new(server), "pull.example.com");
    assert!(matches!(error.unwrap_err(), rustls::Error::InvalidCertificate(_)));
}

#[test]
fn no_pin_accepts_no_server() {
    let error = client_config(&ServerTrust::Pins(Vec::new()), None).unwrap_err();
    assert!(matches!(error, TrustError::NoPins));
}

#[test]
fn the_server_sees_the_key_of_the_agent_also_in_a_resumed_session() {
    let authority = authority();
    let issued = issue(&authority);
    let server = server(issued.chain, issued.key);
    let key = AgentKey::generate();
    let trust = ServerTrust::Pins(vec![authority.fingerprint()]);
    let client = client_config(&trust, Some(&key)).unwrap();
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let connection = handshake(&client, &server, "pull.example.com").unwrap();
        assert_eq!(connection.server.handshake_kind(), Some(expected));
        let presented = connection.server.peer_certificates().unwrap();
        assert_eq!(fingerprint_of(&presented[0]), Ok(key.fingerprint()));
    }
    let anonymous = client_config(&trust, None).unwrap();
    let connection = handshake(&anonymous, &server, "pull.example.com").unwrap();
    assert_eq!(connection.server.peer_certificates(), None);
}

#[test]
fn a_key_that_is_not_ed25519_is_not_accepted() {
    let authority = authority();
    let issued = issue(&authority);
    let server = server(issued.chain, issued.key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let certified =
        rustls::sign::CertifiedKey::from_der(vec![certificate.into()], key, &provider()).unwrap();
    let mut client = ClientConfig::clone(&pins(&[authority.fingerprint()]));
    client.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    // The server asks for Ed25519 only, so the client of rustls presents nothing.
    let connection = handshake(&Arc::new(client), &server, "pull.example.com").unwrap();
    assert_eq!(connection.server.peer_certificates(), None);
}

#[test]
fn roots_check_the_name_and_the_clock_and_name_the_issuer() {
    let authority = authority();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.certificate_pem()).unwrap();
    let roots = ServerTrust::Roots { ca_file: Some(file.path().to_owned()) };
    let client = client_config(&roots, None).unwrap();
    let issued = issue(&authority);
    let good = server(issued.chain, issued.key);
    handshake(&client, &good, "pull.example.com").unwrap();
    let error = handshake(&client, &good, "other.example.org").unwrap_err();
    assert_eq!(server_rejection(&error), Some(&ServerRejection::OtherName));
    assert_eq!(rejection(&at_year(&client, 1970), &good), ServerRejection::NotYetValid);
    assert_eq!(rejection(&at_year(&client, 2099), &good), ServerRejection::Expired);

    let firewall = CertificateAuthority::generate("Corporate firewall").unwrap();
    let issued = issue(&firewall);
    let rejected = rejection(&client, &server(issued.chain, issued.key));
    let issuer = "Corporate firewall".to_owned();
    assert_eq!(rejected, ServerRejection::UnknownIssuer { issuer });
}

#[test]
fn a_file_without_certificates_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let check = |path: &std::path::Path, expected: &str| {
        let roots = ServerTrust::Roots { ca_file: Some(path.to_owned()) };
        let text = client_config(&roots, None).unwrap_err().to_string();
        assert!(text.starts_with(expected), "{text}");
    };
    check(file.path(), "CA_FILE=");
    check(std::path::Path::new("/nonexistent"), "cannot read CA_FILE=/nonexistent");
}

#[test]
fn an_authority_is_read_as_it_was_written() {
    let authority = authority();
    let certificate = authority.certificate_pem();
    let read = CertificateAuthority::from_pem(&certificate, &authority.key_pem()).unwrap();
    assert_eq!(read.fingerprint(), authority.fingerprint());
    let issued = issue(&read);
    let client = pins(&[authority.fingerprint()]);
    handshake(&client, &server(issued.chain, issued.key), "pull.example.com").unwrap();
    let other = self::authority().key_pem();
    let mismatch = CertificateAuthority::from_pem(&certificate, &other).unwrap_err();
    assert_eq!(mismatch, AuthorityError::Mismatch);
    assert!(!format!("{authority:?}").contains("PRIVATE"));
}

fn at_year(config: &Arc<ClientConfig>, year: u64) -> Arc<ClientConfig> {
    let since_epoch = Duration::from_secs((year - 1970) * 31_556_952);
    let mut config = ClientConfig::clone(config);
    config.time_provider = Arc::new(FixedTime(since_epoch));
    // A resumed session does not check the certificate again.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

#[derive(Debug)]
struct FixedTime(Duration);

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0))
    }
}
