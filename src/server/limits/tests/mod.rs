//! Each limit below what a file asks for, and none where the machine is as it comes.

mod descriptors;
mod ports;

use super::shortages::shortages;
use super::*;
use crate::config::KeyPath;

fn loaded(text: &str) -> Loaded {
    crate::config::parse(text, "lb.toml", &|_| None).expect("a configuration")
}

fn config(text: &str) -> Config {
    loaded(text).config
}

/// Debian 12 on a machine of two cores and 2 GiB: a service of systemd, not as root.
const STOCK: Machine = Machine {
    descriptors: 524_288,
    most_descriptors: Some(1_048_576),
    all_descriptors: Some(9_223_372_036_854_775_807),
    cores: 2,
    affinity: 2,
    accept_queue: Some(4096),
    half_open: None,
    ports: Some(28_232),
    pipe_size: Some(1_048_576),
    pipe_pages: Some(16_384),
    page_size: 4096,
    watches: Some(430_000),
    tracked: Some(16_384),
    is_here: |ip| !ip.to_string().starts_with("192.0.2."),
    exceeds_resources: false,
    exceeds_machine: false,
};

const FILE: &str = r#"
    [runtime]
    max_connections = 5000
    [listener.web]
    bind = "127.0.0.1:0"
    backlog = 300
    pool = "web"
    [pool.web]
    backends = ["127.0.0.1:1"]
"#;

/// A listener `web`, and what else there is to say.
fn web(listener: &str, rest: &str) -> String {
    format!("[listener.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n{listener}\n{rest}\n")
}

const ONE: &str = "[pool.web]\nbackends = [\"10.0.0.1:80\"]";

/// A listener `web` and a pool with these backends.
fn pool(listener: &str, backends: &str) -> String {
    web(listener, &format!("[pool.web]\nbackends = [{backends}]"))
}

fn told(config: &Config, machine: &Machine) -> Vec<(String, String)> {
    let found = shortages(config, machine).into_iter();
    found
        .map(|(key, message)| (key.to_string(), message))
        .collect()
}

