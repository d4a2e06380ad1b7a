//! Properties of the whole: what is rendered reads back, and no input brings the reader down.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::choices::Choice;
use super::super::hidden::Hidden;
use super::super::units::MAX_DURATION;
use super::super::*;

fn choice<T: Choice + std::fmt::Debug>() -> impl Strategy<Value = T> {
    select(T::ALL).prop_map(|(_, value)| value)
}

/// Durations from `min` to `max`, in milliseconds.
fn duration(min: u64, max: u64) -> impl Strategy<Value = Duration> {
    (min..=max).prop_map(Duration::from_millis)
}

fn timeout() -> impl Strategy<Value = Duration> {
    duration(0, MAX_DURATION.as_millis() as u64)
}

fn interval() -> impl Strategy<Value = Duration> {
    duration(1, MAX_DURATION.as_millis() as u64)
}

/// Text with everything that TOML has to escape, and dollars.
fn path() -> impl Strategy<Value = String> {
    "/[a-z $\"'\\\\{}\n\t\u{e9}\u{7f}#]{0,12}"
}

fn address(port: u16) -> impl Strategy<Value = Address> {
    prop_oneof![
        (1u32..).prop_map(move |ip| Address::Ip((std::net::Ipv4Addr::from(ip), port).into())),
        (1u128 << 64..)
            .prop_map(std::net::Ipv6Addr::from)
            .prop_filter("needs an interface", |ip| !ip.is_unicast_link_local())
            .prop_map(move |ip| Address::Ip((ip, port).into())),
        path().prop_map(move |path| Address::Unix(format!("{path}{port}").into())),
    ]
}

fn runtime() -> impl Strategy<Value = Runtime> {
    (
        0..=1024usize,
        0..=u32::MAX as usize,
        timeout(),
        timeout(),
        timeout(),
        (any::<bool>(), 0..=10_000u32),
        "[a-z0-9]{0,8}",
    )
        .prop_map(
            |(
                threads,
                max_connections,
                stop_delay,
                drain_timeout,
                upgrade_timeout,
                (watch, percent),
                user,
            )| Runtime {
                threads,
                max_connections,
                stop_delay,
                drain_timeout,
                upgrade_timeout,
                watch,
                // As the file has it: at most two digits behind the point.
                watch_max_removed: f64::from(percent) / 100.0 / 100.0,
                user,
            },
        )
}

fn admin() -> impl Strategy<Value = Admin> {
    let hosts = vec("[a-z0-9.-]{1,9}", 0..3);
    (option::of(address(9)), any::<bool>(), hosts).prop_map(|(bind, read_only, hosts)| Admin {
        bind,
        token: String::new(),
        read_only,
        hosts,
    })
}

fn log() -> impl Strategy<Value = Log> {
    let sink = prop_oneof![
        Just(AccessSink::Stderr),
        path().prop_map(|path| AccessSink::File(path.into())),
        path().prop_map(|path| AccessSink::Datagram(path.into())),
    ];
    (choice(), choice(), any::<bool>(), 0.0..=1.0f64, sink).prop_map(
        |(level, format, access, access_sample, access_sink)| Log {
            level,
            format,
            access,
            access_sample,
            access_sink,
        },
    )
}

/// A listener whose ports are its own, so that no address is bound twice.
fn listener(index: usize, pools: usize) -> impl Strategy<Value = Listener> {
    let first = 10 * (index as u16 + 1);
    let bind = (address(first), option::of(address(first + 1)));
    let pool = option::of(0..pools.max(1)).prop_map(move |pool| pool.filter(|_| pools > 0));
    let backlog = 1..=i32::MAX as u32;
    let most = if pools > 0 { 2 } else { 0 };
    let routes = vec(route(pools), 0..=most);
    let rest = (
        any::<bool>(),
        0..=0o777u32,
        pool,
        backlog,
        0..=u32::MAX as usize,
        proxies(),
        timeout(),
    );
    (bind, rest, admission(), routes).prop_map(
        move |(
            bind,
            (ipv6_only, unix_mode, pool, backlog, max_connections, proxies, preread_timeout),
            admission,
            routes,
        )| Listener {
            name: format!("l.{index}").into(),
            bind: std::iter::once(bind.0).chain(bind.1).collect(),
            ipv6_only,
            unix_mode,
            pool: pool.map(pool_name),
            backlog,
            max_connections,
            max_connections_per_ip: admission.0,
            rate: admission.1,
            rate_per_ip: admission.2,
            allow: admission.3,
            deny: admission.4,
            proxy_protocol: proxies.0,
            trusted_proxies: proxies.1,
            preread_timeout,
            routes,
        },
    )
}

