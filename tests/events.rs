//! `/events` tells what happens while it happens, and what happened before; `/series` how the
//! last minutes went.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Backend, Isobar, Stream, wait_for, wait_until, web};

/// Whoever watches `/events`.
struct Watcher(Stream);

/// On a connection that is not counted with those through isobar.
fn ask(isobar: &Isobar, headers: &str) -> Stream {
    let stream = Stream::connect(isobar.admin(), &Arc::default());
    let stream = stream.expect("somebody answers");
    stream.write(format!(
        "GET /events HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n"
    ));
    stream
}

/// One event as it came.
#[derive(Debug)]
struct Event {
    id: u64,
    kind: String,
    data: Value,
}

impl Watcher {
    /// Asks for them. By HTTP/1.0, so that lines are lines and no chunks.
    fn of(isobar: &Isobar, headers: &str) -> Self {
        let watcher = Self(ask(isobar, headers));
        let mut head = Vec::new();
        loop {
            match watcher.line() {
                line if line.is_empty() => break,
                line => head.push(line.to_ascii_lowercase()),
            }
        }
        assert!(head[0].ends_with("200 ok"), "{head:?}");
        let kind = "content-type: text/event-stream".to_owned();
        assert!(head.contains(&kind), "{head:?}");
        watcher
    }

    fn line(&self) -> String {
        self.0.read_line().trim_end().to_owned()
    }

    /// The next one, whatever it is.
    fn next(&self) -> Event {
        let (mut id, mut kind, mut data) = (None, None, None);
        loop {
            let line = self.line();
            match line.split_once(": ") {
                Some(("id", value)) => id = value.parse().ok(),
                Some(("event", value)) => kind = Some(value.to_owned()),
                Some(("data", value)) => data = serde_json::from_str(value).ok(),
                _ => {}
            }
            if line.is_empty()
                && let Some(id) = id
            {
                return Event {
                    id,
                    kind: kind.expect("a kind"),
                    data: data.expect("JSON"),
                };
            }
        }
    }

    /// The next one like this.
    fn wait(&self, is_it: impl Fn(&Event) -> bool) -> Event {
        std::iter::repeat_with(|| self.next())
            .find(is_it)
            .expect("they do not end")
    }
}

fn fast() -> &'static str {
    "[pool.web.health]\ninterval = \"100ms\"\ntimeout = \"100ms\"\nfast_interval = \"50ms\"\n\
     rise = 1\nfall = 1\n"
}

/// Two backends, both up.
fn two() -> (Isobar, Backend, Backend) {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let isobar = Isobar::start(&web(fast(), &[a.entry(), b.entry()]));
    for backend in ["a", "b"] {
        isobar.wait_state("web", backend, "up");
    }
    (isobar, a, b)
}

/// 1. Who begins to watch is told of the start first.
/// 2. A backend goes down, an operator drains the other, a reload is refused: each is told at
///    once, with what the log says of it.
#[test]
fn what_happens_is_told_while_it_happens() {
    let (isobar, a, _b) = two();
    let watcher = Watcher::of(&isobar, "");
    let ready = watcher.wait(|event| event.data["message"] == "ready");
    assert_eq!(ready.kind, "process");
    a.stop();
    let down = watcher.wait(|event| event.kind == "state" && event.data["state"] == "down");
    assert_eq!(down.data["backend"], "a");
    assert_eq!(down.data["pool"], "web");
    let cause = down.data["cause"].as_str().expect("a cause");
    assert!(cause.contains("refused"), "{cause}");
    isobar.set("web/b", "{\"state\": \"drain\"}");
    let change = watcher.wait(|event| event.kind == "change");
    assert_eq!(change.data["backend"], "b");
    isobar.refuses("[pool.web]\nbackends = 7\n");
    let refused = watcher.wait(|event| event.kind == "reload" && event.data["faults"] == 1);
    assert_eq!(refused.data["message"], "reload refused");
    assert!(refused.id > change.id && change.id > down.id && down.id > ready.id);
}

/// 1. Connections fail at a backend that nobody checks: it is ejected.
/// 2. It listens again: its trial succeeds. Both are told.
#[test]
fn an_ejection_and_its_end_are_told_too() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let outlier = "[pool.web.outlier]\nconsecutive_failures = 2\neject_for = \"300ms\"\n";
    let isobar = Isobar::start(&web(outlier, &[a.entry(), b.entry()]));
    let watcher = Watcher::of(&isobar, "");
    b.stop();
    isobar.visits("web", 4);
    let ejected = watcher.wait(|event| event.data["state"] == "ejected");
    assert_eq!(ejected.kind, "state");
    assert_eq!(ejected.data["backend"], "b");
    let cause = ejected.data["cause"].as_str().expect("a cause");
    assert!(cause.contains("2 failures in a row"), "{cause}");
    b.listen();
    wait_until("the trial succeeded", || {
        isobar.visit("web");
        isobar.stat("/pools/web/backends/b/state") == "up"
    });
    let up = watcher.wait(|event| event.data["from"] == "ejected");
    assert_eq!(
        (&up.data["backend"], &up.data["state"]),
        (&"b".into(), &"up".into())
    );
}

