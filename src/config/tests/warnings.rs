//! Each warning, said once, at its place; and none where nothing is amiss.

use super::*;

#[test]
fn a_limit_of_the_watch_has_no_effect_without_one() {
    let warned = |watch: &str| {
        let text = format!("[runtime]\nwatch_max_removed = \"10%\"\n{watch}");
        let loaded = parse(&text, "f", &|_| None).expect("a configuration");
        let all = loaded.warnings.into_iter().map(|w| w.message);
        all.filter(|message| message.contains("watch"))
            .collect::<Vec<_>>()
    };
    let expected = ["`watch_max_removed` has no effect without watch = true"];
    assert_eq!(warned(""), expected);
    assert_eq!(warned("watch = false"), expected);
    assert!(warned("watch = true").is_empty());
}

#[test]
fn a_weight_has_no_effect_on_a_service_but_for_0() {
    let warned = |entry: &str| {
        let text = format!("[pool.p]\nbackends = [{entry}]\n");
        let loaded = parse(&text, "f", &|_| None).expect("a configuration");
        let all = loaded.warnings.into_iter().map(|w| w.message);
        all.filter(|message| message.contains("SRV")).count()
    };
    let service = "address = \"srv:_pg._tcp.example.com\"";
    assert_eq!(warned(&format!("{{ {service}, weight = 2 }}")), 1);
    assert_eq!(warned(&format!("{{ {service}, weight = 0 }}")), 0);
    assert_eq!(warned(&format!("{{ {service}, backup = true }}")), 0);
    assert_eq!(warned("{ address = \"app.internal:80\", weight = 2 }"), 0);
}

