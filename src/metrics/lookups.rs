//! Questions to DNS, by the name of the configuration and what came of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::ledger::Counts;
use super::names::Lookup;

/// How often what came of which name. The control plane alone counts here, so a lock will do.
#[derive(Debug, Default)]
pub struct Lookups(Mutex<BTreeMap<String, [u64; Lookup::COUNT]>>);

impl Lookups {
    /// Shows a name, with no question yet.
    pub fn begin(&self, name: &str) {
        self.add(name, Lookup::Answered, 0);
    }

    /// One more.
    pub fn count(&self, name: &str, result: Lookup) {
        self.add(name, result, 1);
    }

    /// Every name with its counts, by [`Lookup::WORDS`].
    pub fn all(&self) -> Vec<(String, [u64; Lookup::COUNT])> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, n)| (name.clone(), *n)).collect()
    }

    /// All counts by `RESULT.NAME`, as another process takes them in.
    pub fn counts(&self) -> Counts {
        let all = self.all().into_iter();
        all.flat_map(|(name, counts)| {
            let words = Lookup::WORDS.iter().zip(counts);
            words.map(move |(word, count)| (format!("{word}.{name}"), count))
        })
        .collect()
    }

    /// Adds what another process has counted; what is no such count is passed over.
    pub fn add_counts<'a>(&self, counts: impl Iterator<Item = (&'a str, u64)>) {
        for (key, count) in counts {
            let Some((word, name)) = key.split_once('.') else {
                continue;
            };
            let result = Lookup::ALL.iter().find(|result| result.as_str() == word);
            if let Some(result) = result {
                self.add(name, *result, count);
            }
        }
    }

    fn add(&self, name: &str, result: Lookup, n: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(name.to_owned()).or_default()[result as usize] += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_goes_on_with_the_counts() {
        let (old, new) = (Lookups::default(), Lookups::default());
        old.count("app.internal", Lookup::Answered);
        old.count("srv:_pg._tcp.example.com", Lookup::Timeout);
        new.count("app.internal", Lookup::Answered);
        let counts = old.counts();
        new.add_counts(counts.iter().map(|(name, n)| (name.as_str(), *n)));
        let all = new.all();
        assert_eq!(all[0], ("app.internal".to_owned(), [2, 0, 0, 0]));
        assert_eq!(all[1].1, [0, 0, 1, 0]);
    }
}
