use std::collections::BTreeMap;

use proptest::prelude::*;
use toml::Table;

use super::super::hidden::Hidden;
use super::super::tests::properties::config;
use super::super::texts::is_name;
use super::super::{Config, Route, parse};
use super::*;

fn loaded(text: &str) -> Loaded {
    let env = |name: &str| (name != "NONE").then(|| format!("secret-{name}"));
    parse(text, "lb.toml", &env).expect("a valid file")
}

fn diff(old: &str, new: &str) -> Diff {
    Diff::new(Side::of(&loaded(old)), Side::of(&loaded(new)))
}

/// `KEY: OLD -> NEW` of each change.
fn told(changes: &[Change]) -> Vec<String> {
    let shown = |value: &Option<Value>| value.as_ref().map_or("-".into(), Change::written);
    let one = |c: &Change| format!("{}: {} -> {}", c.key, shown(&c.old), shown(&c.new));
    changes.iter().map(one).collect()
}

const BASE: &str = r#"
[runtime]
drain_timeout = "90s"
[listener.web]
bind = ["127.0.0.1:80", "127.0.0.1:81"]
pool = "web"
[pool.web]
backends = [{ name = "a", address = "10.0.0.1:80" }, { name = "b", address = "10.0.0.2:80" }]
"#;

#[test]
fn how_a_file_is_written_is_no_change() {
    let other = r#"
# A comment.
[pool.web]
connect_timeout = "3000ms"
backends = [{ address = "10.0.0.2:80", name = "b", weight = 1 }, { name = "a", address = "10.0.0.1:80" }]
health = { kind = "tcp", interval = "2s" }
[listener."web"]
pool = 'web'
bind = ["127.0.0.1:81", "127.0.0.1:80"]
[log]
level = "info"
[runtime]
drain_timeout = "1m30s"
"#;
    assert_eq!(diff(BASE, other), Diff::default());
    assert!(diff(BASE, other).is_empty());
}

