//! Ephemeral ports: which files ask for more than there are.

use super::*;

#[test]
fn more_connections_to_one_address_than_ports_are_named() {
    const BACKEND: &str = "pool.web.backends[0].max_connections";
    const PROCESS: &str = "runtime.max_connections";
    const LISTENER: &str = "listener.web.max_connections";
    const WIDEN: &str = "`sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"`, or add";
    let b = |address: &str, most: u32| {
        format!("{{ name = \"b{most}\", address = \"{address}\", max_connections = {most} }}")
    };
    let runtime = |most: usize, text: &str| format!("[runtime]\nmax_connections = {most}\n{text}");
    let (one, two) = ("\"10.0.0.1:80\"", "\"10.0.0.1:80\", \"10.0.0.2:80\"");
    let unix = "\"10.0.0.1:80\", \"unix:/run/b\"";
    let machine = Machine {
        watches: None,
        tracked: None,
        ..STOCK
    };
    for (text, key, words) in [
        (
            pool("", &b("10.0.0.1:80", 28_233)),
            BACKEND,
            ["this backend cannot have 28233", "has 28232", WIDEN],
        ),
        (
            pool("", &b("10.0.0.1:80", 70_000)),
            BACKEND,
            ["70000", "65535\"`, and add", ""],
        ),
        // Two backends of one address share its ports.
        (
            pool(
                "",
                &(b("10.0.0.1:80", 20_000) + "," + &b("10.0.0.1:80", 20_001)),
            ),
            "pool.web.backends[1].max_connections",
            [
                "the 2 backends of this address together cannot have 40001",
                WIDEN,
                "",
            ],
        ),
        (
            runtime(28_233, &pool("", one)),
            PROCESS,
            ["pool `web` can have, 28232:", "28233", WIDEN],
        ),
        (
            pool("max_connections = 28233", one),
            LISTENER,
            ["28233", WIDEN, ""],
        ),
        (
            runtime(100_000, &pool("max_connections = 28233", one)),
            LISTENER,
            ["28233", WIDEN, ""],
        ),
        (
            runtime(56_465, &pool("", two)),
            PROCESS,
            ["56464", WIDEN, ""],
        ),
        (
            runtime(130_000, &pool("", two)),
            PROCESS,
            ["56464", "65535\"`, and add", ""],
        ),
        (
            runtime(
                30_000,
                &(pool("", one)
                    + "[listener.b]\nbind = \"127.0.0.1:0\"\npool = \"b\"\n\
             [pool.b]\nbackends = [\"10.0.0.9:1\"]"),
            ),
            PROCESS,
            ["pool `web`", "(nor can another pool)", WIDEN],
        ),
    ] {
        assert_one(&text, &machine, key, &words);
    }
    for text in [
        pool("", &b("10.0.0.1:80", 28_232)),
        runtime(28_232, &pool("", one)),
        runtime(56_464, &pool("", two)),
        // The process cannot have as many as the backend may.
        runtime(100, &pool("", &b("10.0.0.1:80", 4_000_000))),
        // Its own limit, not the ports, is what the backend cannot exceed.
        runtime(100_000, &pool("", &b("10.0.0.1:80", 1000))),
        // A Unix socket has no ports, and can have any number.
        runtime(100_000, &pool("", unix)),
        pool("", &b("unix:/run/b", 100_000)),
        // Nobody asks for a number.
        pool("", one),
    ] {
        assert_none(&text, &machine);
    }
    let widest = Machine {
        ports: Some(64_512),
        ..machine
    };
    let text = runtime(64_513, &pool("", one));
    assert_one(
        &text,
        &widest,
        PROCESS,
        &["it takes more addresses of backends"],
    );
}

#[test]
fn a_backup_and_a_backend_without_weight_are_no_further_ports() {
    let machine = Machine {
        watches: None,
        tracked: None,
        ..STOCK
    };
    let text = |other: &str| {
        let backends = format!("\"10.0.0.1:80\", {{ address = \"10.0.0.2:80\", {other} }}");
        format!(
            "[runtime]\nmax_connections = 40000\n{}",
            pool("", &backends)
        )
    };
    for other in ["backup = true", "weight = 0"] {
        assert_one(
            &text(other),
            &machine,
            "runtime.max_connections",
            &["28232"],
        );
    }
    assert_none(&text("weight = 1"), &machine);
}

#[test]
fn each_source_address_of_the_family_has_all_ports_again() {
    let machine = Machine {
        watches: None,
        tracked: None,
        ..STOCK
    };
    let text = |connections: u32, sources: &str| {
        format!(
            "[runtime]\nmax_connections = {connections}\n{}\nsource_address = [{sources}]",
            pool("", "\"10.0.0.1:80\"")
        )
    };
    let two = "\"10.0.0.5\", \"10.0.0.6\", \"fd00::5\"";
    assert_none(&text(56_464, two), &machine);
    let words = [
        "56464:",
        "has 28232 for each of 2 source addresses",
        "`source_address`",
    ];
    assert_one(
        &text(56_465, two),
        &machine,
        "runtime.max_connections",
        &words,
    );
    // None of the family is none.
    let words = ["28232:", "has 28232; "];
    assert_one(
        &text(28_233, "\"fd00::5\""),
        &machine,
        "runtime.max_connections",
        &words,
    );
    // Two pools that come from other addresses do not share ports.
    let limited = |sources: &str| {
        format!(
            "[pool.other]\nbackends = [{{ address = \"10.0.0.1:80\", max_connections = 20000 }}]\n\
             source_address = [{sources}]\n{}",
            pool("", "{ address = \"10.0.0.1:80\", max_connections = 20000 }")
        )
    };
    assert_none(&limited("\"10.0.0.5\""), &machine);
    let together = [
        "the 2 backends of this address together cannot have 40000",
        "28232; ",
    ];
    let key = "pool.web.backends[0].max_connections";
    assert_one(&limited(""), &machine, key, &together);
}

#[test]
fn a_source_address_that_is_not_here_is_named_once() {
    let text = format!(
        "{}\nsource_address = [\"10.0.0.5\", \"192.0.2.5\"]\n[pool.b]\nbackends = [\"10.0.0.1:80\"]\n\
         source_address = [\"192.0.2.5\"]",
        pool("", "\"10.0.0.1:80\"")
    );
    let words = [
        "192.0.2.5 is not an address of this machine",
        "`ip address add 192.0.2.5/32",
    ];
    assert_one(&text, &STOCK, "pool.web.source_address", &words);
}
