//! Open files: how many are needed, and what is said where there are fewer.

use super::*;

#[test]
fn a_limit_below_the_configuration_is_named_with_both_numbers_and_the_remedy() {
    let machine = Machine {
        descriptors: 1024,
        ..STOCK
    };
    let needed = descriptors_for(5000, &config(FILE), 2);
    let allowed = divide(1024, &config(FILE), 2).allowed;
    let lowered = format!("runtime.max_connections = 5000 is lowered to {allowed}, ");
    let remedy = format!("raise it with `ulimit -n {needed}`, or LimitNOFILE={needed}");
    assert_one(
        FILE,
        &machine,
        "runtime.max_connections",
        &[&lowered, "1024", &remedy],
    );
    assert_none(
        FILE,
        &Machine {
            descriptors: needed,
            ..machine
        },
    );
}

#[test]
fn a_limit_that_cannot_be_raised_so_far_comes_with_the_setting_that_bounds_it() {
    let needed = descriptors_for(5000, &config(FILE), 2);
    let machine = Machine {
        descriptors: 1024,
        most_descriptors: Some(4096),
        ..STOCK
    };
    let first = format!("`sysctl -w fs.nr_open={needed}` (now 4096), then with `ulimit -n");
    assert_one(FILE, &machine, "runtime.max_connections", &[&first]);
}

#[test]
fn descriptors_that_are_needed_are_the_fewest_that_are_enough() {
    let many: Vec<_> = (1..=999).map(|n| format!("\"127.0.0.1:{n}\"")).collect();
    let many = format!("[pool.p]\nbackends = [{}]", many.join(","));
    for text in [FILE, &many] {
        let config = Config {
            runtime: crate::config::Runtime {
                max_connections: 0,
                ..config(text).runtime
            },
            ..config(text)
        };
        for cores in [1, 2, 7, 64] {
            for connections in [1, 100, 5000, 100_000, 10_000_000] {
                let needed = descriptors_for(connections, &config, cores);
                let allowed = |descriptors| divide(descriptors, &config, cores).allowed;
                assert_eq!(allowed(needed), connections, "{needed} {cores}");
                assert!(allowed(needed - 1) < connections || connections == 1);
            }
        }
    }
}

#[test]
fn many_backends_leave_half_of_the_descriptors_to_connections() {
    let backends: Vec<_> = (1..=9999).map(|n| format!("\"127.0.0.1:{n}\"")).collect();
    let text = format!("[pool.p]\nbackends = [{}]", backends.join(","));
    let limits = divide(1024, &config(&text), 2);
    assert!(limits.connections > 1024 / 2 / 2, "{limits:?}");
}

#[test]
fn with_next_to_nothing_one_connection_is_left() {
    for descriptors in [0, 1, 24] {
        assert_eq!(divide(descriptors, &config(FILE), 4).connections, 1);
    }
}

#[test]
fn limits_of_listeners_that_the_process_cannot_reach_are_named() {
    let two = |a: usize, b: usize| {
        let listener = |name: &str, most: usize| {
            format!(
                "[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\
                 max_connections = {most}\n"
            )
        };
        listener("a", a) + &listener("b", b) + ONE
    };
    let machine = Machine {
        descriptors: descriptors_for(100, &config(&two(0, 0)), 2),
        ..STOCK
    };
    let keys = |text: &str| -> Vec<String> {
        let told = told(&config(text), &machine);
        told.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(&two(50, 50)), Vec::<String>::new());
    assert_eq!(keys(&two(0, 100)), Vec::<String>::new());
    assert_eq!(keys(&two(50, 51)), ["listener.b.max_connections"]);
    assert_eq!(keys(&two(101, 51)), ["listener.a.max_connections"]);
}

#[test]
fn open_files_of_the_whole_machine_bound_everybody_but_root() {
    let machine = Machine {
        all_descriptors: Some(9000),
        exceeds_machine: true,
        ..STOCK
    };
    let words = [
        "runtime.max_connections = 5000 needs ",
        "allows 9000",
        "fs.file-max=",
    ];
    let as_nobody = FILE.replace("[runtime]", "[runtime]\nuser = \"nobody\"");
    let by_nobody = Machine {
        exceeds_machine: false,
        ..machine
    };
    assert_one(&as_nobody, &machine, "runtime.max_connections", &words);
    assert_one(FILE, &by_nobody, "runtime.max_connections", &words);
    assert_none(FILE, &machine);
}
