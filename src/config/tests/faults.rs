//! Each fault, said once, at its place.

use super::*;

#[test]
fn each_fault_is_told_at_its_place() {
    let in_pool: &[(&str, &str)] = &[
        (
            "blance = \"first\"",
            "6:1: unknown key `blance` in [pool.p], did you mean `balance`?",
        ),
        (
            "balance = \"frist\"",
            "6:11: `balance` cannot be \"frist\": expected one of \"round-robin\", \"least-connections\", \"consistent-hash\", \"random-two\", \"least-latency\" or \"first\", did you mean \"first\"?",
        ),
        (
            "balance = 1",
            "6:11: `balance` must be one of \"round-robin\", \"least-connections\", \"consistent-hash\", \"random-two\", \"least-latency\" or \"first\", not 1",
        ),
        (
            "idle_timeout = 30",
            "6:16: `idle_timeout` must be a duration such as \"1m30s\", not 30, did you mean \"30s\"?",
        ),
        (
            "idle_timeout = \"30\"",
            "6:16: `idle_timeout` cannot be \"30\": a unit is missing, did you mean \"30s\"?",
        ),
        (
            "keepalive = \"500ms\"",
            "6:13: `keepalive` cannot be \"500ms\": whole seconds only",
        ),
        (
            "keepalive = \"1s500ms\"",
            "6:13: `keepalive` cannot be \"1s500ms\": whole seconds only",
        ),
        (
            "keepalive = \"10h\"",
            "6:13: `keepalive` cannot be \"10h\": it must be from 1s to 9h6m7s",
        ),
        (
            "idle_timeout = \" 5s\"",
            "6:16: `idle_timeout` cannot be \" 5s\": expected a duration such as \"500ms\", \"30s\", \"1m30s\" or \"1h\"",
        ),
        (
            "connect_attempts = 0",
            "6:20: `connect_attempts` must be a whole number from 1 to 1000, not 0",
        ),
        (
            "connect_attempts = -1",
            "6:20: `connect_attempts` must be a whole number from 1 to 1000, not -1",
        ),
        (
            "max_connecting = 9223372036854775808",
            "6:18: `max_connecting` must be a whole number from 0 to 4294967295, not 9223372036854775808",
        ),
        (
            "max_connecting = \"5\"",
            "6:18: `max_connecting` must be a whole number from 0 to 4294967295, not \"5\", did you mean 5?",
        ),
        ("fallback = \"pp\"", "6:12: there is no pool `pp`"),
        (
            "fallback = \"p\"",
            "6:12: `fallback` goes round in a circle: p → p",
        ),
        (
            "health = \"tcp\"",
            "6:10: `health` must be a table, [pool.NAME.health], not \"tcp\"",
        ),
        (
            "[[pool.p.health]]\nkind = \"tcp\"",
            "6:1: `health` must be a table, [pool.NAME.health], not a list, did you mean [pool.NAME.health] for [[pool.NAME.health]]?",
        ),
        (
            "health.interval = \"0s\"",
            "6:19: `interval` cannot be \"0s\": 0s makes no sense here",
        ),
        (
            "health.timeout = \"0ms\"",
            "6:18: `timeout` cannot be \"0ms\": 0s makes no sense here",
        ),
        (
            "health.rise = 0",
            "6:15: `rise` must be a whole number from 1 to 1000, not 0",
        ),
        (
            "health.port = 65536",
            "6:15: `port` must be a whole number from 0 to 65535, not 65536",
        ),
        (
            "health.path = \"up\"",
            "6:15: `path` cannot be \"up\": a path begins with `/`, did you mean \"/up\"?",
        ),
        (
            "health.expect_status = \"2xx\"",
            "6:24: `expect_status` cannot be \"2xx\": expected status codes and ranges from 100 to 599, such as \"200,204,300-399\"",
        ),
        (
            "health.send = \"hex:0\"",
            "6:15: `send`: behind `hex:` stands an even number of hexadecimal digits",
        ),
        (
            "health.interval = 1979-05-27",
            "6:19: `interval` must be a duration such as \"1m30s\", not a date",
        ),
        (
            "on_backend_down = \"rest\"",
            "6:19: `on_backend_down` cannot be \"rest\": expected \"keep\" or \"reset\", or a table such as { after = \"30s\", rate = \"50/s\" }, did you mean \"reset\"?",
        ),
        (
            "source_address = \"10.0.0.5\"",
            "6:18: `source_address` must be a list of strings: IP addresses of this machine, not \"10.0.0.5\", did you mean [\"10.0.0.5\"]?",
        ),
        (
            "source_address = [\"10.0.0.5:80\"]",
            "6:19: `source_address` cannot be \"10.0.0.5:80\": expected an IP address of this machine such as \"10.0.0.5\", did you mean \"10.0.0.5\"?",
        ),
        (
            "on_backend_down = true",
            "6:19: `on_backend_down` must be \"keep\" or \"reset\", or a table such as { after = \"30s\", rate = \"50/s\" }, not true",
        ),
        (
            "on_backend_down = { after = \"30s\" }",
            "6:19: `on_backend_down` needs `rate` beside it",
        ),
        (
            "on_backend_down = { after = \"0s\", rate = \"50/s\" }",
            "6:29: `after` cannot be \"0s\": 0s makes no sense here",
        ),
        (
            "on_backend_down = { after = \"1s\", rate = \"0/s\" }",
            "6:42: `rate` cannot be \"0/s\": expected a rate such as 5/s, 600/m or 1000/h, at least 1",
        ),
        (
            "on_backend_down = { aftr = \"1s\", rate = \"5/s\" }",
            "6:21: unknown key `aftr` in [pool.p.on_backend_down], did you mean `after`?",
        ),
        (
            "hash.key = \"snj\"",
            "6:12: `key` cannot be \"snj\": expected one of \"client-ip\", \"client-ip-port\", \"sni\" or \"destination-ip-port\", did you mean \"sni\"?",
        ),
        (
            "hash.max_load = 0.5",
            "6:17: `max_load` must be 0.0, or a number from 1.0 to 1000.0, not 0.5",
        ),
        (
            "tls = true",
            "6:1: `tls` in [pool.p]: TLS termination is out of scope: isobar passes TLS through untouched",
        ),
        (
            "idle_timeout = \"${NO}s\"",
            "6:17: the environment variable `NO` is not set",
        ),
        (
            "idle_timeout = \"${SLOW}\"",
            "6:16: `idle_timeout` cannot be \"${SLOW}\": expected a duration such as \"500ms\", \"30s\", \"1m30s\" or \"1h\"",
        ),
        (
            "[pool.\"a b\"]\nbackends = []",
            "6:7: \"a b\" is no name: a name has 1 to 64 characters out of A-Z, a-z, 0-9, `_`, `.` and `-`",
        ),
        (
            "[pool.q.r]\n",
            "6:9: unknown key `r` in [pool.q]; a name with a dot is quoted: [pool.\"q.r\"]",
        ),
        (
            "[poll.q]",
            "6:2: unknown key `poll` at the top level, did you mean `pool`?",
        ),
        (
            "[defaults.pool]\nbackends = []",
            "7:12: `backends` has no default: each pool has its own",
        ),
        (
            "[runtime]\nthreads = 2000",
            "7:11: `threads` must be a whole number from 0 to 1024, not 2000",
        ),
        (
            "[log]\naccess_sample = 1.5",
            "7:17: `access_sample` must be a number from 0.0 to 1.0, not 1.5",
        ),
        (
            "[log]\naccess = \"true\"",
            "7:10: `access` must be true or false, not \"true\", did you mean true?",
        ),
        (
            "[admin]\ntoken = \"a b\"",
            "7:9: `token`: a token has printable ASCII characters only, no space, no line end",
        ),
        (
            "[admin]\nhosts = \"lb\"",
            "7:9: `hosts` must be a list of strings: host names, not \"lb\", did you mean [\"lb\"]?",
        ),
        (
            "[admin]\nbind = \"127.0.0.1:1\"",
            "7:8: 127.0.0.1:1 cannot be bound: listener `l` has 127.0.0.1:1 already, in line 2",
        ),
    ];
    for (lines, expected) in in_pool {
        assert_eq!(faults(&with_pool(lines)), [*expected], "{lines}");
    }
}

