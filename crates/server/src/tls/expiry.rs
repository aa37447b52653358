//! What operators see of the certificates, and the warnings before one ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use filepull_core::fingerprint::Fingerprint;
use filepull_core::human;
use tokio::sync::watch;

use super::certificate::{Expiry, ServerCertificate, authority_expiry, expiry};
use super::own_authority::{AuthorityView, OwnAuthority};
use super::warn_of;

/// Minimum time between two warnings about the same certificates.
const WARN_INTERVAL: Duration = Duration::from_hours(24);

/// The certificates of this server; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsStatus {
    pub(crate) certificates: Vec<WatchedCertificate>,
    pub(crate) authority: Option<OwnAuthority>,
}

/// The certificate of one listener.
#[derive(Clone, Debug)]
pub(crate) struct WatchedCertificate {
    /// The setting that names its file, or `own authority`.
    pub(crate) source: &'static str,
    pub(crate) is_own: bool,
    pub(crate) presented: watch::Receiver<Arc<ServerCertificate>>,
}

/// A certificate as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateView {
    pub(crate) source: &'static str,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) not_after: DateTime<Utc>,
    pub(crate) expiry: Expiry,
    /// One line: what it is, and how long it is valid.
    pub(crate) text: String,
    /// What an operator should do, if anything.
    pub(crate) warning: Option<String>,
}

impl TlsStatus {
    /// Returns the certificates and the authorities at `now`. Empty for a server without TLS.
    pub(crate) fn views(&self, now: SystemTime) -> Vec<CertificateView> {
        let certificates = self.certificates.iter().map(|certificate| certificate.view(now));
        let view = self.authority();
        certificates.chain(view.map(|view| authority_view(&view, now))).collect()
    }

    /// Returns the state of the own authority.
    pub(crate) fn authority(&self) -> Option<AuthorityView> {
        self.authority.as_ref().map(OwnAuthority::view)
    }
}

impl WatchedCertificate {
    fn view(&self, now: SystemTime) -> CertificateView {
        let presented = self.presented.borrow();
        let expiry = expiry(&presented.validity, now);
        let not_after = DateTime::<Utc>::from(presented.validity.end);
        let source = self.source;
        let text = format!("{source}, {}", until(not_after, now));
        let warning = match expiry {
            Expiry::Fine => None,
            // The server renews its own certificate long before, and agents ignore its dates.
            Expiry::Due | Expiry::Early | Expiry::Over if self.is_own => {
                Some("the server has not renewed its own certificate: check its log".to_owned())
            }
            Expiry::Early => Some(format!(
                "the certificate in {source} is not valid yet: check the clock of this machine"
            )),
            Expiry::Due | Expiry::Over => Some(format!(
                "the certificate in {source} {}: put a new one into the file",
                until(not_after, now)
            )),
        };
        let fingerprint = presented.fingerprint;
        CertificateView { source, fingerprint, not_after, expiry, text, warning }
    }
}

fn authority_view(view: &AuthorityView, now: SystemTime) -> CertificateView {
    let not_after = DateTime::<Utc>::from(view.current.not_after);
    let expiry = authority_expiry(view.current.not_after, now);
    let lasts = until(not_after, now);
    let warning = match expiry {
        Expiry::Fine | Expiry::Early => None,
        Expiry::Due | Expiry::Over => {
            Some(format!("the certificate authority {lasts}: run filepull ca rotate"))
        }
    };
    CertificateView {
        source: "authority",
        fingerprint: view.current.fingerprint,
        not_after,
        expiry,
        text: format!("authority {}, {lasts}", view.state),
        warning,
    }
}

fn until(not_after: DateTime<Utc>, now: SystemTime) -> String {
    let date = not_after.format("%Y-%m-%d");
    match SystemTime::from(not_after).duration_since(now) {
        Ok(left) => format!("ends {date}, in {}", human::span(left)),
        Err(_) => format!("ended {date}"),
    }
}

/// Logs a warning once a day while a certificate is about to end.
#[derive(Debug)]
pub(crate) struct ExpiryWarnings {
    status: TlsStatus,
    /// When each certificate was last warned about, and with which key.
    warned: Vec<(&'static str, Fingerprint, SystemTime)>,
}

impl ExpiryWarnings {
    pub(crate) fn new(status: TlsStatus) -> Self {
        Self { status, warned: Vec::new() }
    }

    /// Logs the warnings that are new or a day old.
    pub(crate) fn check(&mut self, now: SystemTime) {
        for text in self.due(now) {
            warn_of(&text);
        }
    }

    fn due(&mut self, now: SystemTime) -> Vec<String> {
        let is_recent = |warned: SystemTime| {
            // A clock that was set back warns again.
            now.duration_since(warned).is_ok_and(|elapsed| elapsed < WARN_INTERVAL)
        };
        self.warned.retain(|(_, _, warned)| is_recent(*warned));
        let mut texts = Vec::new();
        for view in self.status.views(now) {
            let key = (view.source, view.fingerprint);
            let is_warned = self.warned.iter().any(|(source, key_of, _)| (*source, *key_of) == key);
            if let Some(text) = view.warning
                && !is_warned
            {
                self.warned.push((key.0, key.1, now));
                texts.push(text);
            }
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use filepull_trust::CertificateAuthority;

    use super::super::acceptor::Alpn;
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn status(now: SystemTime, lifetime: Duration) -> TlsStatus {
        let authority = CertificateAuthority::generate("test").unwrap();
        let issued = authority.issue(&["a.example".to_owned()], now..now + lifetime).unwrap();
        let presented = ServerCertificate::new(issued.chain, issued.key, Alpn::Http2).unwrap();
        let (_, presented) = watch::channel(Arc::new(presented));
        let certificate = WatchedCertificate { source: "TLS_CERT", is_own: false, presented };
        TlsStatus { certificates: vec![certificate], authority: None }
    }

    #[test]
    fn an_operator_is_warned_once_a_day_before_the_end() {
        let start = SystemTime::now();
        let mut warnings = ExpiryWarnings::new(status(start, 60 * DAY));
        assert!(warnings.due(start + 45 * DAY).is_empty());
        let due = warnings.due(start + 50 * DAY);
        assert!(due[0].contains("TLS_CERT ends") && due[0].contains("put a new one"), "{due:?}");
        assert!(warnings.due(start + 50 * DAY + DAY / 2).is_empty());
        assert_eq!(warnings.due(start + 51 * DAY).len(), 1);
        // The clock was set back, and forward again.
        assert!(warnings.due(start).is_empty());
        let over = warnings.due(start + 61 * DAY);
        assert!(over[0].contains("TLS_CERT ended"), "{over:?}");
    }

    #[test]
    fn the_end_is_shown_with_its_date_and_the_time_left() {
        let start = SystemTime::now();
        let views = status(start, 60 * DAY).views(start);
        assert!(views[0].text.starts_with("TLS_CERT, ends 2"), "{}", views[0].text);
        assert_eq!((views[0].expiry, views[0].warning.as_ref()), (Expiry::Fine, None));
    }
}
