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
            "[log]\naccess = false\naccess_sample = 0.5",
            "8:17: `access_sample` has no effect with access = false",
        ),
    ] {
        assert_eq!(warnings(&with_pool(lines)), [expected], "{lines}");
    }
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
