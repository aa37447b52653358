//! Limits how fast a caller and a client may be triggered, once callers are known by name.
//!
//! A limit is by token and by client, never by address: a company sits behind one. Every map is
//! bounded by the known tokens and clients.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use filepull_core::id::ClientId;
use filepull_core::problem::{Code, Problem};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter};

use super::rejection::Rejection;

/// At most `burst` triggers at once, and `per_second` in the long run.
const fn quota(per_second: u32, burst: u32) -> Quota {
    let rate = NonZeroU32::new(per_second).expect("not zero");
    Quota::per_second(rate).allow_burst(NonZeroU32::new(burst).expect("not zero"))
}

/// All callers together.
const ALL: Quota = quota(2_000, 50_000);

/// One token or user. The burst fits one trigger for each client of a large fleet.
const BY_CALLER: Quota = quota(500, 20_000);

/// One client. Most of these triggers join one transfer.
const BY_CLIENT: Quota = quota(100, 2_000);

/// With fewer keys than this, none is forgotten.
const MIN_KEYS: usize = 10_000;

type IsNotUntil = NotUntil<<DefaultClock as Clock>::Instant>;

/// The limits of triggers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TriggerLimits(Arc<Limiters>);

#[derive(Debug)]
struct Limiters {
    all: DefaultDirectRateLimiter,
    by_caller: KeyedLimiter<String>,
    by_client: KeyedLimiter<ClientId>,
}

/// A limit for each key, which forgets keys that have their whole burst again.
#[derive(Debug)]
struct KeyedLimiter<K: Clone + Eq + Hash> {
    limiter: DefaultKeyedRateLimiter<K>,
    /// The number of keys at which the old ones are forgotten. Doubles with the keys in use, so that
    /// a scan of all keys is rare.
    forget_at: AtomicUsize,
}

impl Default for TriggerLimits {
    fn default() -> Self {
        Self::new(ALL, BY_CALLER, BY_CLIENT)
    }
}

impl TriggerLimits {
    fn new(all: Quota, by_caller: Quota, by_client: Quota) -> Self {
        Self(Arc::new(Limiters {
            all: RateLimiter::direct(all),
            by_caller: KeyedLimiter::new(by_caller),
            by_client: KeyedLimiter::new(by_client),
        }))
    }

    /// Returns limits that a test reaches: three triggers of a caller, and two for a client.
    #[cfg(test)]
    pub(crate) fn few() -> Self {
        let slow = |burst: u32| {
            Quota::per_hour(NonZeroU32::MIN).allow_burst(NonZeroU32::new(burst).expect("not zero"))
        };
        Self::new(ALL, slow(3), slow(2))
    }

    /// Counts a trigger of a caller.
    ///
    /// # Errors
    /// The caller, or all callers together, sent too many.
    pub(crate) fn check_caller(&self, name: &str) -> Result<(), Rejection> {
        let Limiters { all, by_caller, .. } = &*self.0;
        by_caller.check(&name.to_owned(), || format!("{name} triggers too often."))?;
        all.check().map_err(|until| too_many("All callers together trigger too often.", &until))
    }

    /// Counts a trigger for a client that the caller may see.
    ///
    /// # Errors
    /// The client is triggered too often.
    pub(crate) fn check_client(&self, client: &ClientId) -> Result<(), Rejection> {
        self.0.by_client.check(client, || format!("{client} is triggered too often."))
    }
}

impl<K: Clone + Eq + Hash> KeyedLimiter<K> {
    fn new(quota: Quota) -> Self {
        Self { limiter: RateLimiter::hashmap(quota), forget_at: AtomicUsize::new(MIN_KEYS) }
    }

    fn check(&self, key: &K, detail: impl FnOnce() -> String) -> Result<(), Rejection> {
        let checked = self.limiter.check_key(key);
        if self.forget_at.load(Ordering::Relaxed) < self.limiter.len() {
            self.limiter.retain_recent();
            let forget_at = MIN_KEYS.max(2 * self.limiter.len());
            self.forget_at.store(forget_at, Ordering::Relaxed);
        }
        checked.map_err(|until| too_many(detail(), &until))
    }
}

/// Returns the rejection of a caller who must wait.
pub(crate) fn too_many(detail: impl Into<String>, until: &IsNotUntil) -> Rejection {
    let wait = until.wait_time_from(DefaultClock::default().now());
    let seconds = wait.as_secs() + 1;
    let problem = Problem::new(Code::TooManyRequests, detail);
    let hint = format!("Wait {seconds} s, then try again.");
    Rejection::from(problem.hint(hint)).with("retry_after_seconds", seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_and_one_client_do_not_use_up_the_limit_of_others() {
        let few = quota(1, 3);
        let limits = TriggerLimits::new(quota(1, 100), few, few);
        for _ in 0..3 {
            limits.check_caller("ci").unwrap();
        }
        let rejected = limits.check_caller("ci").unwrap_err();
        assert_eq!(rejected.problem.code, Code::TooManyRequests);
        assert_eq!(rejected.problem.detail, "ci triggers too often.");
        assert_eq!(rejected.members["retry_after_seconds"], 1);
        limits.check_caller("ops").unwrap();
        let client = |id| ClientId::parse(id).unwrap();
        for _ in 0..3 {
            limits.check_client(&client("client4")).unwrap();
        }
        assert!(limits.check_client(&client("client4")).is_err());
        limits.check_client(&client("client5")).unwrap();
    }

    #[test]
    fn all_callers_together_have_a_limit() {
        let limits = TriggerLimits::new(quota(1, 3), BY_CALLER, BY_CLIENT);
        let sent = (0..5).map(|n| limits.check_caller(&format!("token{n}")));
        assert_eq!(sent.filter(Result::is_ok).count(), 3);
    }
}