#[test]
fn what_has_no_effect_is_a_warning_at_its_place() {
    for (lines, expected) in [
        (
            "resolve = \"ipv4\"",
            "6:11: `resolve` has no effect without a host name in `backends`",
        ),
        (
            "hash.key = \"client-ip\"",
            "6:12: `key` has no effect without balance = \"consistent-hash\"",
        ),
        (
            "latency.decay = \"1s\"",
            "6:17: `decay` has no effect without balance = \"least-latency\"",
        ),
        (
            "hold = { max = 0, timeout = \"1s\" }",
            "6:29: `timeout` has no effect with max = 0",
        ),
        (
            "balance = \"consistent-hash\"\nslow_start = \"30s\"",
            "7:14: `slow_start` has no effect with balance = \"consistent-hash\"",
        ),
        (
            "balance = \"first\"\nslow_start = \"30s\"",
            "7:14: `slow_start` has no effect with balance = \"first\"",
        ),
        (
            "outlier = { consecutive_failures = 0, eject_for = \"1s\" }",
            "6:51: `eject_for` has no effect with consecutive_failures = 0",
        ),
        (
            "health.path = \"/up\"",
            "6:15: `path` has no effect with kind = \"tcp\"",
        ),
        (
            "health = { kind = \"http\", expect = \"x\" }",
            "6:36: `expect` has no effect with kind = \"http\"",
        ),
        (
            "health = { kind = \"none\", rise = 3 }",
            "6:34: `rise` has no effect with kind = \"none\"",
        ),
        (
            "health.tls = true",
            "6:14: `tls` has no effect with kind = \"tcp\"",
        ),
        (
            "health.ca = \"/ca.pem\"",
            "6:13: `ca` has no effect on a check without TLS",
        ),
        (
            "health.timeout = \"3s\"",
            "6:18: `timeout` is above `interval`: a check may last longer than the time between two",
        ),
        (
            "health.interval = \"500ms\"",
            "6:19: `timeout` is above `interval`: a check may last longer than the time between two",
        ),
        (
            "health.fast_interval = \"3s\"",
            "6:24: `fast_interval` is above `interval`: it is the slower one",
        ),
        (
            "when_all_down = \"try\"\nhealth.kind = \"none\"",
            "6:17: `when_all_down` has no effect without checks (health.kind = \"none\")",
        ),
        (
            "source_address = [\"10.0.0.5\"]\n[defaults.pool]\nsource_address = [\"fd00::5\"]\n\
             [pool.q]\nbackends = [\"10.0.0.2:1\"]\n[listener.m]\nbind = \"127.0.0.1:2\"\npool = \"q\"",
            "9:7: `source_address` has no IPv4 address: connections to backend `10.0.0.2:1` are not bound",
        ),
        (
            "source_address = [\"fd00::5\", \"10.0.0.5\"]",
            "6:19: this has no effect: no backend of this pool has an IPv6 address",
        ),
        (
            "source_address = [\"10.0.0.5\", \"10.0.0.5\"]",
            "6:31: this has no effect: it stands there already",
        ),
        (
            "fallback = \"q\"\n[pool.q]\nbackends = [\"unix:/b\"]\nsource_address = [\"10.0.0.5\"]",
            "9:19: `source_address` has no effect: all backends of this pool are Unix sockets",
        ),
        (
            "on_backend_down = \"reset\"\nhealth.kind = \"none\"",
            "6:19: `on_backend_down` has no effect without checks (health.kind = \"none\")",
        ),
        (
            "[defaults.pool.health]\nhost = \"a\"",
            "7:8: `host` has no effect with kind = \"tcp\", in any pool",
        ),
        (
            "[pool.q]\nbackends = [\"1.1.1.1:1\"]",
            "6:7: nothing refers to pool `q`: no listener, no fallback",
        ),
        (
            "fallback = \"q\"\n[pool.q]",
            "7:7: pool `q` has no backends: its clients are held",
        ),
        (
            "fallback = \"q\"\n[pool.q]\nbackends = []",
            "8:12: pool `q` has no backends: its clients are held",
        ),
        (
            "fallback = \"q\"\n[pool.q]\nbackends = [{ address = \"1.1.1.1:1\", weight = 0 }]",
            "8:12: all weights of pool `q` are 0: its clients are held",
        ),
        (
            "fallback = \"q\"\n[pool.q]\nbackends = [\"unix:/b\"]\nhealth.port = 1",
            "9:15: `port` has no effect on backend `unix:/b`, a Unix socket",
        ),
        (
            "[listener.m]\nbind = \"127.0.0.1:2\"",
            "6:11: listener `m` has no `pool`: every connection is rejected",
        ),
        (
            "[listener.m]\nbind = \"127.0.0.1:2\"\npool = \"p\"\nunix_mode = \"0600\"",
            "9:13: `unix_mode` has no effect without a `bind` to the path of a Unix socket",
        ),
        (
            "[listener.m]\nbind = \"127.0.0.1:2\"\npool = \"p\"\nipv6_only = true",
            "9:13: `ipv6_only` has no effect without a `bind` to an IPv6 address",
        ),
        (
            "[listener.m]\nbind = \"127.0.0.1:2\"\npool = \"p\"\nallow = [\"10.0.0.9/8\"]",
            "9:10: bits behind the prefix are ignored: this is 10.0.0.0/8",
        ),
        (
            "[listener.m]\nbind = \"127.0.0.1:2\"\npool = \"p\"\nallow = [\"::1\", \"10.1.0.0/16\"]\ndeny = [\"10.0.0.0/8\"]",
            "9:17: this has no effect: 10.0.0.0/8 in `deny` wins over it",
        ),
        (
            "[listener.m]\nbind = \"127.0.0.1:2\"\npool = \"p\"\nallow = [\"10.0.0.0/8\", \"unix\"]",
            "9:24: this has no effect without a `bind` to a Unix socket",
        ),
        (
            "[listener.u]\nbind = \"unix:/u\"\npool = \"p\"\nallow = [\"10.0.0.0/8\", \"unix\"]",
            "9:10: this has no effect: its listener has Unix sockets only, whose clients have no address",
        ),
        (
            "[listener.u]\nbind = \"unix:/u\"\npool = \"p\"\nrate_per_ip = \"5/s\"",
            "9:15: `rate_per_ip` has no effect: its listener has Unix sockets only, whose clients have no address",
        ),
        (
            "[listener.m]\nbind = \"127.0.0.1:2\"\npool = \"p\"\nmax_connections = 5\nmax_connections_per_ip = 5",
            "10:26: `max_connections_per_ip` has no effect: max_connections = 5 is not above it",
        ),
        (
            "[admin]\nbind = \"\"\ntoken = \"t\"",
            "8:9: this has no effect: the admin endpoint is off",
        ),
        (
            "[admin]\nbind = \"0.0.0.0:9\"",
            "7:8: this can be reached from other machines: without a `token` it refuses every change, and every read but /metrics, /healthz and /readyz",
        ),
        (
            "[admin]\nbind = \"unix:@a\"",
            "7:8: every user of this machine can reach an abstract Unix socket: without a `token` it refuses every change",
        ),
        (
            "[admin]\nbind = \"unix:/a\"\nhosts = [\"lb\"]",
            "8:9: `hosts` has no effect on a Unix socket: any name is accepted there",
        ),
        (
            "health = { kind = \"tls\", tls = true }",
            "6:32: `tls` has no effect with kind = \"tls\"",
        ),
        (
            "[listener.u]\nbind = \"unix:/u\"\npool = \"q\"\n[pool.q]\nbackends = [\"unix:/b\"]\nkeepalive = \"5s\"",
            "11:13: `keepalive` has no effect as all listeners and backends of this pool are Unix sockets",
        ),
        (
            "[listener.u]\nbind = \"unix:/u\"\npool = \"q\"\n[pool.q]\nbackends = [\"1.1.1.1:1\"]\nkeepalive = \"5s\"\nbalance = \"consistent-hash\"",
            "12:11: `balance` has no effect as all listeners of this pool are Unix sockets: their clients have no address to hash",
        ),
        (
            "[listener.m]\nbind = \"127.0.0.1:2\"\npool = \"p\"\ntrusted_proxies = [\"::1\"]",
            "9:19: `trusted_proxies` has no effect with proxy_protocol = \"off\"",
        ),
        (
            "[listener.m]\nbind = \"127.0.0.1:2\"\npool = \"p\"\nproxy_protocol = \"optional\"\ntrusted_proxies = [\"::1\", \"10.1.0.0/8\"]",
            "10:27: bits behind the prefix are ignored: this is 10.0.0.0/8",
        ),
        (
            "balance = \"random-two\"\nhash.max_load = 1.25",
            "7:17: `max_load` has no effect without balance = \"consistent-hash\"",
        ),
        (
            "[log]\naccess = false\naccess_sample = 0.5",
            "8:17: `access_sample` has no effect with access = false",
        ),
    ] {
        assert_eq!(warnings(&with_pool(lines)), [expected], "{lines}");
    }
}

