//! Backends by name: what DNS says is what is balanced over, and what it does not say holds
//! nothing up.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    Backend, Dns, Isobar, Kind, Launch, Say, Stream, at_one_port, patience, scaled, wait_until, web,
};

const NAME: &str = "app.internal";

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// Pool `web` of an entry `app` for the name, which `dns` knows.
fn file(port: u16, settings: &str) -> String {
    web(settings, &[entry(port)])
}

fn entry(port: u16) -> String {
    format!("{{ name = \"app\", address = \"{NAME}:{port}\" }}")
}

fn start(dns: &Dns, text: &str) -> Isobar {
    let launch = Launch::new(text);
    let path = dns.resolv_conf(launch.dir());
    let path = path.to_str().expect("a plain path").to_owned();
    let isobar = launch.env("ISOBAR_RESOLV_CONF", &path).start();
    isobar.expect_removal();
    isobar
}

/// Names and states of the backends of pool `web`.
fn backends(isobar: &Isobar) -> Vec<(String, String)> {
    let stats = isobar.stats();
    let all = stats["pools"]["web"]["backends"].as_object();
    let all = all.expect("a table").iter();
    all.map(|(name, backend)| {
        let state = backend["state"].as_str().expect("a state");
        (name.clone(), state.to_owned())
    })
    .collect()
}

#[track_caller]
fn wait_backends(isobar: &Isobar, expected: &[(&str, &str)]) {
    let mut expected: Vec<_> = expected
        .iter()
        .map(|(name, state)| ((*name).to_owned(), (*state).to_owned()))
        .collect();
    // As a table of JSON has them.
    expected.sort();
    wait_until(&format!("the backends were {expected:?}"), || {
        backends(isobar) == expected
    });
}

fn lookups(isobar: &Isobar, result: &str) -> f64 {
    let labels = [("name", NAME), ("result", result)];
    isobar.metric("isobar_dns_lookups_total", &labels)
}

fn leave(client: &Stream) {
    client.fin();
    client.expect_fin();
}

#[test]
fn new_connections_follow_the_answers_and_live_ones_stay() {
    let (_all, port) = at_one_port(3);
    let dns = Dns::start();
    dns.addresses(NAME, &[ip(2)]);
    let isobar = start(&dns, &file(port, ""));
    let (two, three) = (
        format!("app/127.0.0.2:{port}"),
        format!("app/127.0.0.3:{port}"),
    );
    wait_backends(&isobar, &[(&two, "up")]);
    let (stays, name) = isobar.stay("web");
    assert_eq!(name, "2");
    dns.addresses(NAME, &[ip(3), ip(2), ip(3)]);
    wait_backends(&isobar, &[(&two, "up"), (&three, "up")]);
    assert_eq!(isobar.visits("web", 4)["3"], 2);
    dns.addresses(NAME, &[ip(3)]);
    wait_backends(&isobar, &[(&three, "up"), (&two, "removed")]);
    assert_eq!(isobar.visits("web", 4)["3"], 4);
    assert!(stays.is_silent_for(Duration::ZERO));
    leave(&stays);
    wait_backends(&isobar, &[(&three, "up")]);
    let logged = isobar.log().lines();
    let resolved = logged.iter().filter(|line| line.message() == "resolved");
    assert_eq!(resolved.count(), 3);
}

#[test]
fn an_address_that_is_gone_has_the_drain_timeout() {
    let (_all, port) = at_one_port(2);
    let dns = Dns::start();
    dns.addresses(NAME, &[ip(2)]);
    let isobar = start(&dns, &file(port, "drain_timeout = \"100ms\""));
    let (stays, name) = isobar.stay("web");
    assert_eq!(name, "2");
    dns.addresses(NAME, &[ip(3)]);
    stays.expect_reset();
    isobar.wait_ended("web", "drain_timeout", 1);
}

#[test]
fn what_is_not_resolved_is_one_backend_that_is_down_and_its_clients_are_held() {
    let (_all, port) = at_one_port(1);
    let dns = Dns::start();
    let isobar = start(&dns, &file(port, ""));
    wait_backends(&isobar, &[("app", "down")]);
    let app = isobar.stat("/pools/web/backends/app");
    assert_eq!(app["address"], format!("{NAME}:{port}"));
    let history = isobar.get("/pools/web/backends/app/history").json();
    assert_eq!(history["history"][0]["cause"], "not resolved");
    wait_until("the name was asked for in vain", || {
        lookups(&isobar, "absent") >= 1.0
    });
    let client = isobar.connect("web");
    isobar.wait_count("/pools/web/held", 1);
    dns.addresses(NAME, &[ip(2)]);
    assert_eq!(client.read_line(), "2");
    leave(&client);
}