#[test]
fn each_fault_of_a_listener_is_told_at_its_place() {
    for (lines, expected) in [
        (
            "",
            "3:11: listener `l` needs `bind`, the address it listens on",
        ),
        ("bind = []", "5:8: `bind` must name at least one"),
        (
            "bind = 80",
            "5:8: `bind` must be an address such as \"0.0.0.0:8080\", \"[::]:8080\" or \"unix:/path\", or a list of them, not 80",
        ),
        (
            "bind = [\"127.0.0.1:1\", 2]",
            "5:24: `bind` takes strings, not 2",
        ),
        (
            "bind = \"localhost:80\"",
            "5:8: `bind` cannot be \"localhost:80\": an address to listen on is written in numbers, did you mean \"127.0.0.1:80\"?",
        ),
        (
            "bind = \"udp://0.0.0.0:53\"",
            "5:8: `bind` cannot be \"udp://0.0.0.0:53\": UDP is out of scope: isobar balances TCP",
        ),
        (
            "bind = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
            "5:24: 127.0.0.1:1 cannot be bound: listener `l` has 127.0.0.1:1 already, in line 5",
        ),
        (
            "bind = \"0.0.0.0:9900\"",
            "5:8: 0.0.0.0:9900 cannot be bound: the admin endpoint has 127.0.0.1:9900 already, by default",
        ),
        (
            "bind = \"127.0.0.1:1\"\nbacklog = 0",
            "6:11: `backlog` must be a whole number from 1 to 2147483647, not 0",
        ),
        (
            "bind = \"unix:/a\"\nunix_mode = 0o600",
            "6:13: `unix_mode` must be a file mode such as \"0660\", not 0o600, did you mean \"0o600\"?",
        ),
        (
            "bind = \"unix:/a\"\nunix_mode = \"0999\"",
            "6:13: `unix_mode` cannot be \"0999\": expected an octal file mode from \"0000\" to \"0777\"",
        ),
        (
            "bind = \"127.0.0.1:1\"\nproxy_protocol = \"required\"",
            "6:18: `proxy_protocol = \"required\"` needs `trusted_proxies`, as whoever may send a PROXY header may claim any address: list the proxies in front of this listener, such as [\"10.0.0.0/8\"], or [\"unix\"] where all clients come by a Unix socket",
        ),
        (
            "bind = \"127.0.0.1:1\"\ntrusted_proxies = []\nproxy_protocol = \"optional\"",
            "7:18: `proxy_protocol = \"optional\"` needs `trusted_proxies`, as whoever may send a PROXY header may claim any address: list the proxies in front of this listener, such as [\"10.0.0.0/8\"], or [\"unix\"] where all clients come by a Unix socket",
        ),
        (
            "bind = \"127.0.0.1:1\"\nproxy_protocol = \"on\"",
            "6:18: `proxy_protocol` cannot be \"on\": expected one of \"off\", \"required\" or \"optional\"",
        ),
        (
            "bind = \"127.0.0.1:1\"\nproxy_protocol = \"required\"\ntrusted_proxies = [\"10.0.0.0/33\"]",
            "7:20: `trusted_proxies` cannot be \"10.0.0.0/33\": a prefix of IPv4 has at most 32 bits",
        ),
        (
            "bind = \"127.0.0.1:1\"\nudp = true",
            "6:1: `udp` in [listener.l]: UDP is out of scope: isobar balances TCP",
        ),
        (
            "bind = \"127.0.0.1:1\"\nallow = [\"10.0.0.0/8\", \"10.0.0.0/33\"]",
            "6:24: `allow` cannot be \"10.0.0.0/33\": a prefix of IPv4 has at most 32 bits",
        ),
        (
            "bind = \"127.0.0.1:1\"\nallow = \"10.0.0.0/8\"",
            "6:9: `allow` must be a list of strings: CIDRs such as \"10.0.0.0/8\", and \"unix\", not \"10.0.0.0/8\", did you mean [\"10.0.0.0/8\"]?",
        ),
        (
            "bind = \"127.0.0.1:1\"\nallow = [\"192.168.*\"]",
            "6:10: `allow` cannot be \"192.168.*\": expected a CIDR such as 10.0.0.0/8 or fd00::/8, or an address, did you mean \"192.168.0.0/16\"?",
        ),
        (
            "bind = \"127.0.0.1:1\"\ndeny = [\"unix\"]",
            "6:9: `deny` cannot be \"unix\": Unix clients match no entry of `deny`: an `allow` without \"unix\" keeps them out",
        ),
        (
            "bind = \"127.0.0.1:1\"\nrate = \"0/s\"",
            "6:8: `rate` cannot be \"0/s\": expected a rate such as 5/s, 600/m or 1000/h, at least 1",
        ),
        (
            "bind = \"127.0.0.1:1\"\nrate_per_ip = 50",
            "6:15: `rate_per_ip` must be a rate such as \"50/s\", \"600/m\" or \"1000/h\", or \"\", not 50",
        ),
        (
            "bind = \"127.0.0.1:1\"\nmax_connections_per_ip = -1",
            "6:26: `max_connections_per_ip` must be a whole number from 0 to 4294967295, not -1",
        ),
        (
            "bind = \"127.0.0.1:1\"\n[[listener.l.route]]\npool = \"no\"",
            "7:8: there is no pool `no`",
        ),
        (
            "bind = \"127.0.0.1:1\"\nroute = [{ sni = [\"a\"] }]",
            "6:10: a route needs a `pool` that its connections go to",
        ),
        (
            "bind = \"127.0.0.1:1\"\nroute = [{ pool = \"\" }]",
            "6:19: a route needs a `pool` that its connections go to",
        ),
        (
            "bind = \"127.0.0.1:1\"\nroute = [\"p\"]",
            "6:10: `route` takes tables, not \"p\"",
        ),
        (
            "bind = \"127.0.0.1:1\"\n[listener.l.route]\npool = \"p\"",
            "6:1: `route` must be a list of tables, [[listener.NAME.route]], not a table, did you mean [[listener.NAME.route]] for [listener.NAME.route]?",
        ),
        (
            "bind = \"127.0.0.1:1\"\nroute = [{ pool = \"p\", snl = [] }]",
            "6:24: unknown key `snl` in [listener.l.route], did you mean `sni`?",
        ),
        (
            "bind = \"127.0.0.1:1\"\nroute = [{ pool = \"p\", sni = [\"a\", \"10.0.0.1\"] }]",
            "6:36: `sni` cannot be \"10.0.0.1\": an IP address is never asked for by name: list clients in `client`, or bind another listener",
        ),
        (
            "bind = \"127.0.0.1:1\"\nroute = [{ pool = \"p\", sni = [\"*a.b\"] }]",
            "6:31: `sni` cannot be \"*a.b\": `*` stands for whole labels at the beginning, as in \"*.example.com\"",
        ),
        (
            "bind = \"127.0.0.1:1\"\nroute = [{ pool = \"p\", sni = \"a\" }]",
            "6:30: `sni` must be a list of strings: names such as \"db.example.com\", or \"*.example.com\", not \"a\", did you mean [\"a\"]?",
        ),
        (
            "bind = \"127.0.0.1:1\"\nroute = [{ pool = \"p\", alpn = [\"\"] }]",
            "6:32: `alpn` cannot be \"\": a protocol's name has 1 to 255 bytes",
        ),
        (
            "bind = \"127.0.0.1:1\"\nroute = [{ pool = \"p\", client = [\"10.0.0.0/33\"] }]",
            "6:34: `client` cannot be \"10.0.0.0/33\": a prefix of IPv4 has at most 32 bits",
        ),
        (
            "bind = \"127.0.0.1:1\"\n[listener.m]\nbind = \"0.0.0.0:1\"\npool = \"p\"",
            "7:8: 0.0.0.0:1 cannot be bound: listener `l` has 127.0.0.1:1 already, in line 5",
        ),
    ] {
        assert_eq!(faults(&with_listener(lines)), [expected], "{lines}");
    }
}

