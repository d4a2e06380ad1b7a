use std::cell::Cell;
use std::collections::VecDeque;

use tokio::task::LocalSet;

use super::*;
use crate::config;
use crate::net::HostName;
use crate::pool::Pool;
use crate::resolve::follow;

/// Answers as it is told to, the last answer for ever; without any, never.
#[derive(Clone, Default)]
struct Fake {
    replies: Rc<RefCell<VecDeque<Reply>>>,
    asked: Rc<Cell<usize>>,
}

impl Fake {
    fn of(replies: &[Reply]) -> Self {
        Self {
            replies: Rc::new(RefCell::new(replies.iter().cloned().collect())),
            asked: Rc::default(),
        }
    }
}

impl Ask for Fake {
    async fn ask(&self, _: &Question) -> Reply {
        self.asked.set(self.asked.get() + 1);
        let reply = {
            let mut replies = self.replies.borrow_mut();
            match replies.len() {
                1 => replies.front().cloned(),
                _ => replies.pop_front(),
            }
        };
        match reply {
            Some(reply) => reply,
            None => std::future::pending().await,
        }
    }
}

fn found(ips: &[&str], ttl: u64) -> Reply {
    let resolved = |ip: &&str| Resolved {
        record: None,
        ip: ip.parse().expect("an address"),
        host: HostName::of_host("app.internal").expect("a name"),
    };
    Reply::Found {
        addresses: ips.iter().map(resolved).collect(),
        ttl: Duration::from_secs(ttl),
        missing: Vec::new(),
    }
}

fn failure() -> Reply {
    Reply::Failed {
        timeout: false,
        error: "the DNS server says Server Failure".to_owned(),
    }
}

fn pool(name: &str) -> Arc<Pool> {
    let text = format!(
        "[pool.{name}]\nbackends = [\"app.internal:80\"]\n[pool.{name}.health]\nkind = \"none\"\n"
    );
    let loaded = config::parse(&text, "lb.toml", &|_| None).expect("a configuration");
    Pool::new(Arc::clone(&loaded.config.pools[0]), 1)
}

fn names(pool: &Arc<Pool>) -> Vec<String> {
    let backends = pool.overview().backends.into_iter();
    backends.map(|view| view.backend.name.to_string()).collect()
}

