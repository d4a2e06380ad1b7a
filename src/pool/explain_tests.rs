use std::time::{Duration, Instant, SystemTime};

use super::super::{AdminState, CheckResult, Lease, Wanted};
use super::*;
use crate::pool::overrides::Stamp;

/// The pools of a configuration, with their fallbacks, the first one first.
fn pools(text: &str) -> Vec<Arc<Pool>> {
    let loaded = crate::config::parse(text, "lb.toml", &|_| None).expect("a configuration");
    let settings = loaded.config.pools.iter();
    let pools: Vec<_> = settings
        .map(|pool| Pool::new(Arc::clone(pool), 1))
        .collect();
    for (index, pool) in pools.iter().enumerate() {
        pool.wire(super::super::Wiring::of(
            &pools,
            &loaded.config.pools,
            index,
        ));
    }
    pools
}

const UNCHECKED: &str = "[defaults.pool.health]\nkind = \"none\"\n";

/// Pool `web` with these keys and no checks.
fn pool(keys: &str) -> Arc<Pool> {
    let text = format!("{UNCHECKED}[pool.web]\n{keys}\n");
    Arc::clone(&pools(&text)[0])
}

/// Three backends of different weights under a strategy.
fn weighted(balance: &str) -> Arc<Pool> {
    pool(&format!(
        "balance = \"{balance}\"\nbackends = [\
         {{ name = \"b1\", address = \"127.0.0.1:1\", weight = 3 }}, \
         {{ name = \"b2\", address = \"127.0.0.1:2\", weight = 1, max_connections = 40 }}, \
         {{ name = \"b3\", address = \"127.0.0.1:3\", weight = 2 }}, \
         {{ name = \"b4\", address = \"127.0.0.1:4\", backup = true }}]"
    ))
}

fn client(n: u32) -> SocketAddr {
    let port = 1024 + u16::try_from(n % 60_000).expect("a port");
    SocketAddr::new(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), port)
}

fn whom(client: SocketAddr) -> Whom {
    Whom::Ip(client.ip(), Some(client.port()))
}

fn acquire(pool: &Arc<Pool>, client: SocketAddr) -> Option<Lease> {
    pool.acquire(&Attempt::new(Client::Ip(client)))
}

/// What is foretold of the first attempt: the backend and the log's word.
#[track_caller]
fn foretold(explanation: &Explanation) -> (String, String) {
    assert_eq!(explanation.outcome, Outcome::Backend, "{explanation:?}");
    let step = explanation.pools.last().expect("a pool");
    let first = &step.attempts[0];
    (first.backend.name.to_string(), first.pick.to_string())
}

fn picked(lease: &Lease) -> (String, String) {
    let backend = lease.backend().name.to_string();
    (backend, lease.pick().to_string())
}

fn verdicts(explanation: &Explanation) -> Vec<(&str, Verdict)> {
    let backends = explanation.pools[0].backends.iter();
    let verdict = |step: &'_ BackendStep| step.verdict;
    backends
        .map(|step| (&*step.view.backend.name, verdict(step)))
        .collect()
}

fn set(pool: &Arc<Pool>, backend: &str, state: Option<AdminState>, weight: Option<u32>) {
    let stamp = Stamp {
        since: SystemTime::now(),
        by: "test".into(),
    };
    let wanted = Wanted {
        state,
        weight,
        timeout: None,
    };
    pool.set(backend, wanted, &stamp)
        .expect("a backend of that name");
}

/// Everything that a pick could have changed.
fn state(pool: &Pool) -> String {
    let backends = pool.snapshot().backends.clone();
    let counts = backends.iter().map(|backend| {
        let total = backend.counters.sum(|cell| cell.total.value());
        (backend.active(), backend.connecting(), total)
    });
    let balancers: Vec<_> = pool
        .snapshot()
        .tiers
        .iter()
        .map(|tier| format!("{:?}", tier.balancer))
        .collect();
    format!(
        "{:?} {} {balancers:?}",
        counts.collect::<Vec<_>>(),
        pool.held()
    )
}