#[test]
fn blocks_alone_let_no_client_of_a_unix_socket_in() {
    let told = |allow: &str| {
        warnings(&with_pool(&format!(
            "[listener.u]\nbind = \"unix:/u\"\npool = \"p\"\nallow = [{allow}]\n"
        )))
    };
    let closed = told("\"10.0.0.0/8\"");
    assert!(closed[0].contains("this lets nobody in"), "{closed:?}");
    let open = told("\"unix\", \"10.0.0.0/8\"");
    assert!(open[0].contains("this has no effect"), "{open:?}");
    assert_eq!((closed.len(), open.len()), (1, 1));
}

/// Which family the addresses of a name have, only `resolve` can tell.
#[test]
fn a_source_is_wanted_for_a_name_where_its_family_is_known() {
    let told = |resolve: &str| {
        let lines = format!("source_address = [\"fd00::5\"]\n{resolve}");
        warnings(&with_pool(&lines).replace("10.0.0.1:1", "app.internal:80"))
    };
    assert_eq!(told(""), Vec::<String>::new());
    assert_eq!(told("resolve = \"ipv6\""), Vec::<String>::new());
    let expected = [
        "6:18: `source_address` has no IPv4 address: connections to backend `app.internal:80` are not bound",
        "6:19: this has no effect: no backend of this pool has an IPv6 address",
    ];
    assert_eq!(told("resolve = \"ipv4\""), expected);
}

