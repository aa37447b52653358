//! Why the agent dials again, and what that means for its wait and for its log.

use std::time::Duration;

use filepull_core::backoff::RetryCause;
use filepull_proto::v1::ErrorCode;

use crate::diagnosis::DiagnosisCode;
use crate::outage::OutageCause;
use crate::session::SessionOutcome;

/// Minimum wait of an agent that is rejected because another machine uses its id, if the server
/// names no time.
const DUPLICATE_ID_RETRY: Duration = Duration::from_secs(15);

/// Why the agent dials again.
#[derive(Debug)]
pub(crate) enum Redial {
    Drained { min: Duration, max: Duration },
    Ended { outcome: SessionOutcome, uptime: Option<Duration> },
}

/// Returns why the agent waits, for the backoff.
pub(crate) fn retry_cause(redial: &Redial) -> RetryCause {
    match *redial {
        Redial::Drained { min, max } => RetryCause::Drained { min, max },
        // At once: a person may have just woken the machine.
        Redial::Ended { outcome: SessionOutcome::Suspended, .. } => {
            RetryCause::Drained { min: Duration::ZERO, max: Duration::ZERO }
        }
        Redial::Ended { outcome: SessionOutcome::EndedByServer { retry_after, .. }, .. }
            if !retry_after.is_zero() =>
        {
            RetryCause::Rejected { retry_after }
        }
        Redial::Ended {
            outcome: SessionOutcome::EndedByServer { code: ErrorCode::DuplicateId, .. },
            ..
        } => RetryCause::Rejected { retry_after: DUPLICATE_ID_RETRY },
        Redial::Ended {
            outcome:
                SessionOutcome::EndedByServer { .. } | SessionOutcome::Lost(_) | SessionOutcome::Stopped,
            uptime,
        } => RetryCause::Lost { lived: uptime.unwrap_or_default() },
    }
}

/// A server that is not the expected one, or a setting that does not fit, needs a person.
pub(crate) fn lost_cause(code: DiagnosisCode) -> OutageCause {
    let needs_a_person = matches!(
        code,
        DiagnosisCode::PinMismatch
            | DiagnosisCode::UnknownIssuer
            | DiagnosisCode::OtherName
            | DiagnosisCode::ServerWithTls
            | DiagnosisCode::ServerWithoutTls
            | DiagnosisCode::ProxyLogin
    );
    if needs_a_person { OutageCause::Rejected } else { OutageCause::Lost }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Diagnosis;

    fn check(code: ErrorCode, retry_after_s: u64, expected: RetryCause) {
        let retry_after = Duration::from_secs(retry_after_s);
        let failure = Diagnosis::new(DiagnosisCode::Rejected, "");
        let outcome = SessionOutcome::EndedByServer { failure, code, retry_after };
        assert_eq!(retry_cause(&Redial::Ended { outcome, uptime: None }), expected);
    }

    #[test]
    fn a_rejected_agent_waits_as_long_as_the_server_requests() {
        let rejected = |seconds| RetryCause::Rejected { retry_after: Duration::from_secs(seconds) };
        check(ErrorCode::Overloaded, 7, rejected(7));
        check(ErrorCode::DuplicateId, 0, rejected(15));
        check(ErrorCode::Draining, 0, RetryCause::Lost { lived: Duration::ZERO });
    }
}