/// 10,000 clients, of whom some stay, so that counts, limits and turns are ever different.
#[test]
fn what_is_explained_is_what_ten_thousand_clients_get() {
    for balance in [
        "round-robin",
        "least-connections",
        "consistent-hash",
        "first",
    ] {
        let pool = weighted(balance);
        let mut staying = Vec::new();
        for n in 0..10_000 {
            let client = client(n);
            let expected = foretold(&pool.explain(whom(client)));
            let mut lease = acquire(&pool, client).expect("there is room");
            assert_eq!(picked(&lease), expected, "{balance}, client {n}");
            lease.connected(Duration::ZERO, Instant::now());
            staying.push(lease);
            if staying.len() > 100 {
                staying.swap_remove(n as usize * 7 % 100);
            }
        }
    }
}

#[test]
fn explaining_changes_nothing() {
    for balance in [
        "round-robin",
        "least-connections",
        "consistent-hash",
        "random-two",
        "least-latency",
        "first",
    ] {
        let pool = weighted(balance);
        let _lease = acquire(&pool, client(1)).expect("a slot");
        let before = state(&pool);
        for n in 0..50 {
            pool.explain(whom(client(n)));
        }
        assert_eq!(state(&pool), before, "{balance}");
    }
}

/// Every connect fails: the backends are tried in the order that was foretold.
#[test]
fn the_attempts_that_are_foretold_are_those_that_are_made() {
    for balance in [
        "round-robin",
        "least-connections",
        "consistent-hash",
        "first",
    ] {
        let pool = weighted(balance);
        for n in 0..20 {
            let explanation = pool.explain(whom(client(n)));
            let mut attempt = Attempt::new(Client::Ip(client(n)));
            let mut made = Vec::new();
            while attempt.made() < pool.settings().connect_attempts {
                let lease = pool.acquire(&attempt).expect("there is room");
                made.push(picked(&lease));
                attempt.failed_at(Arc::clone(lease.backend()));
            }
            let planned = explanation.pools[0].attempts.iter();
            let planned: Vec<_> = planned
                .map(|p| (p.backend.name.to_string(), p.pick.to_string()))
                .collect();
            assert_eq!(planned.len(), 3);
            assert_eq!(planned, made, "{balance}");
        }
    }
}

#[test]
fn a_draw_names_candidates_and_scores_that_the_log_bears_out() {
    let pool = weighted("random-two");
    let mut staying = Vec::new();
    for n in 0..2_000 {
        let explanation = pool.explain(whom(client(n)));
        let lease = acquire(&pool, client(n)).expect("there is room");
        let step = &explanation.pools[0];
        let load = |step: &BackendStep| match step.score {
            Some(Score::Load { active, weight, .. }) => (active, weight),
            _ => panic!("{step:?}"),
        };
        let candidates: Vec<_> = step
            .backends
            .iter()
            .filter(|b| b.verdict == Verdict::Candidate)
            .collect();
        let of = |name: &str| candidates.iter().find(|b| *b.view.backend.name == *name);
        let (backend, pick) = picked(&lease);
        let winner = of(&backend).expect("it was a candidate");
        assert!(winner.chance > Some(0.0));
        // Of the pair that the log records the one less loaded was picked.
        let pair = pick
            .strip_prefix("two:")
            .and_then(|pair| pair.split_once('<'));
        let pair = pair.map(|(own, other)| (own.parse::<u32>(), other.parse::<u32>()));
        let Some((Ok(own), Ok(other))) = pair else {
            panic!("{pick}")
        };
        let (active, weight) = load(winner);
        assert_eq!(own, active);
        let beaten = candidates.iter().any(|b| {
            let (others, of_weight) = load(b);
            *b.view.backend.name != *backend
                && others == other
                && f64::from(active) * of_weight <= f64::from(others) * weight
        });
        assert!(beaten, "{pick} of {backend} in {candidates:?}");
        staying.push(lease);
        if staying.len() > 50 {
            staying.swap_remove(n as usize * 7 % 50);
        }
    }
}