#[test]
fn each_fault_of_a_backend_is_told_at_its_place() {
    for (entry, expected) in [
        (
            "\"10.0.0.1\"",
            "5:13: `backends` cannot be \"10.0.0.1\": expected IP:PORT, [IP6]:PORT or unix:PATH, did you mean \"10.0.0.1:80\"?",
        ),
        (
            "\"app.internal\"",
            "5:13: `backends` cannot be \"app.internal\": a backend needs a port, did you mean \"app.internal:80\"?",
        ),
        (
            "{ address = \"srv:_pg._tcp.example.com:5432\" }",
            "5:25: `address` cannot be \"srv:_pg._tcp.example.com:5432\": a service has no port here: its SRV records give one, did you mean \"srv:_pg._tcp.example.com\"?",
        ),
        ("7", "5:13: `backends` takes addresses and tables, not 7"),
        ("{ name = \"b\" }", "5:13: a backend needs an `address`"),
        (
            "{ address = \"1.1.1.1:1\", weight = 1001 }",
            "5:47: `weight` must be a whole number from 0 to 1000, not 1001",
        ),
        (
            "{ address = \"1.1.1.1:1\", wieght = 1 }",
            "5:38: unknown key `wieght` in [pool.p.backends], did you mean `weight`?",
        ),
        (
            "{ address = \"1.1.1.1:1\", name = \"a/b\" }",
            "5:45: `name` cannot be \"a/b\": a name has 1 to 64 characters out of A-Z, a-z, 0-9, `_`, `.` and `-`",
        ),
        (
            "\"1.1.1.1:1\", \"1.1.1.1:1\"",
            "5:26: pool `p` has a backend named `1.1.1.1:1` already, in line 5",
        ),
        (
            "{ name = \"b\", address = \"1.1.1.1:1\" }, { name = \"b\", address = \"1.1.1.1:2\" }",
            "5:61: pool `p` has a backend named `b` already, in line 5",
        ),
    ] {
        let text = with_pool("").replace("[\"10.0.0.1:1\"]", &format!("[{entry}]"));
        assert_eq!(faults(&text), [expected], "{entry}");
    }
    let text = with_pool("").replace("[\"10.0.0.1:1\"]", "\"10.0.0.1:1\"");
    let expected = "5:12: `backends` must be a list of addresses and tables, not \"10.0.0.1:1\", did you mean [\"10.0.0.1:1\"]?";
    assert_eq!(faults(&text), [expected]);
}

