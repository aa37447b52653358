//! "Did you mean …?" for ids.

use filepull_core::id::ClientId;

use super::KnownClients;
use crate::records::RecordsError;

/// Minimum likeness (1 is equal) of a suggestion. Below it a suggestion would be a guess.
const LIKE_ENOUGH: f64 = 0.7;

impl KnownClients {
    /// The known id that is most like `typed`, if one is like it at all. Compares a bounded number of
    /// ids, without any lock.
    pub(super) async fn suggest(&self, typed: &ClientId) -> Result<Option<ClientId>, RecordsError> {
        Ok(nearest(typed, self.records.clients_like(typed).await?))
    }
}

fn nearest(typed: &ClientId, candidates: Vec<ClientId>) -> Option<ClientId> {
    let typed = typed.folded();
    let likeness = |id: &ClientId| strsim::normalized_damerau_levenshtein(&typed, &id.folded());
    let scored = candidates.into_iter().map(|id| (likeness(&id), id));
    let like = scored.filter(|(score, _)| LIKE_ENOUGH < *score);
    like.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_id_that_is_like_the_typed_one_is_suggested() {
        let id = |text| ClientId::parse(text).unwrap();
        let known = || vec![id("client4"), id("client12"), id("kitchen")];
        assert_eq!(nearest(&id("cleint4"), known()), Some(id("client4")));
        assert_eq!(nearest(&id("CLIENT-12"), known()), Some(id("client12")));
        assert_eq!(nearest(&id("printer"), known()), None);
    }
}
