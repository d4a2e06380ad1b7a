//! The commands that change a running balancer, as a script uses them.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Backend, Exit, Isobar, Launch, Stream, web};

/// `isobar` with the endpoint of `isobar` and these arguments.
#[track_caller]
fn run(isobar: &Isobar, args: &[&str]) -> Exit {
    let address = isobar.admin().to_string();
    Launch::new("").run_to_exit(&[args, &["--admin", &address]].concat())
}

/// The same, which must succeed; what it prints.
#[track_caller]
fn done(isobar: &Isobar, args: &[&str]) -> String {
    let exit = run(isobar, args);
    assert_eq!((exit.code, &*exit.stderr), (Some(0), ""), "{args:?}");
    exit.stdout
}

/// The same, which must fail with this exit code; what it says.
#[track_caller]
fn fails(isobar: &Isobar, args: &[&str], code: i32) -> String {
    let exit = run(isobar, args);
    assert_eq!(exit.code, Some(code), "{args:?}: {}", exit.stderr);
    exit.stderr
}

fn started(settings: &str, backends: &[Backend]) -> Isobar {
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    Isobar::start(&web(settings, &entries))
}

fn two() -> [Backend; 2] {
    ["b1", "b2"].map(Backend::named)
}

#[track_caller]
fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

#[test]
fn states_and_weights_are_set_and_told() {
    let backends = two();
    let isobar = started("", &backends);
    assert_eq!(
        done(&isobar, &["drain", "web/b1"]),
        "web/b1: draining, weight 1, 0 active"
    );
    assert_eq!(isobar.visits("web", 4)["b2"], 4);
    let told = done(&isobar, &["maintenance", "web/b1"]);
    assert_eq!(told, "web/b1: maintenance, weight 1, 0 active");
    assert_eq!(
        done(&isobar, &["ready", "web/b1"]),
        "web/b1: up, weight 1, 0 active"
    );
    let told = done(&isobar, &["weight", "web/b1", "3"]);
    assert_eq!(told, "web/b1: up, weight 3, 0 active");
    assert_eq!(isobar.visits("web", 8)["b1"], 6);
    assert!(fails(&isobar, &["drain", "web/b9"], 1).contains("no backend b9 in pool web"));
    assert!(fails(&isobar, &["ready", "wbe/b1"], 1).contains("no pool wbe"));
    for wrong in [
        &["drain", "web"][..],
        &["weight", "web/b1", "1001"],
        &["weight", "web/b1", "-1"],
        &["weight", "web/b1"],
        &["drain", "web/b1", "--timeout", "5"],
        &["add", "web"],
    ] {
        fails(&isobar, wrong, 2);
    }
}

#[test]
fn a_drain_waits_until_nothing_is_active() {
    let backends = two();
    let isobar = started("", &backends);
    let (client, name) = isobar.stay("web");
    let backend = format!("web/{name}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&isobar, &["drain", &backend, "--wait"]));
        isobar.wait_state("web", &name, "draining");
        assert!(client.is_silent_for(Duration::from_millis(300)));
        assert!(!waiting.is_finished(), "one is still active");
        leave(&client);
        let exit = waiting.join().expect("it ends");
        assert_eq!(exit.code, Some(0), "{}", exit.stderr);
        assert!(exit.stdout.ends_with("0 active"), "{}", exit.stdout);
    });
    done(&isobar, &["drain", &backend, "--wait"]);
}

#[test]
fn a_drain_whose_time_is_over_resets_what_is_left_and_is_exit_code_1() {
    let backends = two();
    let isobar = started("", &backends);
    let (client, name) = isobar.stay("web");
    let backend = format!("web/{name}");
    let said = fails(
        &isobar,
        &["drain", &backend, "--timeout", "300ms", "--wait"],
        1,
    );
    assert!(said.contains("left: 1"), "{said}");
    client.expect_reset();
    isobar.wait_ended("web", "drain_timeout", 1);
    // Without --wait it is the balancer that keeps the time.
    done(&isobar, &["ready", &backend]);
    done(&isobar, &["drain", "web/b1"]);
    done(&isobar, &["ready", "web/b1"]);
    let (client, name) = isobar.stay("web");
    let told = done(
        &isobar,
        &["drain", &format!("web/{name}"), "--timeout", "200ms"],
    );
    assert!(
        told.contains("1 active, what is left is reset at 20"),
        "{told}"
    );
    client.expect_reset();
}