/// Follows `pools` for `time`, which passes at once.
async fn for_a_while(pools: &[&Arc<Pool>], fake: &Fake, time: Duration) -> Arc<Process> {
    let process = Arc::new(Process::new(1));
    let resolver = Resolver::new(fake.clone(), Arc::clone(&process));
    let tasks = LocalSet::new();
    for pool in pools {
        tasks.spawn_local(follow(Arc::clone(pool), Rc::clone(&resolver)));
    }
    tasks.run_until(tokio::time::sleep(time)).await;
    process
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn answers_are_asked_for_again_when_their_time_is_over() {
    let fake = Fake::of(&[found(&["10.0.0.1"], 10), found(&["10.0.0.2"], 100)]);
    let pool = pool("web");
    for_a_while(&[&pool], &fake, Duration::from_secs(9)).await;
    assert_eq!(names(&pool), ["app.internal:80/10.0.0.1:80"]);
    let fake = Fake::of(&[found(&["10.0.0.1"], 10), found(&["10.0.0.2"], 100)]);
    for_a_while(&[&pool], &fake, MINUTE).await;
    assert_eq!(names(&pool), ["app.internal:80/10.0.0.2:80"]);
    assert_eq!(fake.asked.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_two_pools_ask_is_asked_once() {
    let fake = Fake::of(&[found(&["10.0.0.1"], 300)]);
    let (one, other) = (pool("one"), pool("other"));
    for_a_while(&[&one, &other], &fake, MINUTE).await;
    assert_eq!(fake.asked.get(), 1);
    assert_eq!(names(&one), names(&other));
    assert_eq!(names(&one), ["app.internal:80/10.0.0.1:80"]);
}

#[tokio::test(start_paused = true)]
async fn failures_keep_what_is_known_for_hours() {
    let fake = Fake::of(&[found(&["10.0.0.1"], 1), failure()]);
    let pool = pool("web");
    let process = for_a_while(&[&pool], &fake, MINUTE * 180).await;
    assert_eq!(names(&pool), ["app.internal:80/10.0.0.1:80"]);
    let [(name, counts)] = process.lookups.all().try_into().expect("one name");
    assert_eq!(name, "app.internal");
    assert_eq!((counts[0], counts[1], counts[2]), (1, 0, 0));
    // Every half a minute at least, and never in a hurry.
    assert!((300..=400).contains(&counts[3]), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_gone_loses_its_addresses_after_five_minutes() {
    let absent = Reply::Absent { ttl: None };
    let replies = [found(&["10.0.0.1"], 1), absent];
    let pool = pool("web");
    for_a_while(&[&pool], &Fake::of(&replies), MINUTE * 5).await;
    assert_eq!(names(&pool), ["app.internal:80/10.0.0.1:80"]);
    let pool = self::pool("web");
    for_a_while(&[&pool], &Fake::of(&replies), MINUTE * 6).await;
    assert_eq!(names(&pool), ["app.internal:80"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_counts_as_a_failure_in_the_end() {
    let fake = Fake::default();
    let pool = pool("web");
    let asked = for_a_while(&[&pool], &fake, LIMIT - Duration::from_secs(1)).await;
    assert!(
        pool.known(&pool.questions().pop_first().expect("one"))
            .is_none()
    );
    assert_eq!(asked.lookups.all()[0].1, [0, 0, 0, 0]);
    let asked = for_a_while(&[&pool], &fake, LIMIT + Duration::from_millis(500)).await;
    assert_eq!(asked.lookups.all()[0].1, [0, 0, 1, 0]);
    assert_eq!(names(&pool), ["app.internal:80"]);
    let known = pool.known(&pool.questions().pop_first().expect("one"));
    assert_eq!(known, Some(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_added_is_asked_for_and_one_that_is_removed_no_more() {
    let stamp = crate::pool::overrides::Stamp {
        since: std::time::SystemTime::UNIX_EPOCH,
        by: "uid 0".into(),
    };
    let fake = Fake::of(&[found(&["10.0.0.1"], 1)]);
    let pool = pool("web");
    pool.remove("app.internal:80", &stamp).expect("a backend");
    let resolver = Resolver::new(fake.clone(), Arc::new(Process::new(1)));
    let tasks = LocalSet::new();
    tasks.spawn_local(follow(Arc::clone(&pool), resolver));
    tasks.run_until(tokio::time::sleep(MINUTE)).await;
    assert_eq!(fake.asked.get(), 0);
    let fields = serde_json::json!({"address": "app.internal:80"});
    let backend = config::backend(fields.as_object().expect("an object"));
    pool.add(backend.expect("a backend"), &stamp).expect("room");
    tasks.run_until(tokio::time::sleep(MINUTE)).await;
    assert_eq!(names(&pool), ["app.internal:80/10.0.0.1:80"]);
    pool.remove("app.internal:80", &stamp).expect("a backend");
    tasks.run_until(tokio::time::sleep(MINUTE)).await;
    let asked = fake.asked.get();
    tasks.run_until(tokio::time::sleep(MINUTE)).await;
    assert_eq!(fake.asked.get(), asked);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_thousands_is_cut_short_and_always_at_the_same_place() {
    let ips: Vec<_> = (0..3000u32)
        .map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string())
        .collect();
    let mut ips: Vec<_> = ips.iter().map(String::as_str).collect();
    let one = found(&ips, 1);
    ips.reverse();
    let fake = Fake::of(&[one, found(&ips, 1)]);
    let pool = pool("web");
    for_a_while(&[&pool], &fake, Duration::from_secs(5)).await;
    let names = names(&pool);
    assert_eq!(names.len(), MOST_ADDRESSES);
    assert_eq!(names[0], "app.internal:80/10.0.0.0:80");
}

#[test]
fn an_address_whose_record_changes_has_not_gone() {
    let resolved = |ip: &str, weight, port| Resolved {
        record: Some(crate::pool::names::Record {
            priority: 1,
            weight,
            port,
        }),
        ip: ip.parse().expect("an address"),
        host: HostName::of_host("app.internal").expect("a name"),
    };
    let before = [resolved("10.0.0.1", 3, 80), resolved("10.0.0.2", 3, 80)];
    let after = [resolved("10.0.0.1", 5, 80), resolved("10.0.0.2", 3, 81)];
    assert_eq!(only_in(&after, &before), "10.0.0.2");
    assert_eq!(only_in(&before, &after), "10.0.0.2");
    assert_eq!(only_in(&before, &after[..1]), "10.0.0.2");
}