#[test]
fn all_faults_of_a_file_are_reported_in_one_go_in_its_order() {
    let text = "[runtime]\nthreds = 4\n\n[listener.web]\nbind = \"0.0.0.0:80\"\npool = \"wbe\"\n\
                colour\n\n[listener.api\nbind = \"127.0.0.1:80\"\npool = \"web\"\n\n\
                [pool.web]\nbalance = frist\nbackends = [\"10.0.0.1:80\", \"10.0.0.1:80\"\n\
                idle_timeout = \"5min\"\n[pool.web]\nrelay = \"warp\"\n";
    assert_eq!(
        faults(text),
        [
            "2:1: unknown key `threds` in [runtime], did you mean `threads`?",
            "6:8: there is no pool `wbe`, did you mean `web`?",
            "7:7: a key needs `=` and a value",
            "9:14: the header of this table is not closed: `]` is missing",
            "10:8: 127.0.0.1:80 cannot be bound: listener `web` has 0.0.0.0:80 already, in line 5",
            "14:11: text is written in quotes: \"frist\"",
            "15:12: this is never closed: `]` is missing",
            "15:28: pool `web` has a backend named `10.0.0.1:80` already, in line 15",
            "16:16: `idle_timeout` cannot be \"5min\": the unit is written `m`, did you mean \"5m\"?",
            "17:7: `web` is here twice: [pool.web] begins in line 13 already",
            "18:9: `relay` cannot be \"warp\": expected one of \"auto\", \"copy\" or \"splice\"",
        ]
    );
}