#[test]
fn a_drain_that_somebody_takes_back_is_not_waited_for() {
    let backends = two();
    let isobar = started("", &backends);
    let (client, name) = isobar.stay("web");
    let backend = format!("web/{name}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&isobar, &["drain", &backend, "--wait"]));
        isobar.wait_state("web", &name, "draining");
        done(&isobar, &["ready", &backend]);
        let exit = waiting.join().expect("it ends");
        assert_eq!(exit.code, Some(1));
        assert!(
            exit.stderr.contains("set to ready meanwhile"),
            "{}",
            exit.stderr
        );
    });
    leave(&client);
}

#[test]
fn backends_are_added_and_removed() {
    let backends = two();
    let isobar = started("", &backends[..1]);
    let address = backends[1].address().to_string();
    let told = done(
        &isobar,
        &["add", "web", &address, "--name", "b2", "--weight", "3"],
    );
    assert_eq!(told, format!("web/b2: added, {address}, up"));
    assert_eq!(isobar.visits("web", 8)["b2"], 6);
    assert!(fails(&isobar, &["add", "web", &address, "--name", "b2"], 1).contains("already"));
    let said = fails(&isobar, &["add", "web", "10.0.0.1"], 2);
    assert!(said.contains("10.0.0.1"), "{said}");
    isobar.expect_removal();
    let told = done(&isobar, &["remove", "web/b2"]);
    assert_eq!(told, "web/b2: removed, weight 3, 0 active");
    assert_eq!(isobar.visits("web", 4)["b1"], 4);
    fails(&isobar, &["remove", "web/b2"], 1);
    let unix = "unix:/run/no such.sock";
    done(
        &isobar,
        &["add", "web", unix, "--backup", "--max-connections", "7"],
    );
    let shown = isobar.stat("/pools/web/backends")[unix].clone();
    assert_eq!(shown["backup"], true);
    assert_eq!(shown["connections"]["limit"], 7);
    done(&isobar, &["remove", &format!("web/{unix}")]);
}

#[test]
fn a_pool_is_paused_until_nothing_is_active_and_resumed() {
    let backends = two();
    let isobar = started("", &backends);
    let (client, _) = isobar.stay("web");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&isobar, &["pause", "web", "--wait"]));
        isobar.wait_count("/pools/web/connections/active", 1);
        let held = {
            support::wait_until("it was paused", || isobar.stat("/pools/web/paused") == true);
            isobar.connect("web")
        };
        isobar.wait_count("/pools/web/held", 1);
        assert!(!waiting.is_finished(), "one is still active");
        leave(&client);
        let exit = waiting.join().expect("it ends");
        assert_eq!(exit.code, Some(0), "{}", exit.stderr);
        assert!(
            exit.stdout.ends_with("web: paused, 1 held, 0 active"),
            "{}",
            exit.stdout
        );
        let shown = done(&isobar, &["status", "web"]);
        assert!(shown.contains("1 (paused)"), "{shown}");
        let told = done(&isobar, &["resume", "web"]);
        assert!(told.starts_with("web: running, "), "{told}");
        held.read_line();
        leave(&held);
    });
    let told = done(&isobar, &["pause", "web", "--for", "100ms"]);
    assert!(told.starts_with("web: paused until 20"), "{told}");
    isobar.visit("web");
    fails(&isobar, &["pause", "nope"], 1);
    fails(&isobar, &["pause", "web", "--for", "never"], 2);
    // A pause that ends before its connections do has not been waited out.
    let (client, _) = isobar.stay("web");
    let said = fails(&isobar, &["pause", "web", "--for", "100ms", "--wait"], 1);
    assert!(said.contains("is over"), "{said}");
    leave(&client);
}

#[test]
fn a_pool_that_holds_nothing_is_not_paused() {
    let backends = two();
    let isobar = started("[pool.web.hold]\nmax = 0\n", &backends);
    let said = fails(&isobar, &["pause", "web"], 1);
    assert!(said.contains("hold.max"), "{said}");
}