/// With two to draw from there is but one pair: who is cheaper is certain.
#[test]
fn of_two_the_cheaper_is_certain() {
    for balance in ["random-two", "least-latency"] {
        let pool = pool(&format!(
            "balance = \"{balance}\"\nbackends = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\nlatency.of = \"connect\""
        ));
        assert_eq!(
            pool.explain(whom(client(0))).outcome,
            Outcome::Drawn,
            "a tie"
        );
        let mut staying = Vec::new();
        for n in 0..500u32 {
            let explanation = pool.explain(whom(client(n)));
            let mut lease = acquire(&pool, client(n)).expect("there is room");
            if explanation.outcome == Outcome::Backend {
                assert_eq!(
                    picked(&lease),
                    foretold(&explanation),
                    "{balance}, client {n}"
                );
            }
            lease.connected(Duration::from_millis(1 + u64::from(n) % 5), Instant::now());
            staying.push(lease);
            staying.drain(..staying.len().saturating_sub(9));
        }
        let certain = pool.explain(whom(client(0)));
        assert_eq!(certain.outcome, Outcome::Backend, "{certain:?}");
    }
}

#[test]
fn a_backend_that_takes_nothing_is_told_with_its_reason() {
    let pool = pool(
        "balance = \"first\"\nmax_connecting = 1\nbackends = [\
         { name = \"drained\", address = \"127.0.0.1:1\" }, \
         { name = \"weightless\", address = \"127.0.0.1:2\", weight = 0 }, \
         { name = \"full\", address = \"127.0.0.1:3\", max_connections = 1 }, \
         { name = \"connecting\", address = \"127.0.0.1:4\" }, \
         { name = \"free\", address = \"127.0.0.1:5\" }, \
         { name = \"backup\", address = \"127.0.0.1:6\", backup = true }]",
    );
    set(&pool, "drained", Some(AdminState::Drain), None);
    let mut full = acquire(&pool, client(0)).expect("a slot");
    full.connected(Duration::ZERO, Instant::now());
    let _connecting = acquire(&pool, client(0)).expect("a slot");
    let explanation = pool.explain(whom(client(0)));
    assert_eq!(
        verdicts(&explanation),
        [
            ("drained", Verdict::Out),
            ("weightless", Verdict::Out),
            ("full", Verdict::Obstacle(Obstacle::Limit)),
            ("connecting", Verdict::Obstacle(Obstacle::Connecting)),
            ("free", Verdict::Candidate),
            ("backup", Verdict::Spare),
        ]
    );
    assert_eq!(foretold(&explanation), ("free".into(), "first".into()));
    set(&pool, "free", None, Some(0));
    assert_eq!(
        foretold(&pool.explain(whom(client(0)))),
        ("backup".into(), "backup".into())
    );
    assert_eq!(
        acquire(&pool, client(0)).map(|lease| picked(&lease)),
        Some(("backup".into(), "backup".into()))
    );
}

fn check(pool: &Arc<Pool>, error: Option<&str>) {
    for backend in pool.snapshot().backends.iter() {
        let result = CheckResult {
            at: SystemTime::now(),
            took: Duration::ZERO,
            error: error.map(str::to_owned),
        };
        pool.checked(backend, result);
    }
}

#[test]
fn with_all_down_a_client_is_held_or_tries_as_the_pool_says() {
    let text = "[pool.web]\nbackends = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n";
    let held = &pools(text)[0];
    check(held, Some("connection refused"));
    let explanation = held.explain(whom(client(0)));
    assert_eq!(explanation.outcome, Outcome::Rest(Rest::Held { ahead: 0 }));
    assert!(
        verdicts(&explanation)
            .iter()
            .all(|(_, verdict)| *verdict == Verdict::Out)
    );

    let tries = &pools(&format!("{text}when_all_down = \"try\"\n"))[0];
    check(tries, Some("connection refused"));
    let expected = foretold(&tries.explain(whom(client(0))));
    assert_eq!(expected, ("127.0.0.1:1".into(), "try".into()));
    assert_eq!(
        acquire(tries, client(0)).map(|lease| picked(&lease)),
        Some(expected)
    );

    let ends = &pools(&format!("{text}hold.max = 0\n"))[0];
    check(ends, Some("connection refused"));
    assert_eq!(
        ends.explain(whom(client(0))).outcome,
        Outcome::Rest(Rest::Ends(NotHeld::Off))
    );
}