#[test]
fn a_misspelt_key_is_one_fault_and_not_missing_as_well() {
    let text = "[listener.l]\nbnid = \"127.0.0.1:1\"\npool = \"p\"\n\
                [pools.p]\nbackend = [{ adress = \"x\" }]\n";
    assert_eq!(
        faults(text),
        [
            "2:1: unknown key `bnid` in [listener.l], did you mean `bind`?",
            "4:2: unknown key `pools` at the top level, did you mean `pool`?",
        ]
    );
    let text = with_pool("fallback = \"q\"\n[pool.q]\nbackend = [\"10.0.0.1:1\"]\n");
    let problems = read(&text).expect_err("a fault");
    assert_eq!(
        problems.problems.len() + problems.warnings.len(),
        1,
        "{problems}"
    );
}

#[test]
fn a_value_that_does_not_parse_hides_no_other_fault_of_its_line() {
    let text = with_pool("health = { kind = \"https\", interval = 2s, pth = \"/\" }");
    assert_eq!(
        faults(&text),
        [
            "6:19: `kind` cannot be \"https\": expected one of \"tcp\", \"tls\", \"http\", \"exchange\" or \"none\", did you mean \"http\"?",
            "6:39: text is written in quotes: \"2s\"",
            "6:43: unknown key `pth` in [pool.p.health], did you mean `path`?",
        ]
    );
}

