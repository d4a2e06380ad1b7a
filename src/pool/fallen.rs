//! Backends that are down by checks, and since when: what `on_backend_down` is about.
//!
//! Here a backend is down when its checks say so, whether it takes new connections otherwise or
//! is drained. In maintenance it has no checks, nor once it was removed: its live connections have
//! the pool's `drain_timeout` then.

use std::sync::Arc;
use std::time::Instant;

use super::tracked::Tracked;
use super::{Backend, Pool, health};

/// A backend that is down by checks.
#[derive(Clone, Debug)]
pub struct Fallen {
    /// Which.
    pub backend: Arc<Backend>,
    /// Since when.
    pub at: Instant,
}

impl Fallen {
    /// Whether it is the same fall of the same backend.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.backend, &other.backend) && self.at == other.at
    }
}

impl Tracked {
    /// What checks say, or whether there are any, may have changed.
    pub(super) fn note_fall(&mut self, now: Instant) {
        let is_down = self.wants_checks() && self.health.state() == health::State::Down;
        self.fallen_at = match is_down {
            true => self.fallen_at.or(Some(now)),
            false => None,
        };
    }
}

impl Pool {
    /// The backends that are down by checks.
    pub fn fallen(&self) -> Vec<Fallen> {
        let fallen = |tracked: &Tracked| {
            tracked.fallen_at.map(|at| Fallen {
                backend: Arc::clone(&tracked.backend),
                at,
            })
        };
        self.look(|control| control.tracked.iter().filter_map(fallen).collect())
    }

    /// Whether that backend has been down since.
    pub fn is_still(&self, fallen: &Fallen) -> bool {
        let at = |tracked: &mut Tracked| tracked.fallen_at;
        self.look(|control| control.of(&fallen.backend).and_then(at)) == Some(fallen.at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::super::overrides::Stamp;
    use super::super::{AdminState, CheckResult, Wanted};
    use super::*;
    use crate::config::{self, Loaded};

    fn file() -> Loaded {
        let text = "[pool.p]\nbackends = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n";
        config::parse(text, "lb.toml", &|_| None).expect("a configuration")
    }

    fn pool() -> Arc<Pool> {
        Pool::new(Arc::clone(&file().config.pools[0]), 1)
    }

    fn check(pool: &Arc<Pool>, name: &str, passed: bool) {
        let backend = pool.backend(name).expect("a backend");
        let result = CheckResult {
            at: SystemTime::now(),
            took: Duration::ZERO,
            error: (!passed).then(|| "refused".to_owned()),
        };
        pool.checked(&backend, result);
    }

    fn set(pool: &Arc<Pool>, state: AdminState) {
        let wanted = Wanted {
            state: Some(state),
            ..Wanted::default()
        };
        pool.set("127.0.0.1:1", wanted, &stamp())
            .expect("a backend");
    }

    fn stamp() -> Stamp {
        Stamp {
            since: SystemTime::now(),
            by: "test".into(),
        }
    }

    fn names(pool: &Pool) -> Vec<Arc<str>> {
        let fallen = pool.fallen().into_iter();
        fallen
            .map(|fallen| Arc::clone(&fallen.backend.name))
            .collect()
    }

    #[test]
    fn a_backend_is_down_from_the_check_that_says_so_to_the_one_that_does_not() {
        let pool = pool();
        assert!(pool.fallen().is_empty(), "nothing is known");
        check(&pool, "127.0.0.1:1", false);
        let [fallen] = &pool.fallen()[..] else {
            panic!("not one: {:?}", names(&pool));
        };
        check(&pool, "127.0.0.1:1", false);
        assert!(pool.is_still(fallen) && pool.fallen()[0].is(fallen));
        // No other is usable, so one passed check will do.
        check(&pool, "127.0.0.1:1", true);
        assert!(!pool.is_still(fallen) && pool.fallen().is_empty());
    }

    #[test]
    fn a_drained_one_is_down_as_any_other_and_whoever_wants_to_know_is_told() {
        let pool = pool();
        set(&pool, AdminState::Drain);
        let mut changes = pool.changes();
        changes.mark_unchanged();
        check(&pool, "127.0.0.1:1", false);
        assert_eq!(names(&pool), ["127.0.0.1:1".into()]);
        assert!(changes.has_changed().expect("the pool is there"));
    }

    #[test]
    fn in_maintenance_and_removed_it_has_no_checks_that_could_say_so() {
        let pool = pool();
        check(&pool, "127.0.0.1:1", false);
        check(&pool, "127.0.0.1:2", false);
        set(&pool, AdminState::Maintenance);
        assert_eq!(names(&pool), ["127.0.0.1:2".into()]);
        pool.remove("127.0.0.1:2", &stamp()).expect("a backend");
        assert!(pool.fallen().is_empty());
        set(&pool, AdminState::Ready);
        assert!(pool.fallen().is_empty(), "it starts");
    }

    #[test]
    fn another_process_knows_since_when() {
        let (old, new) = (pool(), pool());
        check(&old, "127.0.0.1:1", false);
        let hour = Duration::from_secs(3600);
        let mut memory = old.memory();
        assert!(memory.backends[0].down_for.is_some_and(|time| time < hour));
        memory.backends[0].down_for = Some(hour);
        new.remember(memory.clone(), &file().config);
        assert!(new.fallen()[0].at.elapsed() >= hour);
        // One that does not say it.
        memory.backends[0].down_for = None;
        let newer = pool();
        newer.remember(memory, &file().config);
        assert!(newer.fallen()[0].at.elapsed() < hour);
    }
}