#[test]
fn a_fallback_takes_what_its_pool_cannot_take() {
    let text = format!(
        "{UNCHECKED}[pool.web]\nfallback = \"spare\"\n\
         backends = [{{ name = \"b1\", address = \"127.0.0.1:1\", max_connections = 1 }}]\n\
         [pool.spare]\nbackends = [{{ name = \"s1\", address = \"127.0.0.1:2\", max_connections = 1 }}]\n\
         [pool.spare.hold]\nmax = 0\n"
    );
    let pools = pools(&text);
    let (web, spare) = (&pools[0], &pools[1]);
    let explanation = web.explain(whom(client(0)));
    assert_eq!(foretold(&explanation), ("b1".into(), "rr".into()));
    assert_eq!(explanation.if_all_fail, Rest::Fallback("spare".into()));
    let _first = acquire(web, client(0)).expect("a slot");
    let explanation = web.explain(whom(client(0)));
    assert_eq!(foretold(&explanation), ("s1".into(), "rr".into()));
    assert_eq!(explanation.pools.len(), 2);
    assert_eq!(explanation.if_all_fail, Rest::Held { ahead: 0 }, "at home");
    let _second = acquire(spare, client(0)).expect("a slot");
    let explanation = web.explain(whom(client(0)));
    assert_eq!(explanation.pools.len(), 2);
    assert_eq!(explanation.outcome, Outcome::Rest(Rest::Held { ahead: 0 }));
}

#[test]
fn whoever_comes_while_others_are_held_queues_behind_them() {
    let pool = pool(
        "backends = [{ name = \"b1\", address = \"127.0.0.1:1\", max_connections = 1 }]\nhold.max = 1",
    );
    let lease = acquire(&pool, client(0)).expect("a slot");
    let held = pool
        .hold(&Attempt::new(Client::Ip(client(1))), None)
        .expect("a place");
    let explanation = pool.explain(whom(client(2)));
    assert!(explanation.pools[0].queues);
    assert_eq!(
        explanation.outcome,
        Outcome::Rest(Rest::Ends(NotHeld::Full))
    );
    drop((held, lease));
    assert_eq!(
        foretold(&pool.explain(whom(client(2)))),
        ("b1".into(), "rr".into())
    );
}

#[test]
fn a_paused_pool_holds_everybody() {
    let pool = weighted("round-robin");
    let stamp = Stamp {
        since: SystemTime::now(),
        by: "test".into(),
    };
    pool.pause(None, &stamp).expect("it holds");
    let explanation = pool.explain(whom(client(0)));
    assert_eq!(explanation.outcome, Outcome::Rest(Rest::Held { ahead: 0 }));
    assert!(explanation.pools[0].pause.is_on());
    assert!(
        verdicts(&explanation)
            .iter()
            .all(|(_, verdict)| *verdict == Verdict::NotAsked)
    );
}

/// The port is part of the key, and was not told; nor can it be told of a Unix client.
#[test]
fn a_key_that_is_not_known_is_told_as_the_shares_of_the_backends() {
    let keys = "balance = \"consistent-hash\"\nbackends = [\
                { name = \"b1\", address = \"127.0.0.1:1\", weight = 3 }, \
                { name = \"b2\", address = \"127.0.0.1:2\" }]\nhash.key = \"client-ip-port\"";
    let pool = pool(keys);
    for whom in [Whom::Ip(client(7).ip(), None), Whom::Unix] {
        let explanation = pool.explain(whom);
        assert_eq!(explanation.outcome, Outcome::Drawn);
        let chances: Vec<_> = explanation.pools[0]
            .backends
            .iter()
            .map(|b| b.chance)
            .collect();
        assert_eq!(chances, [Some(0.75), Some(0.25)]);
    }
    let expected = foretold(&pool.explain(whom(client(7))));
    assert_eq!(
        acquire(&pool, client(7)).map(|lease| picked(&lease)),
        Some(expected)
    );
}