/// Exactly one warning, of this key, with all of these in its words.
#[track_caller]
fn assert_one(text: &str, machine: &Machine, key: &str, words: &[&str]) {
    let told = told(&config(text), machine);
    let [(of, message)] = &*told else {
        panic!("not one warning for {text}: {told:?}");
    };
    assert_eq!(of, key, "{text}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[track_caller]
fn assert_none(text: &str, machine: &Machine) {
    assert_eq!(told(&config(text), machine), [], "{text}");
}

#[test]
fn nothing_is_said_of_a_stock_machine_and_the_files_that_come_with_isobar() {
    let five_lines = "[listener.postgres]\nbind = \"0.0.0.0:5432\"\npool = \"postgres\"\n\
                      [pool.postgres]\nbalance = \"least-connections\"\n\
                      backends = [\"10.0.0.11:5432\", \"10.0.0.12:5432\"]\n";
    let mut files = vec![five_lines.to_owned()];
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &std::path::Path| std::fs::read_to_string(path).expect("a file");
    files.push(read(&root.join("lb.toml")));
    for entry in std::fs::read_dir(root.join("examples")).expect("examples") {
        files.push(read(&entry.expect("an entry").path()));
    }
    assert!(files.len() > 4, "only {}", files.len());
    let many = Machine {
        cores: 128,
        affinity: 128,
        ..STOCK
    };
    let root = Machine {
        exceeds_resources: true,
        exceeds_machine: true,
        ..STOCK
    };
    let of_a_shell = Machine {
        descriptors: 20_000,
        ..STOCK
    };
    let silent = Machine {
        most_descriptors: None,
        all_descriptors: None,
        accept_queue: None,
        ports: None,
        pipe_size: None,
        pipe_pages: None,
        watches: None,
        tracked: None,
        ..STOCK
    };
    for text in &files {
        for machine in [STOCK, many, root, of_a_shell, silent] {
            assert_none(text, &machine);
        }
    }
}

#[test]
fn more_threads_than_cores_are_named_and_a_quota_is_one_that_can_be_raised() {
    let text = format!("[runtime]\nthreads = 8\n{}", web("", ONE));
    let words = ["runtime.threads = 8", "may use, 2:", "leave it out"];
    assert_one(&text, &STOCK, "runtime.threads", &words);
    let quota = Machine {
        affinity: 16,
        ..STOCK
    };
    assert_one(&text, &quota, "runtime.threads", &["CPUQuota=800%"]);
    let told = told(&config(&text), &STOCK);
    assert!(!told[0].1.contains("CPUQuota"), "{told:?}");
    assert_none(
        &text,
        &Machine {
            cores: 8,
            affinity: 8,
            ..STOCK
        },
    );
}

#[test]
fn an_accept_queue_that_the_kernel_cuts_is_named_and_the_default_of_the_kernel_is_none() {
    let machine = Machine {
        accept_queue: Some(128),
        ..STOCK
    };
    let words = [
        "listener.web.backlog = 300 is cut to 128 by the kernel;",
        "`sysctl -w net.core.somaxconn=300`",
    ];
    assert_one(FILE, &machine, "listener.web.backlog", &words);
    assert_none(
        FILE,
        &Machine {
            accept_queue: Some(300),
            ..STOCK
        },
    );
    assert_none(&web("", ONE), &STOCK);
    // The default, which nobody wrote, below that of the kernel.
    assert_one(
        &web("", ONE),
        &machine,
        "listener.web.backlog",
        &["= 4096 is cut to 128"],
    );
    // The longest of several, once.
    let two = web(
        "backlog = 500",
        "[listener.b]\nbind = \"127.0.0.1:0\"\npool = \"web\"",
    ) + ONE;
    let words = [
        "listener.b.backlog = 4096",
        "and so is that of another listener",
    ];
    assert_one(&two, &machine, "listener.b.backlog", &words);
}

#[test]
fn half_open_connections_are_limited_where_there_are_no_cookies() {
    let machine = Machine {
        half_open: Some(128),
        ..STOCK
    };
    let words = [
        "listener.web.backlog = 300",
        "tcp_syncookies=1",
        "tcp_max_syn_backlog=300",
    ];
    assert_one(FILE, &machine, "listener.web.backlog", &words);
    let unix = FILE.replace("127.0.0.1:0", "unix:/run/web");
    assert_none(&unix, &machine);
}

#[test]
fn pipes_that_are_too_small_are_named_unless_they_are_not_used_or_not_limited() {
    let with = |engine: &str| web("", &format!("{ONE}\nrelay = \"{engine}\""));
    let small = Machine {
        pipe_size: Some(65_536),
        pipe_pages: None,
        ..STOCK
    };
    let words = [
        "relay = \"auto\" asks for pipes of 1048576 bytes",
        "fs.pipe-max-size=1048576",
    ];
    assert_one(&web("", ONE), &small, "pool.web.relay", &words);
    assert_one(
        &with("splice"),
        &small,
        "pool.web.relay",
        &["relay = \"splice\""],
    );
    assert_none(&with("copy"), &small);
    let root = Machine {
        exceeds_resources: true,
        ..small
    };
    assert_none(&with("splice"), &root);
    let as_nobody = format!("[runtime]\nuser = \"nobody\"\n{}", with("splice"));
    assert_one(&as_nobody, &root, "pool.web.relay", &["1048576"]);
}

#[test]
fn pages_of_pipes_are_named_where_splice_asks_for_more_or_auto_has_next_to_none() {
    let splice = web("", &format!("{ONE}\nrelay = \"splice\""));
    let words = [
        "asks for 256 pipes, 65536 pages",
        "gives a user 16384",
        "pages-soft=65536",
    ];
    assert_one(&splice, &STOCK, "pool.web.relay", &words);
    let few = Machine {
        pipe_pages: Some(4095),
        ..STOCK
    };
    assert_one(
        &web("", ONE),
        &few,
        "pool.web.relay",
        &["16 pipes, 4096 pages"],
    );
    let large_pages = Machine {
        page_size: 65_536,
        pipe_pages: Some(4096),
        ..STOCK
    };
    assert_none(&splice, &large_pages);
    let root = Machine {
        exceeds_machine: true,
        ..STOCK
    };
    assert_none(&splice, &root);
    assert_none(
        &splice,
        &Machine {
            pipe_pages: None,
            ..STOCK
        },
    );
}

#[test]
fn sockets_to_watch_and_connections_to_track_are_two_each() {
    let machine = Machine {
        watches: Some(9999),
        ..STOCK
    };
    let words = [
        "runtime.max_connections = 5000",
        "10000 sockets",
        "max_user_watches=10000",
    ];
    assert_one(FILE, &machine, "runtime.max_connections", &words);
    let machine = Machine {
        tracked: Some(9999),
        ..STOCK
    };
    let words = ["5000 is 10000 connections", "nf_conntrack_max=10000"];
    assert_one(FILE, &machine, "runtime.max_connections", &words);
    assert_none(
        &web("", ONE),
        &Machine {
            watches: Some(1),
            ..machine
        },
    );
    let of_listener = web("max_connections = 8193", ONE);
    assert_one(
        &of_listener,
        &STOCK,
        "listener.web.max_connections",
        &["nf_conntrack_max=16386"],
    );
}

/// The place of a key that is written is told, and that of a default is the file.
#[test]
fn a_warning_stands_where_its_key_does() {
    let machine = Machine {
        accept_queue: Some(128),
        pipe_size: Some(4096),
        ..STOCK
    };
    let text = "[runtime]\nthreads = 3\n[listener.web]\nbind = \"127.0.0.1:0\"\nbacklog = 300\n\
                pool = \"web\"\n[pool.web]\nbackends = [{ address = \"10.0.0.1:80\", \
                max_connections = 30000 }]\n";
    let loaded = loaded(text);
    let places = |loaded: &Loaded| -> Vec<_> {
        let warnings = warnings_on(&machine, loaded).into_iter();
        warnings
            .map(|warning| (warning.line, warning.column))
            .collect()
    };
    assert_eq!(places(&loaded), [(2, 11), (5, 11), (8, 58), (0, 0)]);
    let first = warnings_on(&machine, &loaded).remove(0);
    let first = first.to_string();
    assert!(
        first.starts_with("lb.toml:2:11: warning: runtime.threads = 3"),
        "{first}"
    );
    let key = KeyPath::BackendMaxConnections("web", 0).to_string();
    assert_eq!(key, "pool.web.backends[0].max_connections");
}
