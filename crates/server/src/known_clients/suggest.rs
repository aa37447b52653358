//! "Did you mean …?" for ids.

use filepull_core::id::ClientId;

use super::ScopedClients;
use crate::records::RecordsError;

/// Minimum similarity of a suggestion, from 0 to 1 (equal). Below it a suggestion would be a guess.
const MIN_SIMILARITY: f64 = 0.7;

impl ScopedClients {
    /// Returns the id in scope that is most similar to `typed`, if one is similar enough. Compares a
    /// bounded number of ids and holds no lock.
    pub(crate) async fn suggest(&self, typed: &ClientId) -> Result<Option<ClientId>, RecordsError> {
        Ok(most_similar(typed, self.known.records.clients_like(typed, &self.scope).await?))
    }
}

fn most_similar(typed: &ClientId, candidates: Vec<ClientId>) -> Option<ClientId> {
    let typed = typed.folded();
    let similarity = |id: &ClientId| strsim::normalized_damerau_levenshtein(&typed, &id.folded());
    let scored = candidates.into_iter().map(|id| (similarity(&id), id));
    let similar = scored.filter(|(score, _)| MIN_SIMILARITY < *score);
    similar.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_similar_id_is_suggested() {
        let id = |text| ClientId::parse(text).unwrap();
        let known = || vec![id("client4"), id("client12"), id("kitchen")];
        assert_eq!(most_similar(&id("cleint4"), known()), Some(id("client4")));
        assert_eq!(most_similar(&id("CLIENT-12"), known()), Some(id("client12")));
        assert_eq!(most_similar(&id("printer"), known()), None);
    }
}