type Admission = (u32, Option<Rate>, Option<Rate>, Vec<Source>, Vec<Cidr>);

/// Who may come in: the last fields of a [`Listener`].
fn admission() -> impl Strategy<Value = Admission> {
    let rate = || {
        let rate = (1..=u32::MAX, select(&["s", "m", "h"]));
        option::of(
            rate.prop_map(|(count, unit)| format!("{count}/{unit}").parse().expect("a rate")),
        )
    };
    (
        any::<u32>(),
        rate(),
        rate(),
        vec(source(), 0..4),
        vec(cidr(), 0..4),
    )
}

fn cidr() -> impl Strategy<Value = Cidr> {
    prop_oneof![
        (any::<u32>(), 0..=32u8).prop_map(|(ip, prefix)| (std::net::IpAddr::V4(ip.into()), prefix)),
        (any::<u128>(), 0..=128u8)
            .prop_map(|(ip, prefix)| (std::net::IpAddr::V6(ip.into()), prefix)),
    ]
    .prop_map(|(ip, prefix)| Cidr::new(ip, prefix).expect("a block"))
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![4 => cidr().prop_map(Source::Block), 1 => Just(Source::Unix)]
}

/// Where headers are looked for, somebody is trusted.
fn proxies() -> impl Strategy<Value = (ProxyProtocol, Vec<Source>)> {
    let sources = vec(source(), 0..3);
    (choice::<ProxyProtocol>(), sources).prop_map(|(mode, sources)| match sources.is_empty() {
        true => (ProxyProtocol::Off, sources),
        false => (mode, sources),
    })
}

fn route(pools: usize) -> impl Strategy<Value = Route> {
    let names = ["*", "a.example.com", "*.b", "_x.c"]
        .map(|text| NamePattern::parse(text).expect("a pattern"));
    let sni = vec(select(names.to_vec()), 0..3);
    let alpn = vec("[a-z0-9/. $\"\u{e9}]{1,9}", 0..3);
    let client = vec(cidr(), 0..3);
    (sni, alpn, client, 0..pools.max(1)).prop_map(|(sni, alpn, client, pool)| Route {
        sni,
        alpn,
        client,
        pool: pool_name(pool),
    })
}

fn pool_name(index: usize) -> Arc<str> {
    format!("pool_{index}").into()
}

/// An address, a host name with this port, or a service.
fn location(port: u16) -> impl Strategy<Value = Location> {
    prop_oneof![
        address(port).prop_map(Location::Address),
        "[a-z][a-z0-9]{0,8}\\.internal\\.?"
            .prop_map(move |host| format!("{host}:{port}").parse().expect("a host")),
        "srv:_[a-z]{1,8}\\._tcp\\.example"
            .prop_map(move |name| format!("{name}{port}").parse().expect("a service")),
    ]
}

fn backend(index: usize) -> impl Strategy<Value = Backend> {
    let named = any::<bool>();
    let counts = (0..=1000u32, any::<u32>(), any::<bool>());
    (location(index as u16 + 1), named, counts).prop_map(
        move |(address, named, (weight, max_connections, backup))| Backend {
            name: match named {
                true => format!("b.{index}").into(),
                false => address.to_string().into(),
            },
            address,
            weight,
            max_connections,
            backup,
        },
    )
}

fn on_backend_down() -> impl Strategy<Value = OnBackendDown> {
    prop_oneof![
        Just(OnBackendDown::Keep),
        Just(OnBackendDown::Reset),
        (interval(), 1..u32::MAX, select(&["s", "m", "h"])).prop_map(|(after, count, unit)| {
            let rate = format!("{count}/{unit}").parse().expect("a rate");
            OnBackendDown::Paced { after, rate }
        }),
    ]
}

fn sources() -> impl Strategy<Value = Vec<std::net::IpAddr>> {
    let v4 = (1u32..=0xdfff_ffff).prop_map(|ip| std::net::Ipv4Addr::from(ip).into());
    let v6 =
        (0xfd00_u128 << 112..0xfd01_u128 << 112).prop_map(|ip| std::net::Ipv6Addr::from(ip).into());
    vec(prop_oneof![v4, v6], 0..3).prop_map(|mut all| {
        all.dedup();
        all
    })
}