/// A header may name an address all the same.
#[test]
fn clients_of_unix_sockets_have_addresses_where_they_send_proxy_headers() {
    let told = |headers: &str| {
        warnings(&with_pool(&format!(
            "[listener.u]\nbind = \"unix:/u\"\npool = \"q\"\nmax_connections_per_ip = 5\n\
             deny = [\"10.0.0.0/8\"]\n{headers}\
             [[listener.u.route]]\nclient = [\"192.168.0.0/16\"]\npool = \"p\"\n\
             [pool.q]\nbackends = [\"1.1.1.1:1\"]\nbalance = \"consistent-hash\"\n"
        )))
    };
    let headers = "proxy_protocol = \"required\"\ntrusted_proxies = [\"unix\"]\n";
    assert_eq!(told(headers), Vec::<String>::new());
    for none in ["", "proxy_protocol = \"off\"\n"] {
        let told = told(none);
        for part in [
            "`max_connections_per_ip` has no effect: its listener has Unix sockets only",
            "this has no effect: its listener has Unix sockets only",
            "this route can never match: clients of a Unix socket are in no network",
            "`balance` has no effect as all listeners of this pool are Unix sockets",
        ] {
            assert!(
                told.iter().any(|line| line.contains(part)),
                "{part}: {told:?}"
            );
        }
    }
}

/// A listener `m` with these lines behind its address, and a pool `q`.
fn routed(lines: &str) -> String {
    with_pool(&format!(
        "[pool.q]\nbackends = [\"1.1.1.1:1\"]\n[listener.m]\nbind = \"127.0.0.1:2\"\n{lines}"
    ))
}

fn route(keys: &str) -> String {
    format!("[[listener.m.route]]\n{keys}\npool = \"q\"\n")
}

#[test]
fn a_route_that_can_never_match_is_a_warning() {
    let narrow = route("sni = [\"a.b\"]\nclient = [\"10.1.0.0/16\"]");
    let taken = "this route can never match: the one in line 10 takes all that it could";
    let together = "this route can never match: those before it take all that it could";
    for (before, line, expected) in [
        (route("sni = [\"*.b\"]"), 13, taken),
        (route("client = [\"10.0.0.0/8\"]"), 13, taken),
        (route(""), 13, taken),
        (route("sni = [\"*\"]\nclient = [\"0.0.0.0/0\"]"), 14, taken),
    ] {
        let text = routed(&format!("{before}{narrow}"));
        assert_eq!(
            warnings(&text),
            [format!("{line}:1: {expected}")],
            "{before}"
        );
    }
    let both = route("sni = [\"a\", \"*.b\"]\nalpn = [\"x\", \"y\"]");
    let halves = [
        route("sni = [\"a\"]"),
        route("sni = [\"c.b\", \"*.b\"]\nalpn = [\"x\"]"),
        route("alpn = [\"y\"]"),
    ];
    let text = routed(&format!("{}{both}", halves.concat()));
    assert_eq!(warnings(&text), [format!("20:1: {together}")]);
    for before in [
        &halves[..2],
        &halves[1..],
        &[route("sni = [\"a.b\"]\nalpn = [\"z\"]")],
    ] {
        let text = routed(&format!("{}{narrow}", before.concat()));
        assert!(warnings(&text).is_empty() || before.len() > 1, "{text}");
    }
    for harmless in [
        route("sni = [\"a.b\"]\nclient = [\"10.1.2.0/24\"]") + &narrow,
        route("sni = [\"b\"]") + &narrow,
        route("alpn = [\"h2\"]") + &narrow,
        route("client = [\"::/0\"]") + &narrow,
        narrow.clone() + &route("sni = [\"*.b\"]"),
    ] {
        assert_eq!(
            warnings(&routed(&harmless)),
            Vec::<String>::new(),
            "{harmless}"
        );
    }
}

