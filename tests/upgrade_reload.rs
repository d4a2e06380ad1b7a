//! Upgrades before, after and during reloads.

mod support;

use std::time::Duration;

use isobar::net::Address;
use rustix::process::Signal;
use serde_json::json;
use support::{Backend, Family, Isobar, Stream, wait_until, web};

const PLAIN: &str = "[pool.other.health]\nkind = \"none\"\n";

fn listener(name: &str, bind: &str, pool: &str) -> String {
    format!("[listener.{name}]\nbind = {bind}\npool = \"{pool}\"\n")
}

/// An address that nobody listens at now.
fn free() -> Address {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("an address").into()
}

#[track_caller]
fn talk(client: &Stream) {
    client.write("on");
    client.expect("on");
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

/// 1. Listeners `a` and `b` have an address each. A reload calls `a` `c`, and gives it the
///    address of `b`, which goes.
/// 2. An upgrade: who came through `a` moves, as a connection of `c`, with its counts; both
///    addresses go on. Who came through `b`, which is no more, finishes in the old process.
#[test]
fn listeners_that_were_renamed_and_addresses_that_moved_go_over() {
    let backend = Backend::echo(Family::Ipv4);
    let base = web("", &[backend.entry()]);
    let (a, b) = (free(), free());
    let bound = |name: &str, address: &Address| listener(name, &format!("\"{address}\""), "web");
    let before = format!("{}{}{base}", bound("a", &a), bound("b", &b));
    let isobar = Isobar::start(&before);
    isobar.expect_departure();
    let (of_a, of_b) = (isobar.connect_to(&a), isobar.connect_to(&b));
    let _ = (talk(&of_a), talk(&of_b));
    let both = listener("c", &format!("[\"{a}\", \"{b}\"]"), "web");
    isobar.reload_to(&format!("{both}{base}"));
    assert_eq!(isobar.count("/listeners/c/connections/active"), 1);
    let total = isobar.count("/listeners/c/connections/total");
    let (answer, mut old) = isobar.upgrade_leaving_some();
    assert_eq!(
        (&answer["moved"], &answer["remaining"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(isobar.count("/listeners/c/connections/active"), 1);
    assert_eq!(isobar.count("/listeners/c/connections/total"), total);
    assert_eq!(isobar.addresses_now("c"), [a.clone(), b.clone()]);
    for address in [&a, &b] {
        let visitor = isobar.connect_to(address);
        talk(&visitor);
        leave(&visitor);
    }
    let _ = (talk(&of_a), talk(&of_b));
    leave(&of_b);
    assert!(old.wait().success());
    leave(&of_a);
    isobar.wait_count("/listeners/c/connections/active", 0);
}

/// A pool and a listener left the file with a connection each way, which finishes.
#[test]
fn who_is_left_of_a_pool_that_went_finishes_in_the_old_process() {
    let backend = Backend::echo(Family::Ipv4);
    let base = web("", &[backend.entry()]);
    let other = format!(
        "{}[pool.other]\nbackends = [{}]\n{PLAIN}",
        listener("other", "\"127.0.0.1:0\"", "other"),
        backend.entry()
    );
    let isobar = Isobar::start(&format!("{base}{other}"));
    isobar.expect_departure();
    let (stays, goes) = (isobar.connect("web"), isobar.connect("other"));
    let _ = (talk(&stays), talk(&goes));
    isobar.reload_to(&base);
    let (answer, mut old) = isobar.upgrade_leaving_some();
    assert_eq!(
        (&answer["moved"], &answer["remaining"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(isobar.count("/generations/1/active"), 1);
    let _ = (talk(&stays), talk(&goes));
    leave(&goes);
    assert!(old.wait().success());
    leave(&stays);
}

/// What waited for a restart is in force after an upgrade, and a runtime change that a reload
/// kept is there still.
#[test]
fn values_that_wait_for_a_restart_come_with_an_upgrade_and_runtime_changes_stay() {
    let backends = [Backend::named("b1"), Backend::named("b2")];
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    let of = |threads: u32, settings: &str| {
        format!(
            "[runtime]\nthreads = {threads}\n{}",
            web(settings, &entries)
        )
    };
    let mut isobar = Isobar::start(&of(1, ""));
    isobar.set("web/b1", r#"{"weight": 7}"#);
    isobar.reload_to(&of(2, "connect_timeout = \"4s\""));
    let pending = "/config/last_reload/pending_restart";
    assert_eq!(isobar.stat(pending), json!(["runtime.threads"]));
    let overrides = isobar.stat("/overrides");
    assert_eq!(overrides.as_array().map(Vec::len), Some(1), "{overrides}");
    isobar.upgrade();
    assert_eq!(isobar.stat(pending), json!([]));
    assert_eq!(isobar.stat("/overrides"), overrides);
    assert!(isobar.metrics().contains("core=\"1\""));
    // The second core has descriptors of its own.
    isobar.renew_baseline();
    isobar.visits("web", 4);
    isobar.reload_to(&of(2, ""));
    assert_eq!(isobar.stat("/overrides"), overrides);
}

/// 1. A client is held in the old process; the new one renames its listener, and lowers its limit
///    below what there is.
/// 2. It counts under the new name, and is served under it.
#[test]
fn a_reload_of_the_new_process_keeps_count_of_the_old_one() {
    let backend = Backend::refusing("b1");
    let base = web("", &[backend.entry()]);
    let address = free();
    let fixed = base.replace("127.0.0.1:0", &address.to_string());
    let isobar = Isobar::start(&fixed);
    isobar.tell("POST", "/pools/web/pause", "");
    let held = [isobar.connect_to(&address), isobar.connect_to(&address)];
    isobar.wait_count("/pools/web/held", 2);
    let (_, mut old) = isobar.upgrade_leaving_some();
    assert_eq!(isobar.count("/listeners/web/connections/active"), 2);
    let renamed = fixed.replace("[listener.web]", "[listener.front]\nmax_connections = 1");
    isobar.reload_to(&renamed);
    assert_eq!(isobar.count("/listeners/front/connections/active"), 2);
    let waits = isobar.connect_to(&address);
    backend.listen();
    isobar.tell("POST", "/pools/web/resume", "");
    held.iter()
        .for_each(|held| assert_eq!(held.read_line(), "b1"));
    assert!(old.wait().success());
    assert!(waits.is_silent_for(Duration::from_millis(100)));
    assert_eq!(isobar.count("/listeners/front/connections/active"), 2);
    held.iter().for_each(leave);
    assert_eq!(waits.read_line(), "b1");
    leave(&waits);
    isobar.wait_count("/listeners/front/connections/active", 0);
}

/// The file may change, and SIGHUP come, once another process has taken the place of this one:
/// neither opens anything there again.
#[test]
fn a_process_that_was_replaced_reloads_nothing() {
    let backend = Backend::refusing("b1");
    let base = format!("[runtime]\nwatch = true\n{}", web("", &[backend.entry()]));
    let isobar = Isobar::start(&base);
    let held = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    let (_, mut old) = isobar.upgrade_leaving_some();
    let id = rustix::process::Pid::from_raw(old.id().cast_signed()).expect("a process id");
    rustix::process::kill_process(id, Signal::HUP).expect("a process of ours");
    isobar.log().wait("the refusal", |line| {
        line.message() == "reload refused" && line.fields()["by"] == "SIGHUP"
    });
    isobar.rewrite(&base.replace("[pool.web]", "[pool.web]\nconnect_timeout = \"4s\""));
    wait_until("the new process took the file", || {
        isobar.count("/config/generation") == 2
    });
    backend.listen();
    assert_eq!(held.read_line(), "b1");
    assert!(old.wait().success());
    leave(&held);
}

/// The admin endpoint goes over from where a reload has moved it.
#[test]
fn an_admin_endpoint_that_was_moved_goes_over() {
    let backend = Backend::echo(Family::Ipv4);
    let base = web("", &[backend.entry()]);
    let mut isobar = Isobar::start(&base);
    let path = isobar.dir().join("admin.sock");
    isobar.reload_to(&format!("[admin]\nbind = \"unix:$DIR/admin.sock\"\n{base}"));
    isobar.move_admin(Address::Unix(path.as_path().into()));
    let client = isobar.connect("web");
    talk(&client);
    for _ in 0..2 {
        isobar.upgrade();
        talk(&client);
    }
    leave(&client);
    assert!(path.exists());
    isobar.stop();
    assert!(!path.exists());
}
