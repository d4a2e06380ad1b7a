//! The whole way from a text to a configuration or its faults.

use std::time::Duration;

use super::keys::Kind;
use super::schema::default_of;
use super::tables::all_tables;
use super::value::Value;
use super::*;

mod faults;
mod on_backend_down;
pub(super) mod properties;
mod warnings;

fn env(name: &str) -> Option<String> {
    match name {
        "HOST" => Some("10.0.0.1".to_owned()),
        "TOKEN" => Some("s3cret".to_owned()),
        "SLOW" => Some("soon".to_owned()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Loaded, Faults> {
    parse(text, "f", &env)
}

fn accept(text: &str) -> Loaded {
    read(text).unwrap_or_else(|faults| panic!("{text}\n{faults}"))
}

fn line(problem: &Problem) -> String {
    format!("{}:{}: {}", problem.line, problem.column, problem.message)
}

fn faults(text: &str) -> Vec<String> {
    let faults = read(text).expect_err(text);
    faults.problems.iter().map(line).collect()
}

fn warnings(text: &str) -> Vec<String> {
    accept(text).warnings.iter().map(line).collect()
}

/// A listener and a pool around the lines under test.
fn with_pool(lines: &str) -> String {
    format!(
        "[listener.l]\nbind = \"127.0.0.1:1\"\npool = \"p\"\n[pool.p]\nbackends = [\"10.0.0.1:1\"]\n{lines}"
    )
}

fn with_listener(lines: &str) -> String {
    format!("[pool.p]\nbackends = [\"10.0.0.1:1\"]\n[listener.l]\npool = \"p\"\n{lines}")
}

#[test]
fn the_five_line_case_gets_every_default() {
    let loaded = accept(
        "[listener.postgres]\nbind = \"0.0.0.0:5432\"\npool = \"postgres\"\n\n\
         [pool.postgres]\nbalance = \"least-connections\"\n\
         backends = [\"10.0.0.11:5432\", \"10.0.0.12:5432\"]\n",
    );
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.runtime.drain_timeout, Duration::from_secs(25));
    assert_eq!(
        config.admin.bind,
        Some("127.0.0.1:9900".parse().expect("an address"))
    );
    assert_eq!(
        (config.log.level, config.log.access_sample),
        (Level::Info, 1.0)
    );
    assert_eq!(
        (config.listeners[0].backlog, config.listeners[0].unix_mode),
        (4096, 0o666)
    );
    let pool = config.pool("postgres").expect("the pool");
    assert_eq!(pool.balance, Balance::LeastConnections);
    assert_eq!(&*pool.backends[1].name, "10.0.0.12:5432");
    assert_eq!((pool.backends[0].weight, pool.connect_attempts), (1, 3));
    assert_eq!(pool.idle_timeout, Duration::from_secs(3600));
    assert_eq!(pool.health.kind, HealthKind::Tcp);
    assert_eq!(pool.health.fast_interval, Duration::from_millis(250));
    assert_eq!(
        (pool.hold.max, pool.hold.timeout),
        (1024, Duration::from_secs(10))
    );
}

#[test]
fn a_pools_own_key_wins_over_the_defaults_key_by_key() {
    let text = "[pool.own]\nidle_timeout = \"0s\"\nhealth.rise = 7\nhold.max = 0\n[pool.heir]\n\
                [defaults.pool]\nidle_timeout = \"9s\"\nhalf_close_timeout = \"8s\"\n\
                [defaults.pool.health]\nrise = 4\nfall = 5\n";
    let config = accept(text).config;
    let (own, heir) = (&config.pools[0], &config.pools[1]);
    assert_eq!((&*own.name, &*heir.name), ("own", "heir"));
    assert_eq!(
        (own.idle_timeout, heir.idle_timeout),
        (Duration::ZERO, Duration::from_secs(9))
    );
    assert_eq!(own.half_close_timeout, Duration::from_secs(8));
    assert_eq!((own.health.rise.get(), own.health.fall.get()), (7, 5));
    assert_eq!((heir.health.rise.get(), heir.health.fall.get()), (4, 5));
    assert_eq!((own.hold.max, heir.hold.max), (0, 1024));
}

#[test]
fn tables_may_come_in_any_order_and_keep_that_of_their_names() {
    let text = "[pool.b.health]\nrise = 5\n[defaults.pool]\nrelay = \"copy\"\n[pool.a]\n[pool.b]\n";
    let config = accept(text).config;
    let names: Vec<_> = config.pools.iter().map(|pool| &*pool.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(config.pools[1].health.rise.get(), 5);
    assert!(
        config
            .pools
            .iter()
            .all(|pool| pool.relay == RelayEngine::Copy)
    );
}

#[test]
fn the_environment_fills_in_strings_and_is_never_shown() {
    let loaded = accept(&with_pool(
        "fallback = \"q\"\n[pool.q]\nbackends = [\"${HOST}:80\", { name = \"x\", address = \"10.0.0.2:1\" }]\n\
         health = { kind = \"exchange\", send = \"AUTH me$$\", expect = \"+OK\" }\n\
         [admin]\ntoken = \"${TOKEN}\"\n",
    ));
    assert_eq!(loaded.config.admin.token, "s3cret");
    assert_eq!(&*loaded.config.pools[1].backends[0].name, "10.0.0.1:80");
    let shown = loaded.render();
    for secret in ["s3cret", "10.0.0.1:80", "AUTH"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    for line in [
        "\n# token = \"…\"\n",
        "  # { address = \"…\", weight",
        "\n# send = \"…\"\n",
        "expect = \"+OK\"",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    accept(&shown);
    let debug = format!("{:?}", loaded.config);
    assert!(
        !debug.contains("s3cret") && !debug.contains("AUTH"),
        "{debug}"
    );
}

#[test]
fn a_default_from_the_environment_is_hidden_in_each_pool_that_has_it() {
    let text = with_pool("[defaults.pool.health]\nkind = \"http\"\nhost = \"${HOST}\"\n");
    let shown = accept(&text).render();
    assert!(
        shown.contains("host = \"…\"") && !shown.contains("host = \"10"),
        "{shown}"
    );
}

#[test]
fn what_is_shown_brings_no_warnings_of_its_own() {
    let shown = accept(&with_pool("")).render();
    assert_eq!(warnings(&shown), Vec::<String>::new(), "{shown}");
}

#[test]
fn every_key_is_shown_where_it_has_an_effect() {
    let pool = |kind: &str| format!("balance = \"{kind}\"\n");
    let text = |balance: &str, kind: &str| {
        let bind = "[listener.u]\nbind = \"unix:/a\"\npool = \"p\"\n\
                    proxy_protocol = \"optional\"\ntrusted_proxies = [\"unix\"]\n\
                    route = [{ sni = [\"a\"], pool = \"p\" }]\n[runtime]\nwatch = true\n";
        with_pool(&format!(
            "{}health = {{ kind = \"{kind}\", tls = true }}\n\
             on_backend_down = {{ after = \"1s\", rate = \"1/s\" }}\n{bind}",
            pool(balance)
        ))
        .replace("[\"10.0.0.1:1\"]", "[\"10.0.0.1:1\", \"app.internal:80\"]")
    };
    let shown = accept(&text("consistent-hash", "http")).render()
        + &accept(&text("least-latency", "exchange")).render();
    for table in all_tables()
        .iter()
        .filter(|table| table.header != "defaults")
    {
        for key in table.keys {
            let hidden = matches!(key.kind, Kind::Table(_) | Kind::Tables(_));
            let written = shown.contains(&format!("{} = ", key.name));
            let name = key.name == "name" || hidden;
            assert!(
                written || name,
                "{} of {} in {shown}",
                key.name,
                table.header
            );
        }
    }
}

/// Of Unix clients whom headers name, and of a listener where a pool alone reads hellos.
#[test]
fn settings_that_have_an_effect_by_others_are_shown() {
    let shown = |listener: &str, other: &str| {
        let text = format!(
            "[listener.l]\npool = \"p\"\n{listener}\n\
             [pool.p]\nbackends = [\"10.0.0.1:1\"]\nfallback = \"q\"\n\
             [pool.q]\nbackends = [\"10.0.0.2:1\"]\n{other}\n"
        );
        accept(&text).render()
    };
    let unix = "bind = \"unix:/u\"\n";
    let headers = "proxy_protocol = \"required\"\ntrusted_proxies = [\"unix\"]\n";
    let (named, nameless) = (shown(&format!("{unix}{headers}"), ""), shown(unix, ""));
    for key in ["deny = ", "max_connections_per_ip = ", "rate_per_ip = "] {
        assert!(named.contains(key), "{key} in {named}");
        assert!(!nameless.contains(key), "{key} in {nameless}");
    }
    let hashed = |key: &str| {
        let hash = format!("balance = \"consistent-hash\"\nhash.key = \"{key}\"");
        shown("bind = \"127.0.0.1:1\"", &hash).contains("preread_timeout = ")
    };
    assert!(hashed("sni") && !hashed("client-ip"));
}

#[test]
fn the_files_of_this_repository_have_no_fault_and_no_warning() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let examples = std::fs::read_dir(root.join("examples")).expect("the examples");
    let mut files: Vec<_> = examples
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    assert!(files.len() >= 4, "{files:?}");
    files.push(root.join("lb.toml"));
    for file in files {
        let loaded = load(&file).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(loaded.warnings, [], "{}", file.display());
        assert!(!loaded.config.listeners.is_empty());
    }
}
#[test]
fn every_default_is_a_value_that_its_key_takes() {
    for table in all_tables() {
        for key in table.keys.iter().filter(|key| !key.default.is_empty()) {
            let faulty = matches!(default_of(key), Value::Faulty);
            assert!(!faulty, "{}.{}", table.header, key.name);
        }
    }
}

#[test]
fn a_key_stands_once_in_its_table_and_says_what_it_does() {
    for table in all_tables() {
        for (index, key) in table.keys.iter().enumerate() {
            let again = table.keys[..index]
                .iter()
                .any(|other| other.name == key.name);
            assert!(!again, "{}.{} stands twice", table.header, key.name);
            let silent = key.doc.is_empty();
            assert!(!silent, "{}.{} is not documented", table.header, key.name);
        }
    }
}