fn backends() -> impl Strategy<Value = Vec<Backend>> {
    (0..4usize).prop_flat_map(|count| (0..count).map(backend).collect::<Vec<_>>())
}

fn health() -> impl Strategy<Value = Health> {
    let times = (interval(), interval(), interval());
    let counts = (1..=1000u32, 1..=1000u32, any::<u16>());
    (health_kind(), times, counts, option::of(health_tls())).prop_map(
        |(kind, (interval, fast_interval, timeout), (rise, fall, port), tls)| Health {
            interval,
            fast_interval,
            timeout,
            rise: NonZeroU32::new(rise).expect("at least 1"),
            fall: NonZeroU32::new(fall).expect("at least 1"),
            port,
            tls: match kind {
                HealthKind::None | HealthKind::Tcp => None,
                HealthKind::Tls => Some(tls.unwrap_or_default()),
                HealthKind::Http { .. } | HealthKind::Exchange { .. } => tls,
            },
            kind,
        },
    )
}

fn outlier() -> impl Strategy<Value = Outlier> {
    (any::<u32>(), interval(), 0..=100u32).prop_map(
        |(consecutive_failures, eject_for, max_ejected_percent)| Outlier {
            consecutive_failures,
            eject_for,
            max_ejected_percent,
        },
    )
}

fn health_kind() -> impl Strategy<Value = HealthKind> {
    let range = (100..=599u16, 100..=599u16).prop_map(|(a, b)| a.min(b)..=a.max(b));
    let http = ("/[!-~]{0,9}", "[a-z0-9:.]{0,9}", vec(range, 1..4));
    prop_oneof![
        Just(HealthKind::None),
        Just(HealthKind::Tcp),
        Just(HealthKind::Tls),
        http.prop_map(|(path, host, expect_status)| HealthKind::Http {
            path,
            host,
            expect_status
        }),
        vec(any::<u8>(), 0..20).prop_map(|expect| HealthKind::Exchange {
            send: Vec::new(),
            expect,
        }),
    ]
}

fn health_tls() -> impl Strategy<Value = HealthTls> {
    ("([a-z][a-z0-9]{0,8})?", option::of(path())).prop_map(|(server_name, ca)| HealthTls {
        server_name,
        ca: ca.map(PathBuf::from),
    })
}

fn replay() -> impl Strategy<Value = Replay> {
    prop_oneof![
        Just(Replay::Off),
        Just(Replay::Safe),
        (0..=65_536u32).prop_map(Replay::Bytes),
    ]
}

/// A pool that falls back on a later one at most, so that there is no circle.
fn pool(index: usize, pools: usize) -> impl Strategy<Value = Pool> {
    let fallback = option::of(index + 1..index + 3);
    let fallback = fallback.prop_map(move |to| to.filter(|to| *to < pools).map(pool_name));
    let words = (
        choice(),
        choice(),
        choice(),
        choice(),
        choice(),
        choice(),
        choice(),
    );
    let counts = (1..=1000u32, any::<u32>(), 0..=u32::MAX as usize, replay());
    let times = (
        timeout(),
        timeout(),
        timeout(),
        interval(),
        timeout(),
        timeout(),
        (interval(), timeout(), on_backend_down(), sources()),
    );
    let kernel = (duration(0, 1000), duration(1000, 32_767_000));
    let max_load = prop_oneof![
        Just(0.0),
        (1_000_000..=1_000_000_000u32).prop_map(|millionths| f64::from(millionths) / 1e6)
    ];
    let passive = (outlier(), timeout());
    let rest = (kernel, max_load, passive);
    (backends(), health(), fallback, words, counts, times, rest).prop_map(
        move |(backends, health, fallback, words, counts, times, (kernel, max_load, passive))| {
            Pool {
                name: pool_name(index),
                balance: words.0,
                backends,
                resolve: words.6,
                fallback,
                connect_timeout: times.0,
                connect_attempts: counts.0,
                max_connecting: counts.1,
                idle_timeout: times.1,
                half_close_timeout: times.2,
                user_timeout: kernel.0,
                keepalive: Duration::from_secs(kernel.1.as_secs()),
                max_age: times.6.1,
                quiet: times.6.0,
                source_addresses: times.6.3,
                send_proxy: words.5,
                slow_start: passive.1,
                replay: counts.3,
                when_all_down: words.1,
                on_backend_down: times.6.2,
                drain_timeout: times.5,
                relay: words.2,
                hash: Hash {
                    key: words.3,
                    max_load,
                },
                latency: Latency {
                    of: words.4,
                    decay: times.3,
                },
                health,
                outlier: passive.0,
                hold: Hold {
                    max: counts.2,
                    timeout: times.4,
                },
            }
        },
    )
}