#[test]
fn errors_time_outs_and_a_name_that_is_gone_keep_the_last_answer() {
    let (_all, port) = at_one_port(2);
    let dns = Dns::start();
    dns.addresses(NAME, &[ip(2), ip(3)]);
    let settings = "[pool.web.health]\ninterval = \"100ms\"\n";
    let isobar = start(&dns, &file(port, settings));
    let (two, three) = (
        format!("app/127.0.0.2:{port}"),
        format!("app/127.0.0.3:{port}"),
    );
    let both = [(&*two, "up"), (&*three, "up")];
    wait_backends(&isobar, &both);
    let transitions = |name: &str| {
        let stats = isobar.stats();
        stats["pools"]["web"]["backends"][name]["health"]["transitions"].clone()
    };
    let before = (transitions(&two), transitions(&three));
    for (say, result) in [
        (Say::Fail, "failed"),
        (Say::Hang, "timeout"),
        (Say::Absent, "absent"),
        (Say::Empty, "absent"),
    ] {
        dns.say(NAME, say.clone());
        let count = lookups(&isobar, result);
        wait_until(&format!("{say:?} was heard of"), || {
            lookups(&isobar, result) >= count + 1.0
        });
        assert_eq!(backends(&isobar).len(), 2, "{say:?}");
        assert_eq!(isobar.visits("web", 2).len(), 2, "{say:?}");
    }
    dns.addresses(NAME, &[ip(2), ip(3)]);
    assert_eq!((transitions(&two), transitions(&three)), before);
}

#[test]
fn a_resolver_that_hangs_delays_neither_start_nor_traffic_nor_reload_nor_stop() {
    let (all, port) = at_one_port(1);
    let dns = Dns::start();
    dns.say(NAME, Say::Hang);
    let other = all[0].entry();
    let text = |settings: &str| web(settings, &[entry(port), other.clone()]);
    let began = Instant::now();
    let mut isobar = start(&dns, &text(""));
    assert_eq!(isobar.visits("web", 2)["2"], 2);
    isobar.reload_to(&text("idle_timeout = \"5s\""));
    assert_eq!(isobar.visits("web", 2)["2"], 2);
    wait_until("the name was asked for", || dns.asked(NAME, Kind::A) >= 1);
    assert!(isobar.stop().success());
    assert!(began.elapsed() < patience(), "{:?}", began.elapsed());
}

#[test]
fn readiness_waits_for_the_first_answer_of_a_name_or_its_failure() {
    let (_all, port) = at_one_port(1);
    let dns = Dns::start();
    dns.say(NAME, Say::Hang);
    let isobar = start(&dns, &file(port, ""));
    let unready = isobar.get("/readyz");
    assert_eq!(unready.status, 503, "{}", unready.body);
    assert!(unready.body.contains("app"), "{}", unready.body);
    wait_until("the question had failed", || {
        lookups(&isobar, "timeout") >= 1.0
    });
    wait_until("it was ready", || isobar.get("/readyz").status == 200);
    assert_eq!(isobar.get("/readyz?pool=web").status, 503);
    dns.addresses(NAME, &[ip(2)]);
    wait_until("the pool was", || {
        isobar.get("/readyz?pool=web").status == 200
    });
}

#[test]
fn a_reload_while_dns_is_down_keeps_the_addresses_and_takes_the_new_port() {
    let (_old, port) = at_one_port(1);
    let (_new, other) = at_one_port(1);
    let dns = Dns::start();
    dns.addresses(NAME, &[ip(2)]);
    let isobar = start(&dns, &file(port, ""));
    wait_backends(&isobar, &[(&format!("app/127.0.0.2:{port}"), "up")]);
    dns.say(NAME, Say::Fail);
    isobar.reload_to(&file(port, "idle_timeout = \"5s\""));
    assert_eq!(isobar.visit("web"), "2");
    isobar.reload_to(&file(other, ""));
    wait_backends(&isobar, &[(&format!("app/127.0.0.2:{other}"), "up")]);
    assert_eq!(isobar.visit("web"), "2");
    dns.addresses(NAME, &[ip(2)]);
}

