//! `on_backend_down`: a word, or a table that is one value.

use super::*;

fn of(lines: &str) -> OnBackendDown {
    accept(&with_pool(lines)).config.pools[0].on_backend_down
}

fn paced(seconds: u64, rate: &str) -> OnBackendDown {
    OnBackendDown::Paced {
        after: Duration::from_secs(seconds),
        rate: rate.parse().expect("a rate"),
    }
}

#[test]
fn it_is_a_word_or_a_table_wherever_that_is_written() {
    for (lines, expected) in [
        ("", OnBackendDown::Keep),
        ("on_backend_down = \"keep\"", OnBackendDown::Keep),
        ("on_backend_down = \"reset\"", OnBackendDown::Reset),
        (
            "on_backend_down = { after = \"30s\", rate = \"50/s\" }",
            paced(30, "50/s"),
        ),
        (
            "[pool.p.on_backend_down]\nafter = \"1m\"\nrate = \"600/m\"",
            paced(60, "600/m"),
        ),
        (
            "[defaults.pool]\non_backend_down = \"reset\"",
            OnBackendDown::Reset,
        ),
        (
            "on_backend_down = \"keep\"\n[defaults.pool]\non_backend_down = \"reset\"",
            OnBackendDown::Keep,
        ),
    ] {
        assert_eq!(of(lines), expected, "{lines}");
    }
}

/// Nothing of it is filled up from elsewhere: half of a pool's own table is a fault.
#[test]
fn a_table_is_whole() {
    let lines = "[pool.p.on_backend_down]\nafter = \"1s\"\n\
                 [defaults.pool.on_backend_down]\nafter = \"9s\"\nrate = \"1/s\"";
    let expected = "6:1: `on_backend_down` needs `rate` beside it";
    assert_eq!(faults(&with_pool(lines)), [expected]);
    let both = "6:19: `on_backend_down` needs `after` beside it";
    let found = faults(&with_pool("on_backend_down = {}"));
    assert_eq!(found[0], both);
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn what_others_call_it_is_known() {
    let found = faults(&with_pool("on-marked-down = \"shutdown-sessions\""));
    assert!(
        found[0].contains("did you mean `on_backend_down`?"),
        "{found:?}"
    );
    let found = faults(&with_pool("on_backend_down = \"shutdown-sessions\""));
    assert!(found[0].contains("did you mean \"reset\"?"), "{found:?}");
}

#[test]
fn it_is_shown_as_the_file_has_it_and_what_came_from_the_environment_is_not() {
    let lines = |after: &str| {
        with_pool(&format!(
            "on_backend_down = {{ after = \"{after}\", rate = \"5/s\" }}"
        ))
    };
    let shown = accept(&lines("1m30s")).render();
    let line = "\non_backend_down = { after = \"1m30s\", rate = \"5/s\" }\n";
    assert!(shown.contains(line), "{shown}");
    let env = |name: &str| (name == "AFTER").then(|| "7s".to_owned());
    let hidden = parse(&lines("${AFTER}"), "f", &env).expect("a configuration");
    let line = "\n# on_backend_down = { after = \"…\", rate = \"5/s\" }\n";
    assert!(hidden.render().contains(line), "{}", hidden.render());
}

#[test]
fn a_change_of_it_is_one_change() {
    let keep = accept(&with_pool(""));
    let paced = accept(&with_pool(
        "on_backend_down = { after = \"30s\", rate = \"50/s\" }",
    ));
    let diff = diff::Diff::new(diff::Side::of(&keep), diff::Side::of(&paced));
    let [change] = &diff.pools[0].fields[..] else {
        panic!("not one change: {:?}", diff.pools[0].fields);
    };
    assert_eq!(
        (&*change.key, change.effect),
        ("on_backend_down", Effect::AtOnce)
    );
    let written = change.new.as_ref().map(diff::Change::written);
    let expected = "{ after = \"30s\", rate = \"50/s\" }";
    assert_eq!(written.as_deref(), Some(expected));
}