#[test]
fn who_comes_again_is_told_what_was_missed_alone() {
    let (isobar, _a, _b) = two();
    isobar.set("web/a", "{\"weight\": 2}");
    let first = Watcher::of(&isobar, "");
    let seen = first.wait(|event| event.kind == "change");
    drop(first);
    isobar.set("web/a", "{\"weight\": 3}");
    let again = Watcher::of(&isobar, &format!("Last-Event-ID: {}\r\n", seen.id));
    let missed = again.next();
    assert_eq!(
        (missed.kind.as_str(), &missed.data["backend"]),
        ("change", &"a".into())
    );
    let after = missed.data["after"].as_str().expect("how it is");
    assert!(after.contains("weight=3"), "{after}");
}

#[test]
fn the_level_of_the_log_leaves_no_event_out() {
    let (isobar, a, b) = two();
    let text = web(fast(), &[a.entry(), b.entry()]);
    isobar.reload_to(&format!("{text}\n[log]\nlevel = \"error\"\n"));
    a.stop();
    let watcher = Watcher::of(&isobar, "");
    let down = watcher.wait(|event| event.data["state"] == "down");
    assert_eq!(
        (down.kind.as_str(), &down.data["backend"]),
        ("state", &"a".into())
    );
}

#[test]
fn who_watches_does_not_hold_up_a_stop() {
    let (mut isobar, _a, _b) = two();
    let watcher = Watcher::of(&isobar, "");
    let ended = isobar.stop();
    assert!(ended.success(), "{ended}");
    let (rest, _) = watcher.0.read_to_end();
    assert!(!rest.is_empty(), "the last events came");
}

/// More watchers than there may be connections: each new one takes the place of another, and
/// everybody else is still answered.
#[test]
fn however_many_watch_others_are_answered() {
    let (isobar, _a, _b) = two();
    let watchers: Vec<_> = (0..300).map(|_| ask(&isobar, "")).collect();
    assert_eq!(isobar.get("/stats").status, 200);
    drop(watchers);
}

/// The charts' numbers add up to what `/stats` has.
#[test]
fn the_series_count_every_connection_once() {
    const VISITS: usize = 30;
    let (isobar, _a, b) = two();
    let series = || isobar.get("/series?minutes=15").json();
    // The first step, before anything happened.
    wait_until("there is a step", || series()["points"].as_u64() > Some(0));
    for _ in 0..VISITS {
        isobar.visit("web");
    }
    let sum = |list: &Value| -> u64 {
        let list = list.as_array().expect("a list").iter();
        list.filter_map(Value::as_u64).sum()
    };
    let all = wait_for("every visit is in a step", || {
        let answer = series();
        let web = &answer["pools"]["web"];
        (sum(&web["connections"]) == VISITS as u64).then(|| answer.clone())
    });
    let web = &all["pools"]["web"];
    let points = all["points"].as_u64().expect("a count");
    let mut of_backends = 0;
    for name in ["a", "b"] {
        let backend = &web["backends"][name];
        of_backends += sum(&backend["connections"]);
        let states = backend["state"].as_array().expect("a list");
        assert_eq!(states.len() as u64, points);
        assert_eq!(states.last(), Some(&"up".into()));
        assert!(sum(&backend["bytes_out"]) > 0);
    }
    assert_eq!(of_backends, VISITS as u64);
    b.stop();
    isobar.wait_state("web", "b", "down");
    let path = "/series?minutes=1&pool=web";
    wait_until("the strip shows it", || {
        let states = isobar.get(path).json()["pools"]["web"]["backends"]["b"]["state"].clone();
        states.as_array().and_then(|all| all.last().cloned()) == Some("down".into())
    });
    let fewer = isobar.get("/series?minutes=1&backends=false").json();
    assert!(fewer["pools"]["web"].get("backends").is_none());
    assert_eq!(isobar.get("/series?pool=none").status, 404);
    assert_eq!(isobar.get("/series?minutes=60").status, 400);
}

/// A sign of life comes although nothing happens, see the 15 s of the documentation.
#[test]
fn a_lull_is_broken_by_a_comment() {
    let (isobar, _a, _b) = two();
    let watcher = Watcher::of(&isobar, "");
    let begun = Instant::now();
    wait_until("a comment came", || {
        watcher.line().starts_with(':') && begun.elapsed() > Duration::from_secs(5)
    });
}