#[test]
fn connections_are_listed_and_killed() {
    let backends = two();
    let isobar = started("", &backends);
    let clients: Vec<_> = (0..4).map(|_| isobar.stay("web")).collect();
    let listed = done(&isobar, &["connections"]);
    assert_eq!(listed.lines().count(), 5, "{listed}");
    assert!(
        listed.starts_with(" ID  ") || listed.starts_with("ID  "),
        "{listed}"
    );
    let listed = done(
        &isobar,
        &["connections", "--backend", "b1", "--state", "relaying"],
    );
    assert_eq!(listed.lines().count(), 3, "{listed}");
    let exit = run(&isobar, &["connections", "--limit", "1"]);
    assert_eq!(exit.stdout.lines().count(), 2);
    assert!(exit.stderr.contains("1 of 4"), "{}", exit.stderr);
    let json: Value =
        serde_json::from_str(&done(&isobar, &["connections", "--json"])).expect("JSON");
    assert_eq!(json["total"], 4);
    let id = json["connections"][0]["id"].as_str().expect("an id");
    let dry = done(&isobar, &["kill", "--pool", "web", "--dry-run"]);
    assert_eq!(dry, "4 match, none closed: this was a dry run");
    assert_eq!(done(&isobar, &["kill", id]), "1 closed");
    let exit = run(&isobar, &["kill", id, "0"]);
    assert_eq!((exit.code, &*exit.stdout), (Some(1), "0 closed"));
    assert!(
        exit.stderr.contains(&format!("no connection {id}, 0")),
        "{}",
        exit.stderr
    );
    assert_eq!(
        done(&isobar, &["kill", "--client", "127.0.0.0/8"]),
        "3 matched, 3 closed"
    );
    for (client, _) in &clients {
        client.expect_reset();
    }
    isobar.wait_ended("web", "killed", 4);
    for wrong in [
        &["kill"][..],
        &["kill", "--dry-run"],
        &["kill", "1", "--pool", "web"],
        &["kill", "1", "--dry-run"],
    ] {
        fails(&isobar, wrong, 2);
    }
}

/// No balancer is needed to see that it is wrong.
#[test]
fn a_value_that_cannot_be_one_is_exit_code_2() {
    for (args, why) in [
        (&["connections", "--state", "open"][..], "one of preread"),
        (&["connections", "--older", "5"], "a duration such as"),
        (&["connections", "--pool", ""], "it has no value"),
        (&["kill", "--client", "nope"], "expected an address, a CIDR"),
        (&["kill", "--client", "10.0.0.0/33"], "expected an address"),
        (&["kill", "--idle", "soon"], "'--idle <DURATION>'"),
        (&["kill", "--pool", ""], "it has no value"),
        (
            &["add", "web", "1.2.3.4"],
            "`address` cannot be \"1.2.3.4\"",
        ),
        (
            &["add", "web", "1.2.3.4:5", "--name", ""],
            "'--name <NAME>'",
        ),
        (&["add", "", "1.2.3.4:5"], "'<POOL>'"),
        (&["pause", ""], "'<POOL>'"),
        (&["pause", "web", "--for", "0s"], "longer than 0s"),
        (&["resume", ""], "'<POOL>'"),
        (&["rebalance", ""], "'<POOL>'"),
    ] {
        let nobody = ["--admin", "127.0.0.1:1"];
        let exit = Launch::new("").run_to_exit(&[args, &nobody].concat());
        assert_eq!(exit.code, Some(2), "{args:?}: {}", exit.stderr);
        assert!(exit.stderr.contains(why), "{args:?}: {}", exit.stderr);
    }
}

/// A name that is mistyped is not the same as nobody there.
#[test]
fn a_pool_that_is_not_there_is_exit_code_1_and_those_that_are_are_named() {
    let isobar = started("", &two());
    for args in [
        &["kill", "--pool", "wbe"][..],
        &["kill", "--pool", "wbe", "--dry-run"],
        &["connections", "--pool", "wbe"],
        &["connections", "--pool", "wbe", "--json"],
        &["pause", "wbe"],
        &["resume", "wbe"],
        &["drain", "wbe/b1"],
        &["remove", "wbe/b1"],
        &["rebalance", "wbe"],
        &["add", "wbe", "127.0.0.1:1"],
    ] {
        let said = fails(&isobar, args, 1);
        assert_eq!(said, "error: no pool wbe; there is web", "{args:?}");
    }
    assert_eq!(isobar.stat("/overrides"), json!([]));
}

#[test]
fn without_the_token_nothing_is_changed_and_without_a_balancer_it_is_exit_code_3() {
    let text = web("", &[Backend::named("b1").entry()])
        + "[admin]\nbind = \"127.0.0.1:0\"\ntoken = \"s3cret\"\n";
    let mut isobar = Launch::new(&text).token("s3cret").start();
    let said = fails(&isobar, &["drain", "web/b1"], 1);
    assert!(said.contains("--token-file"), "{said}");
    assert_eq!(isobar.stat("/overrides"), json!([]));
    let address = isobar.admin().to_string();
    let with_token = Launch::new("").env("ISOBAR_TOKEN", "s3cret");
    let exit = with_token.run_to_exit(&["drain", "web/b1", "--admin", &address]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    isobar.stop();
    for args in [&["drain", "web/b1"][..], &["pause", "web"], &["kill", "1"]] {
        fails(&isobar, args, 3);
    }
}