#[test]
fn what_has_no_effect_beside_routes_is_a_warning_at_its_place() {
    let open = route("");
    for (lines, expected) in [
        (
            format!("pool = \"p\"\n{open}"),
            "10:8: `pool` has no effect: the route in line 11 takes every connection",
        ),
        (
            format!("preread_timeout = \"1s\"\n{open}"),
            "10:19: `preread_timeout` has no effect: nothing is read before a connection is routed, as no PROXY header is looked for, and no route and no hash key needs a ClientHello",
        ),
        (
            route("client = [\"10.1.0.0/8\"]"),
            "11:11: bits behind the prefix are ignored: this is 10.0.0.0/8",
        ),
        (
            route("client = [\"10.0.0.0/8\"]").replace(
                "[[listener.m",
                "[listener.u]\nbind = \"unix:/u\"\npool = \"q\"\n[[listener.u",
            ),
            "13:1: this route can never match: clients of a Unix socket are in no network",
        ),
    ] {
        let text = routed(&lines);
        let told = warnings(&text);
        assert!(
            told.iter().any(|warning| warning == expected),
            "{text}\n{told:?}"
        );
    }
}

#[test]
fn a_pool_of_a_route_is_in_use_and_reads_for_its_hash() {
    let hashed = "preread_timeout = \"1s\"\npool = \"p\"\n[[listener.m.route]]\npool = \"h\"\nclient = [\"10.0.0.0/8\"]\n\
                  [pool.h]\nbackends = [\"1.1.1.1:2\"]\nfallback = \"q\"\n";
    let by_name = hashed.to_owned() + "balance = \"consistent-hash\"\nhash.key = \"sni\"\n";
    assert_eq!(warnings(&routed(&by_name)), Vec::<String>::new());
    assert_eq!(warnings(&routed(hashed)).len(), 1);
}

#[test]
fn a_default_that_one_pool_uses_is_no_warning() {
    let text = with_pool(
        "fallback = \"q\"\n[defaults.pool.health]\npath = \"/up\"\n[pool.q]\n\
         backends = [\"1.1.1.1:1\"]\nhealth.kind = \"http\"\n",
    );
    assert_eq!(warnings(&text), Vec::<String>::new());
}

#[test]
fn an_empty_file_is_valid_and_does_nothing() {
    assert_eq!(
        warnings(""),
        ["1:1: there is no [listener.NAME]: no connection can come in"]
    );
}

#[test]
fn a_warning_names_its_kind_behind_its_place() {
    let loaded = accept(&with_pool("health.path = \"/up\""));
    let shown = "f:6:15: warning: `path` has no effect with kind = \"tcp\"\n \
                 6 | health.path = \"/up\"\n   |               ^^^^^";
    assert_eq!(loaded.warnings[0].to_string(), shown);
}

#[test]
fn what_depends_on_a_fault_is_no_warning() {
    for lines in [
        "health = { kind = \"https\", path = \"/up\" }",
        "balance = \"hash\"\nhash.key = \"client-ip\"",
        "balance = \"hash\"\nlatency.of = \"connect\"",
        "[admin]\nbind = \"0.0.0.0:1\"\ntoken = \"a b\"",
        "[listener.m]\nbind = \"127.0.0.1:2\"\npol = \"p\"",
        "[listener.m]\nbind = [\"/a\"]\npool = \"p\"\nunix_mode = \"0600\"",
        "[pool.q]\nbackends = [\"x\"]",
    ] {
        let faults = read(&with_pool(lines)).expect_err(lines);
        assert_eq!(faults.warnings, [], "{lines}");
    }
}