#[test]
fn an_upgrade_while_dns_hangs_goes_on_with_the_addresses_and_their_connections() {
    let (_all, port) = at_one_port(2);
    let dns = Dns::start();
    dns.addresses(NAME, &[ip(2), ip(3)]);
    let mut isobar = start(&dns, &file(port, ""));
    let (two, three) = (
        format!("app/127.0.0.2:{port}"),
        format!("app/127.0.0.3:{port}"),
    );
    wait_backends(&isobar, &[(&two, "up"), (&three, "up")]);
    let stays: Vec<_> = (0..2).map(|_| isobar.stay("web")).collect();
    let encoded = two.replace('/', "%2F").replace(':', "%3A");
    isobar.tell(
        "PUT",
        &format!("/pools/web/backends/{encoded}"),
        "{\"state\": \"drain\"}",
    );
    let answered = lookups(&isobar, "answered");
    dns.say(NAME, Say::Hang);
    isobar.upgrade();
    isobar.renew_baseline();
    assert_eq!(
        backends(&isobar),
        [
            (two.clone(), "draining".to_owned()),
            (three.clone(), "up".to_owned())
        ]
    );
    assert_eq!(isobar.visits("web", 3)["3"], 3);
    assert_eq!(isobar.stat("/overrides/0/backend"), json!(two));
    assert!(lookups(&isobar, "answered") >= answered);
    let stats = isobar.stats();
    let total = |name: &str| &stats["pools"]["web"]["backends"][name]["connections"]["total"];
    assert_eq!((total(&two), total(&three)), (&json!(1), &json!(4)));
    for (client, _) in &stays {
        leave(client);
    }
    dns.addresses(NAME, &[ip(2), ip(3)]);
}

#[test]
fn the_records_of_a_service_give_ports_weights_and_ranks() {
    let (_all, port) = at_one_port(3);
    let dns = Dns::start();
    let service = "_web._tcp.internal";
    dns.say(
        service,
        Say::Services(
            vec![
                (1, 3, port, "two.internal"),
                (1, 0, port, "three.internal"),
                (2, 1, port, "four.internal"),
            ],
            1,
        ),
    );
    for (host, last) in [("two", 2), ("three", 3), ("four", 4)] {
        dns.addresses(&format!("{host}.internal"), &[ip(last)]);
    }
    let entry = format!("{{ name = \"web\", address = \"srv:{service}\" }}");
    let isobar = start(&dns, &web("", &[entry]));
    wait_until("the service was resolved", || backends(&isobar).len() == 3);
    let counts = isobar.visits("web", 8);
    assert_eq!((counts["2"], counts["3"]), (6, 2));
    assert!(!counts.contains_key("4"));
    let backup = isobar.stats();
    let backup = &backup["pools"]["web"]["backends"][format!("web/127.0.0.4:{port}")];
    assert_eq!(
        (&backup["backup"], &backup["weight"]),
        (&json!(true), &json!(1))
    );
    dns.say(
        service,
        Say::Services(vec![(2, 1, port, "four.internal")], 1),
    );
    wait_until("the service had moved", || isobar.visit("web") == "4");
}

#[test]
fn an_answer_that_is_too_long_for_udp_comes_over_tcp() {
    let (_all, port) = at_one_port(2);
    let dns = Dns::start();
    dns.truncate(true);
    dns.addresses(NAME, &[ip(2), ip(3)]);
    let isobar = start(&dns, &file(port, ""));
    wait_until("both addresses were there", || {
        isobar.metric("isobar_pool_backends_usable", &[("pool", "web")]) == 2.0
    });
    assert!(dns.asked_by_tcp() >= 1);
    // Its connections to DNS are its own.
    dns.truncate(false);
}

#[test]
fn with_ipv4_nothing_is_asked_about_ipv6() {
    let (_all, port) = at_one_port(1);
    let dns = Dns::start();
    dns.addresses(NAME, &[ip(2), "fd00::1".parse().expect("an address")]);
    let isobar = start(&dns, &file(port, "resolve = \"ipv4\""));
    wait_backends(&isobar, &[(&format!("app/127.0.0.2:{port}"), "up")]);
    wait_until("it was asked twice", || dns.asked(NAME, Kind::A) >= 2);
    assert_eq!(dns.asked(NAME, Kind::Aaaa), 0);
}

#[test]
fn a_server_that_says_nothing_about_ipv6_keeps_nobody_from_ipv4() {
    let (_all, port) = at_one_port(2);
    let dns = Dns::start();
    dns.addresses(NAME, &[ip(2)]);
    dns.say_of(NAME, Kind::Aaaa, Say::Hang);
    let isobar = start(&dns, &file(port, ""));
    wait_backends(&isobar, &[(&format!("app/127.0.0.2:{port}"), "up")]);
    dns.addresses(NAME, &[ip(3)]);
    wait_backends(&isobar, &[(&format!("app/127.0.0.3:{port}"), "up")]);
}