#[test]
fn a_pool_tells_its_keys_and_its_backends_apart() {
    let new = BASE
        .replace("[pool.web]", "[pool.web]\nhealth.interval = \"5s\"")
        .replace("10.0.0.2:80", "10.0.0.3:80")
        .replace(
            "{ name = \"a\", address = \"10.0.0.1:80\" }",
            "\"10.0.0.9:80\"",
        );
    let diff = diff(BASE, &new);
    assert!(diff.settings.is_empty() && diff.listeners.is_empty());
    let [pool] = &diff.pools[..] else {
        panic!("{diff:?}")
    };
    assert_eq!(told(&pool.fields), [r#"health.interval: "2s" -> "5s""#]);
    assert_eq!(pool.fields[0].effect, Effect::AtOnce);
    let backends = pool.backends.iter().map(|b| (b.moves(), told(&b.fields)));
    let expected: [(bool, &[&str]); 3] = [
        (false, &[r#"address: - -> "10.0.0.9:80""#]),
        (true, &[r#"address: "10.0.0.2:80" -> "10.0.0.3:80""#]),
        (false, &[]),
    ];
    let expected = expected.map(|(m, f)| (m, f.iter().map(|f| f.to_string()).collect()));
    assert_eq!(backends.collect::<Vec<_>>(), expected);
    assert!(matches!(pool.backends[2].edit, Edit::Removed(ref b) if *b.name == *"a"));
}

#[test]
fn what_is_new_tells_what_is_not_its_default() {
    let new = format!("{BASE}[pool.new]\nidle_timeout = \"5s\"\nhold.max = 1024\n");
    let pools = diff(BASE, &new).pools;
    assert!(matches!(pools[0].edit, Edit::Added(_)));
    assert_eq!(told(&pools[0].fields), [r#"idle_timeout: - -> "5s""#]);
    let gone = diff(&new, BASE).pools;
    assert!(matches!(gone[0].edit, Edit::Removed(_)) && gone[0].fields.is_empty());
}

#[test]
fn a_listener_is_known_by_its_address_and_else_by_its_name() {
    let listener = |name: &str, bind: &str| format!("[listener.{name}]\nbind = {bind}\n");
    let two = |a: (&str, &str), b: (&str, &str)| listener(a.0, a.1) + &listener(b.0, b.1);
    let (x, y, z) = ("\"10.0.0.1:80\"", "\"10.0.0.2:80\"", "\"10.0.0.3:80\"");
    let any = "\"127.0.0.1:0\"";
    // What each listener that differs was and is, and how many sockets are opened and closed.
    type Told = (&'static str, &'static str, usize, usize, usize);
    let table: [(String, String, &[Told]); 7] = [
        (listener("a", x), listener("b", x), &[("a", "b", 0, 0, 0)]),
        (listener("a", x), listener("a", y), &[("a", "a", 1, 1, 0)]),
        (
            listener("a", x),
            listener("b", y),
            &[("", "b", 1, 0, 0), ("a", "", 0, 1, 0)],
        ),
        (
            two(("a", x), ("b", y)),
            two(("a", y), ("b", x)),
            // The sockets keep their places in the statistics by changing names.
            &[("b", "a", 0, 0, 0), ("a", "b", 0, 0, 0)],
        ),
        (
            two(("a", "[\"10.0.0.1:80\", \"10.0.0.2:80\"]"), ("b", z)),
            two(("a", x), ("b", "[\"10.0.0.2:80\", \"10.0.0.3:80\"]")),
            &[("a", "a", 0, 0, 0), ("b", "b", 0, 0, 1)],
        ),
        (
            listener("a", any),
            listener("b", any),
            &[("", "b", 1, 0, 0), ("a", "", 0, 1, 0)],
        ),
        (
            two(("a", any), ("b", any)),
            two(("b", any), ("a", any)),
            &[],
        ),
    ];
    for (old, new, expected) in table {
        let found = diff(&old, &new).listeners;
        let name = |l: Option<&Arc<Listener>>| l.map_or(String::new(), |l| l.name.to_string());
        let told = found.iter().map(|l| {
            let names = (name(l.edit.before()), name(l.edit.after()));
            (
                names.0,
                names.1,
                l.opened.len(),
                l.closed.len(),
                l.taken.len(),
            )
        });
        let expected = expected.iter().map(|(old, new, opened, closed, taken)| {
            (old.to_string(), new.to_string(), *opened, *closed, *taken)
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            expected.collect::<Vec<_>>(),
            "{old}{new}"
        );
    }
}

#[test]
fn what_needs_a_restart_is_named_apart() {
    let new = format!("{BASE}ipv6_only = true\n").replace("[runtime]", "[runtime]\nthreads = 3");
    let new = new.replace("[pool.web]", "[pool.web]\nbalance = \"first\"");
    let new = new.replace("ipv6_only = true\n", "");
    assert_eq!(diff(BASE, &new).pending_restart(), ["runtime.threads"]);
    let (dual, six) = ("[listener.a]\nbind = \"[::]:80\"\n", "ipv6_only = true\n");
    let only = format!("{dual}{six}");
    assert_eq!(
        diff(dual, &only).pending_restart(),
        ["listener.a.ipv6_only"]
    );
    let elsewhere = only.replace(":80", ":81");
    assert!(diff(dual, &elsewhere).pending_restart().is_empty());
}

#[test]
fn secrets_are_compared_and_never_shown() {
    let file = |token: &str, send: &str, address: &str| {
        format!(
            "[admin]\ntoken = \"{token}\"\n[pool.web]\nhealth.kind = \"exchange\"\n\
             health.send = \"{send}\"\nbackends = [{{ name = \"a\", address = \"{address}\" }}]\n"
        )
    };
    let old = file("secret-1", "secret-2", "unix:/${A}");
    let diff = diff(&old, &file("secret-3", "", "unix:/secret-here"));
    let written = serde_json::to_string(&diff.pools[0].fields).expect("JSON");
    let shown = [
        told(&diff.settings),
        told(&diff.pools[0].fields),
        told(&diff.pools[0].backends[0].fields),
    ]
    .concat();
    let expected = [
        r#"admin.token: "…" -> "…""#,
        r#"health.send: "…" -> """#,
        r#"address: "…" -> "…""#,
    ];
    assert_eq!(shown, expected);
    assert!(!written.contains("secret"), "{written}");
}

#[test]
fn the_order_of_backends_is_a_change_where_it_matters() {
    let file = |balance: &str, backends: &str| {
        format!("[pool.web]\nbalance = \"{balance}\"\nbackends = [{backends}]\n")
    };
    let (ab, ba) = (
        "\"10.0.0.1:1\", \"10.0.0.2:1\"",
        "\"10.0.0.2:1\", \"10.0.0.1:1\"",
    );
    assert!(diff(&file("round-robin", ab), &file("round-robin", ba)).is_empty());
    let first = diff(&file("first", ab), &file("first", ba)).pools;
    let expected = r#"backends: ["10.0.0.1:1", "10.0.0.2:1"] -> ["10.0.0.2:1", "10.0.0.1:1"]"#;
    assert_eq!(told(&first[0].fields), [expected]);
}

const ROUTES: &str = r#"
[listener.web]
bind = "127.0.0.1:80"
pool = "web"
[[listener.web.route]]
sni = ["a.example.com"]
pool = "a"
[[listener.web.route]]
client = ["10.0.0.0/8"]
pool = "b"
[pool.web]
[pool.a]
[pool.b]
"#;

/// Their order counts; those at the front and at the end that are the same are left out.
#[test]
fn routes_are_compared_by_their_places() {
    let differ = |new: &str| match &*diff(ROUTES, new).listeners {
        [] => Vec::new(),
        [one] => told(&one.fields),
        more => panic!("{more:?}"),
    };
    let (first, second) = ROUTES
        .split_once("[[listener.web.route]]\nclient")
        .expect("two routes");
    let second = format!("[[listener.web.route]]\nclient{second}");
    let one = "route.1: - -> { sni = [\"c\"], alpn = [\"h2\"], pool = \"b\" }";
    let more = "[[listener.web.route]]\nsni = [\"C.\"]\nalpn = [\"h2\"]\npool = \"b\"\n";
    let front = first.replace(
        "[[listener.web.route]]",
        &format!("{more}[[listener.web.route]]"),
    );
    assert_eq!(differ(&format!("{front}{second}")), [one]);
    let between = format!("{first}{more}{second}");
    assert_eq!(differ(&between), [one.replace("route.1", "route.2")]);
    let written_otherwise = ROUTES
        .replace("a.example.com", "A.Example.COM.")
        .replace("10.0", "10.9");
    assert_eq!(differ(&written_otherwise), Vec::<String>::new());
    let changed = ROUTES.replace("pool = \"b\"", "pool = \"a\"");
    assert_eq!(
        differ(&changed),
        [
            "route.2: { client = [\"10.0.0.0/8\"], pool = \"b\" } -> { client = [\"10.0.0.0/8\"], pool = \"a\" }"
        ]
    );
    let without = first.replace(
        "[[listener.web.route]]\nsni = [\"a.example.com\"]\npool = \"a\"\n",
        "",
    );
    assert_eq!(
        differ(&format!("{without}{second}")),
        ["route.1: { sni = [\"a.example.com\"], pool = \"a\" } -> -"]
    );
    let hidden = ROUTES.replace("a.example.com", "${NAME}");
    assert_eq!(differ(&hidden), ["route.1: \"…\" -> \"…\""]);
}

#[test]
fn values_read_back_as_the_file_has_them() {
    let written = Change::written(&Value::String("a$b\"\u{7f}".into()));
    assert_eq!(
        written,
        r#"'a$$b"\u007F'"#.replace('\'', "\"").replace("$b\"", "$b\\\"")
    );
}

fn of(config: Config) -> Loaded {
    Loaded {
        config,
        warnings: Vec::new(),
        hidden: Hidden::default(),
        places: Default::default(),
    }
}

/// Some tables of the one, some of the other.
fn mixed(a: &Config, b: &Config, mut from: impl FnMut() -> bool) -> Config {
    let mut mixed = a.clone();
    if from() {
        mixed.runtime = b.runtime.clone();
    }
    if from() {
        mixed.admin = b.admin.clone();
    }
    if from() {
        mixed.log = b.log.clone();
    }
    for (mine, theirs) in mixed.listeners.iter_mut().zip(&b.listeners) {
        let both = (Arc::make_mut(mine), theirs);
        if from() {
            both.0.bind = both.1.bind.clone();
        }
        if from() {
            let routes = both.1.routes.iter();
            let there = |route: &&Route| a.pools.iter().any(|pool| pool.name == route.pool);
            both.0.routes = routes.filter(there).cloned().collect();
        }
        if from() {
            both.0.routes.reverse();
        }
        if from() {
            (both.0.backlog, both.0.ipv6_only) = (both.1.backlog, both.1.ipv6_only);
        }
    }
    for (mine, theirs) in mixed.pools.iter_mut().zip(&b.pools) {
        let mine = Arc::make_mut(mine);
        if from() {
            mine.health = theirs.health.clone();
        }
        if from() {
            mine.hold = theirs.hold;
        }
        if from() {
            mine.backends = theirs.backends.clone();
        }
        for (mine, theirs) in mine.backends.iter_mut().zip(&theirs.backends) {
            if from() {
                mine.weight = theirs.weight;
            }
        }
    }
    // Two listeners may have come to the same address.
    let mut seen = HashSet::new();
    for listener in &mut mixed.listeners {
        let listener = Arc::make_mut(listener);
        listener.bind.retain(|address| seen.insert(address.clone()));
    }
    mixed.listeners.retain(|listener| !listener.bind.is_empty());
    if from() {
        mixed.pools.truncate(1);
        let one = mixed.pools.first().map(|pool| Arc::clone(&pool.name));
        for listener in &mut mixed.listeners {
            let listener = Arc::make_mut(listener);
            listener.pool = one.clone();
            match &one {
                Some(one) => listener
                    .routes
                    .iter_mut()
                    .for_each(|r| r.pool = Arc::clone(one)),
                None => listener.routes.clear(),
            }
        }
        for pool in &mut mixed.pools {
            Arc::make_mut(pool).fallback = None;
        }
    }
    mixed
}

fn configs() -> impl Strategy<Value = (Config, Config)> {
    let bits = prop::collection::vec(any::<bool>(), 64);
    (config(), config(), bits).prop_map(|(a, b, bits)| {
        let mut bits = bits.into_iter().cycle();
        let mixed = mixed(&a, &b, || bits.next().unwrap_or_default());
        (a, mixed)
    })
}

/// A file as a tree: its tables by their names, backends too.
#[derive(Default)]
struct Tree {
    settings: BTreeMap<String, Table>,
    listeners: BTreeMap<String, Table>,
    pools: BTreeMap<String, (Table, BTreeMap<String, Table>)>,
}

fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((first, rest)) => {
            let entry = table.entry(first).or_insert_with(|| Table::new().into());
            set(entry.as_table_mut().expect("a table"), rest, value);
        }
        None => drop(table.insert(key.to_owned(), value)),
    }
}

fn table(fields: Vec<Field>) -> Table {
    let mut table = Table::new();
    for field in fields {
        if let Some(value) = field.value {
            set(&mut table, field.key, value);
        }
    }
    table
}

fn change(table: &mut Table, changes: &[Change]) {
    for Change { key, new, .. } in changes {
        let order_alone = key == "backends" || key.starts_with("route.");
        if let Some(new) = new.clone().filter(|_| !order_alone) {
            set(table, key, new);
        }
    }
}

/// Applies the changes of routes: `route.N`, from 1.
fn reroute(table: &mut Table, changes: &[Change]) {
    let routes = table
        .entry("route")
        .or_insert_with(|| Value::Array(Vec::new()));
    let routes = routes.as_array_mut().expect("a list");
    let mut gone = Vec::new();
    for Change { key, old, new, .. } in changes {
        let Some(number) = key.strip_prefix("route.") else {
            continue;
        };
        let index = number.parse::<usize>().expect("a number") - 1;
        match (old, new) {
            (Some(_), Some(new)) => routes[index] = new.clone(),
            (None, Some(new)) => routes.insert(index, new.clone()),
            (Some(_), None) => gone.push(index),
            (None, None) => panic!("nothing changes"),
        }
    }
    for index in gone.into_iter().rev() {
        routes.remove(index);
    }
}

impl Tree {
    fn of(config: &Config) -> Self {
        let mut tree = Self::default();
        for (name, fields) in [
            ("runtime", fields::runtime(&config.runtime)),
            ("admin", fields::admin(&config.admin)),
            ("log", fields::log(&config.log)),
        ] {
            tree.settings.insert(name.into(), table(fields));
        }
        for listener in &config.listeners {
            let mut fields = table(fields::listener(listener));
            let routes = listener.routes.iter();
            let routes = routes.map(|route| table(fields::route(route)).into());
            fields.insert("route".into(), Value::Array(routes.collect()));
            tree.listeners.insert(listener.name.to_string(), fields);
        }
        for pool in &config.pools {
            let backends = pool.backends.iter();
            let backends = backends.map(|b| (b.name.to_string(), table(fields::backend(b))));
            let fields = (table(fields::pool(pool)), backends.collect());
            tree.pools.insert(pool.name.to_string(), fields);
        }
        tree
    }

    fn apply(&mut self, diff: &Diff) {
        for one in &diff.settings {
            let (name, key) = one.key.split_once('.').expect("a table");
            let table = self.settings.get_mut(name).expect("it is there");
            set(table, key, one.new.clone().expect("a value"));
        }
        // Listeners may change names among each other.
        let mut listeners = Vec::new();
        for listener in &diff.listeners {
            let old = listener.edit.before().map(|old| old.name.to_string());
            let mut table = old
                .and_then(|old| self.listeners.remove(&old))
                .unwrap_or_default();
            reroute(&mut table, &listener.fields);
            change(&mut table, &listener.fields);
            listeners.extend(
                listener
                    .edit
                    .after()
                    .map(|new| (new.name.to_string(), table)),
            );
        }
        self.listeners.extend(listeners);
        for pool in &diff.pools {
            let old = pool.edit.before().map(|old| old.name.to_string());
            let (mut table, mut backends) = old
                .and_then(|old| self.pools.remove(&old))
                .unwrap_or_default();
            change(&mut table, &pool.fields);
            for backend in &pool.backends {
                let old = backend.edit.before().map(|old| old.name.to_string());
                let mut table = old
                    .and_then(|old| backends.remove(&old))
                    .unwrap_or_default();
                change(&mut table, &backend.fields);
                let new = backend
                    .edit
                    .after()
                    .map(|new| (new.name.to_string(), table));
                backends.extend(new);
            }
            let new = pool
                .edit
                .after()
                .map(|new| (new.name.to_string(), (table, backends)));
            self.pools.extend(new);
        }
    }

    fn text(&self) -> String {
        let mut root = Table::new();
        for (name, table) in &self.settings {
            root.insert(name.clone(), table.clone().into());
        }
        let listeners = self.listeners.iter();
        let listeners = listeners.map(|(name, table)| (name.clone(), table.clone().into()));
        root.insert("listener".into(), listeners.collect::<Table>().into());
        let pools = self.pools.iter().map(|(name, (table, backends))| {
            let backends = backends.iter().map(|(name, table)| {
                let mut table = table.clone();
                if is_name(name) {
                    table.insert("name".into(), name.clone().into());
                }
                table.into()
            });
            let mut table = table.clone();
            table.insert("backends".into(), Value::Array(backends.collect()));
            (name.clone(), table.into())
        });
        root.insert("pool".into(), pools.collect::<Table>().into());
        root.iter_mut().for_each(|(_, value)| escape(value));
        root.to_string()
    }
}

fn escape(value: &mut Value) {
    match value {
        Value::String(text) => *text = env::escape(text),
        Value::Array(items) => items.iter_mut().for_each(escape),
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| escape(value)),
        _ => {}
    }
}

/// Without the orders that mean nothing.
fn sorted(mut config: Config) -> Config {
    config.listeners.sort_by(|a, b| a.name.cmp(&b.name));
    config.pools.sort_by(|a, b| a.name.cmp(&b.name));
    config.admin.hosts.sort();
    for listener in &mut config.listeners {
        Arc::make_mut(listener).bind.sort();
    }
    for pool in &mut config.pools {
        Arc::make_mut(pool)
            .backends
            .sort_by(|a, b| a.name.cmp(&b.name));
    }
    config
}

/// Added, removed, changed.
fn counts(diff: &Diff) -> [usize; 3] {
    let mut counts = [0; 3];
    let mut count = |old: bool, new: bool| match (old, new) {
        (false, _) => counts[0] += 1,
        (_, false) => counts[1] += 1,
        _ => counts[2] += 1,
    };
    for listener in &diff.listeners {
        count(
            listener.edit.before().is_some(),
            listener.edit.after().is_some(),
        );
    }
    for pool in &diff.pools {
        count(pool.edit.before().is_some(), pool.edit.after().is_some());
        for backend in &pool.backends {
            count(
                backend.edit.before().is_some(),
                backend.edit.after().is_some(),
            );
        }
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_differs_from_itself(config in config()) {
        let mut again = config.clone();
        again.pools.iter_mut().for_each(|pool| *pool = Arc::new((**pool).clone()));
        let (config, again) = (of(config), of(again));
        prop_assert!(Diff::new(Side::of(&config), Side::of(&again)).is_empty());
    }

    #[test]
    fn the_old_with_all_that_differs_is_the_new((old, new) in configs()) {
        let (old, new) = (of(old), of(new));
        let diff = Diff::new(Side::of(&old), Side::of(&new));
        prop_assert_eq!(diff.is_empty(), sorted(old.config.clone()) == sorted(new.config.clone()));
        let mut tree = Tree::of(&old.config);
        tree.apply(&diff);
        let text = tree.text();
        let again = parse(&text, "f", &|_| None);
        let again = again.map_err(|faults| TestCaseError::fail(format!("{text}\n{faults}")))?;
        prop_assert_eq!(sorted(again.config), sorted(new.config), "{:?}\n{}", diff, text);
    }

    #[test]
    fn what_one_way_adds_the_other_way_removes((old, new) in configs()) {
        let (old, new) = (of(old), of(new));
        let [added, removed, changed] = counts(&Diff::new(Side::of(&old), Side::of(&new)));
        let back = counts(&Diff::new(Side::of(&new), Side::of(&old)));
        prop_assert_eq!([removed, added, changed], back);
    }
}
