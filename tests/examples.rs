//! `lb.toml` and everything in `examples/` is what it says it is: a configuration that starts.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use support::{Family, Launch};

/// The configurations that come with the source: their names and texts.
fn examples() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = std::fs::read_dir(root.join("examples")).expect("examples");
    let mut paths: Vec<PathBuf> = listed
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    assert!(paths.len() >= 3, "only {paths:?}");
    paths.push(root.join("lb.toml"));
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("text");
        (path.display().to_string(), text)
    };
    paths.into_iter().map(read).collect()
}

/// With every port that it binds left to the kernel, and an endpoint to ask.
fn on_free_ports(text: &str) -> String {
    let mut table: toml::Table = text.parse().expect("TOML");
    let ipv6 = Family::all().contains(&Family::Ipv6);
    let listeners = table["listener"].as_table_mut().expect("listeners");
    for (_, listener) in listeners.iter_mut() {
        let bind = free(&listener["bind"], ipv6);
        let keys = listener.as_table_mut().expect("a listener");
        keys.insert("bind".into(), bind);
    }
    let admin = toml::toml! { bind = "127.0.0.1:0" };
    table.insert("admin".into(), admin.into());
    table.to_string()
}

fn free(bind: &toml::Value, ipv6: bool) -> toml::Value {
    let all = bind.as_array().cloned();
    let all = all.unwrap_or_else(|| vec![bind.clone()]);
    let all = all.iter().filter_map(toml::Value::as_str);
    all.filter(|address| ipv6 || !address.starts_with('['))
        .map(|address| {
            let (ip, _) = address.rsplit_once(':').expect("an address with a port");
            toml::Value::from(format!("{ip}:0"))
        })
        .collect::<Vec<_>>()
        .into()
}

#[test]
fn every_example_is_checked_without_a_fault_or_a_warning() {
    for (path, _) in examples() {
        let exit = Launch::new("").run_to_exit(&["check", "-c", &path]);
        assert_eq!((exit.code, &*exit.stderr), (Some(0), ""), "{path}");
        assert!(exit.stdout.starts_with(&format!("{path}: ok, ")));
    }
}

/// None of their backends is there, so every one of them is down soon; all the listeners
/// are, and everything is shown.
#[test]
fn every_example_starts() {
    for (path, text) in examples() {
        let isobar = Launch::new(&on_free_ports(&text)).start();
        let wanted: toml::Table = text.parse().expect("TOML");
        let stats = isobar.stats();
        for kind in ["listener", "pool"] {
            let of_file = wanted[kind].as_table().expect("tables").keys();
            let shown = stats[format!("{kind}s")].as_object().expect("an object");
            let (of_file, shown): (BTreeSet<_>, BTreeSet<_>) =
                (of_file.collect(), shown.keys().collect());
            assert_eq!(of_file, shown, "{path}");
        }
    }
}

/// The text of the manual's shortest case, with the ports left to the kernel.
#[test]
fn six_lines_are_a_configuration() {
    let backend = support::Backend::named("b1");
    let text = format!(
        "[listener.postgres]\nbind = \"127.0.0.1:0\"\npool = \"postgres\"\n\
         [pool.postgres]\nbalance = \"least-connections\"\nbackends = [\"{}\"]\n",
        backend.address()
    );
    let mut isobar = Launch::new(&text).start();
    // Its checks count at the backend.
    isobar.skip_byte_check();
    assert_eq!(isobar.visit("postgres"), "b1");
}