#[test]
fn a_fault_of_the_defaults_is_reported_once() {
    let text =
        with_pool("[defaults.pool]\nidle_timeout = 5\nfallback = \"x\"\n[pool.q]\n[pool.r]\n");
    assert_eq!(
        faults(&text),
        [
            "7:16: `idle_timeout` must be a duration such as \"1m30s\", not 5, did you mean \"5s\"?",
            "8:12: there is no pool `x`",
        ]
    );
}

#[test]
fn a_fallback_cycle_is_one_fault_at_its_first_pool() {
    let pool = |name: &str, to: &str| format!("[pool.{name}]\nfallback = \"{to}\"\n");
    let text = pool("a", "b") + &pool("b", "c") + &pool("c", "b") + &pool("d", "b");
    assert_eq!(
        faults(&text),
        ["4:12: `fallback` goes round in a circle: b → c → b"]
    );
}

#[test]
fn line_ends_and_marks_of_other_systems_change_no_place() {
    let text = "\u{feff}[runtime]\r\nthreads = \"4\"\r\n";
    assert_eq!(
        faults(text),
        ["2:11: `threads` must be a whole number from 0 to 1024, not \"4\", did you mean 4?"]
    );
    assert!(read("\u{feff}[runtime]\r\nthreads = 4").is_ok());
}

#[test]
fn problems_are_json_for_scripts() {
    let faults = read("a = 1").expect_err("an unknown key");
    let json = serde_json::to_string(&faults.problems).expect("JSON");
    assert_eq!(
        json,
        r#"[{"file":"f","line":1,"column":1,"message":"unknown key `a` at the top level"}]"#
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_line_that_names_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let fault = |name: &str| load(&dir.path().join(name)).expect_err(name).to_string();
    assert!(fault("no.toml").ends_with("no.toml: there is no such file"));
    assert!(fault("").ends_with(": this is a directory, not a file"));
    std::fs::write(dir.path().join("bad"), b"a = \"\xff\"").expect("written");
    let bad = fault("bad");
    assert!(
        bad.contains("bad:1:6: the file is not UTF-8: byte 0xff\n"),
        "{bad}"
    );
}

#[test]
fn what_the_environment_holds_is_told_as_it_is_written() {
    for lines in [
        "fallback = \"${TOKEN}\"",
        "[pool.q]\nbackends = [\"${HOST}:80\", \"${HOST}:80\"]",
        "[pool.q]\nbackends = [{ name = \"${TOKEN}\", address = \"1.1.1.1:1\" }, { name = \"${TOKEN}\", address = \"1.1.1.1:3\" }]",
        "[listener.m]\npool = \"p\"\nbind = [\"${HOST}:80\", \"${HOST}:80\"]",
        "[listener.m]\npool = \"p\"\nbind = [\"${HOST}:80\", \"0.0.0.0:80\"]",
        "health.path = \"${HOST}\"",
        "health.expect_status = \"${HOST}\"",
        "[admin]\nhosts = [\"${HOST}:9\"]",
        "[listener.m]\npool = \"p\"\nbind = \"${HOST}\"",
        "idle_timeout = \"${SLOW}\"",
    ] {
        let found = faults(&with_pool(lines)).join("\n");
        assert!(found.contains("${"), "{lines}: {found}");
        for value in ["s3cret` already", "pool `s3cret`", "10.0.0.1", "soon"] {
            assert!(!found.contains(value), "{lines}: {found}");
        }
    }
    let text = "fallback = \"q\"\n[pool.q]\nbackends = [\"${SOCKET}\"]\nhealth.port = 1";
    let env = |_: &str| Some("unix:/secret".to_owned());
    let loaded = parse(&with_pool(text), "f", &env).expect("a warning alone");
    assert_eq!(
        line(&loaded.warnings[0]),
        "9:15: `port` has no effect on backend `${SOCKET}`, a Unix socket"
    );
}

#[test]
fn a_line_or_a_name_that_is_wrong_has_no_faults_in_its_train() {
    assert_eq!(
        faults("[runtime]\nuser = = 5\n"),
        ["2:8: there is one `=` too many"]
    );
    let text = with_pool(
        "[pool.\"x y\"]\nbackends = []\n[listener.k]\nbind = \"127.0.0.1:2\"\npool = \"xy\"\n",
    );
    let refused = read(&text).expect_err("two faults");
    assert_eq!(refused.warnings, []);
    assert_eq!(line(&refused.problems[1]), "10:8: there is no pool `xy`");
}
