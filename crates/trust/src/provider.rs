//! The cryptography that TLS uses: aws-lc-rs, TLS 1.3 only.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        // The hybrid first: recorded traffic stays secret if a quantum computer breaks X25519.
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    })
});

/// Returns the provider of every TLS configuration. It has no cipher suite of TLS 1.2.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Makes [`provider`] the default of this process, for libraries that create their own configuration.
/// Later calls have no effect.
pub fn install_provider() {
    let _ = CryptoProvider::clone(&PROVIDER).install_default();
}