#[test]
fn a_name_is_added_drained_as_a_whole_and_removed() {
    let (all, port) = at_one_port(3);
    let dns = Dns::start();
    dns.addresses(NAME, &[ip(3), ip(4)]);
    let isobar = start(&dns, &web("", &[all[0].entry()]));
    let added = isobar.tell(
        "POST",
        "/pools/web/backends",
        &json!({"name": "app", "address": format!("{NAME}:{port}")}).to_string(),
    );
    assert_eq!(added["state"], "down", "{added}");
    let (three, four) = (
        format!("app/127.0.0.3:{port}"),
        format!("app/127.0.0.4:{port}"),
    );
    wait_backends(&isobar, &[("2", "up"), (&three, "up"), (&four, "up")]);
    assert_eq!(isobar.visits("web", 6)["4"], 2);
    isobar.set("web/app", "{\"state\": \"drain\"}");
    wait_backends(
        &isobar,
        &[("2", "up"), (&three, "draining"), (&four, "draining")],
    );
    let encoded = three.replace('/', "%2F").replace(':', "%3A");
    let refused = isobar.ask("DELETE", &format!("/pools/web/backends/{encoded}"), "");
    assert_eq!(refused.status, 409, "{}", refused.body);
    isobar.tell("DELETE", "/pools/web/backends/app", "");
    wait_backends(&isobar, &[("2", "up")]);
    assert_eq!(isobar.stat("/overrides"), json!([]));
    assert_eq!(isobar.visits("web", 3)["2"], 3);
}

#[test]
fn a_plan_shows_a_name_as_the_file_has_it_and_counts_its_addresses() {
    let (all, port) = at_one_port(2);
    let dns = Dns::start();
    dns.addresses(NAME, &[ip(2), ip(3)]);
    let text = web("", &[entry(port), all[0].entry()]);
    let isobar = start(&dns, &text);
    wait_until("the name was resolved", || backends(&isobar).len() == 3);
    let (client, _) = isobar.stay("web");
    isobar.rewrite(&web("", &[all[0].entry()]));
    let plan: Value = isobar.ask("POST", "/plan", "").json();
    let pool = &plan["pools"][0];
    assert_eq!(pool["backends"][0]["name"], "app", "{plan:#}");
    assert_eq!(pool["backends"][0]["change"], "removed");
    assert_eq!(pool["backends"][0]["connections"]["active"], 1);
    assert_eq!(
        (&pool["usable_before"], &pool["usable_after"]),
        (&json!(3), &json!(1))
    );
    leave(&client);
}

#[test]
fn etc_hosts_comes_before_dns() {
    let backend = Backend::named("here");
    let port = backend.address().port().expect("a port");
    let dns = Dns::start();
    let entry = format!("\"localhost:{port}\"");
    let isobar = start(&dns, &web("resolve = \"ipv4\"", &[entry]));
    wait_backends(
        &isobar,
        &[(&format!("localhost:{port}/127.0.0.1:{port}"), "up")],
    );
    assert_eq!(isobar.visit("web"), "here");
    assert_eq!(dns.asked("localhost", Kind::A), 0);
}

#[test]
fn failures_are_a_line_a_second_at_most_however_many_names_fail() {
    let dns = Dns::start();
    let entries: Vec<_> = (0..40).map(|n| format!("\"n{n}.internal:80\"")).collect();
    let isobar = start(&dns, &web("", &entries));
    wait_until("all names were asked for", || {
        (0..40).all(|n| dns.asked(&format!("n{n}.internal"), Kind::A) >= 1)
    });
    wait_until("a failure was logged", || {
        let lines = isobar.log().lines();
        lines.iter().any(|line| line.message() == "not resolved")
    });
    let began = Instant::now();
    let count = || {
        let lines = isobar.log().lines();
        let lines = lines.iter().filter(|line| line.message() == "not resolved");
        lines.count()
    };
    let before = count();
    // All of them are asked for again meanwhile.
    wait_until("they were asked for again", || {
        (0..40).all(|n| dns.asked(&format!("n{n}.internal"), Kind::A) >= 2)
            || began.elapsed() > scaled(Duration::from_secs(8))
    });
    let most = before as u64 + began.elapsed().as_secs() + 2;
    assert!(
        (count() as u64) <= most,
        "{} lines, at most {most}",
        count()
    );
}