pub(in crate::config) fn config() -> impl Strategy<Value = Config> {
    let tables = (0..3usize, 0..4usize).prop_flat_map(|(listeners, pools)| {
        let listeners = (0..listeners).map(|index| listener(index, pools).prop_map(Arc::new));
        let pools = (0..pools).map(move |index| pool(index, pools).prop_map(Arc::new));
        (listeners.collect::<Vec<_>>(), pools.collect::<Vec<_>>())
    });
    (runtime(), admin(), log(), tables).prop_map(|(runtime, admin, log, (listeners, pools))| {
        Config {
            runtime,
            admin,
            log,
            listeners,
            pools,
        }
    })
}

/// The same as if it had been read.
pub(crate) fn loaded() -> impl Strategy<Value = Loaded> {
    config().prop_map(|config| Loaded {
        config,
        warnings: Vec::new(),
        hidden: Hidden::default(),
        places: Default::default(),
    })
}

/// The files of this repository, for mutation.
const SEEDS: [&str; 4] = [
    include_str!("../../../lb.toml"),
    include_str!("../../../examples/http.toml"),
    include_str!("../../../examples/postgresql.toml"),
    include_str!("../../../examples/redis.toml"),
];

/// What mutation puts in.
const BITS: [&str; 16] = [
    "[",
    "]",
    "{",
    "}",
    "\"",
    "=",
    ",",
    "\n",
    "#",
    "${",
    "$$",
    "é",
    "\u{0}",
    "[pool.web]\n",
    "'''",
    ".",
];

/// Reads a text and looks at every problem that comes of it.
fn survives(text: &str) -> Result<(), TestCaseError> {
    let (problems, warnings) = match parse(text, "f", &|_| None) {
        Ok(loaded) => {
            let shown = loaded.render();
            prop_assert!(!shown.is_empty());
            (Vec::new(), loaded.warnings)
        }
        Err(faults) => {
            prop_assert!(!faults.problems.is_empty());
            (faults.problems, faults.warnings)
        }
    };
    let lines = text.split('\n').count();
    for problem in problems.iter().chain(&warnings) {
        prop_assert!((1..=lines).contains(&problem.line), "{}", problem);
        prop_assert!(problem.column >= 1 && !problem.message.is_empty());
    }
    let places = |of: &[Problem]| of.iter().map(|p| (p.line, p.column)).collect::<Vec<_>>();
    prop_assert!(places(&problems).is_sorted() && places(&warnings).is_sorted());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_rendered_reads_back_as_the_same_configuration(config in config()) {
        let loaded = Loaded { config, warnings: Vec::new(), hidden: Hidden::default(), places: Default::default() };
        let text = loaded.render();
        let again = parse(&text, "f", &|_| None);
        let again = again.map_err(|faults| TestCaseError::fail(format!("{text}\n{faults}")))?;
        prop_assert_eq!(&again.config, &loaded.config, "{}", text);
        prop_assert_eq!(again.render(), text);
    }

    #[test]
    fn no_bytes_bring_the_reader_down(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(text) = document::text("f", bytes) {
            survives(&text)?;
        }
    }

    #[test]
    fn no_text_brings_the_reader_down(text in "[\\[\\]{}=,.\"'#$a-c \\n\\\\é-]{0,60}") {
        survives(&text)?;
    }

    #[test]
    fn no_damage_to_a_good_file_brings_the_reader_down(
        seed in select(&SEEDS),
        damage in vec((any::<proptest::sample::Index>(), 0..30usize, select(&BITS)), 1..6),
    ) {
        let mut text: Vec<char> = seed.chars().collect();
        for (at, cut, bit) in damage {
            let at = at.index(text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, bit.chars());
        }
        survives(&text.into_iter().collect::<String>())?;
    }
}

#[test]
fn megabytes_of_nonsense_bring_the_reader_down_neither() {
    const MEGABYTES: usize = 5 << 20;
    survives(&"[".repeat(MEGABYTES)).expect("brackets");
    survives(&"# a comment\n".repeat(MEGABYTES / 12)).expect("comments");
    let references = "${".repeat(MEGABYTES / 2);
    survives(&format!("[admin]\ntoken = \"{references}\"")).expect("references");
}
