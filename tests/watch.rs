//! `watch = true`: the file is taken whenever it has changed, whichever way, and once it is whole.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use support::{Backend, Isobar, Launch, wait_until};

struct Scene {
    backends: Vec<Backend>,
    isobar: Isobar,
}

/// A file with so many backends, up to three.
fn text(backends: &[Backend], settings: &str) -> String {
    let entries: Vec<_> = backends.iter().map(Backend::entry).collect();
    "[runtime]\nwatch = true\n".to_owned() + &support::web(settings, &entries)
}

impl Scene {
    fn new() -> Self {
        let backends: Vec<_> = ["b1", "b2", "b3"].into_iter().map(Backend::named).collect();
        let isobar = Isobar::start(&text(&backends, ""));
        Self { backends, isobar }
    }

    /// A whole file whose `connect_attempts` is this.
    fn version(&self, n: u32) -> String {
        let settings = format!("connect_attempts = {n}");
        self.isobar.completed(&text(&self.backends, &settings))
    }

    fn path(&self) -> PathBuf {
        self.isobar.dir().join("lb.toml")
    }

    fn in_force(&self, n: u32) -> bool {
        let config = self.isobar.get("/config").body;
        config
            .lines()
            .any(|line| line == format!("connect_attempts = {n}"))
    }

    #[track_caller]
    fn wait(&self, n: u32) {
        wait_until(&format!("version {n} was in force"), || self.in_force(n));
    }

    fn generation(&self) -> u64 {
        self.isobar.count("/config/generation")
    }
}

#[test]
fn a_rewrite_and_a_rename_over_it_are_taken_once_each() {
    let scene = Scene::new();
    fs::write(scene.path(), scene.version(5)).expect("written");
    scene.wait(5);
    for n in 6..8 {
        let new = scene.isobar.dir().join(".lb.toml.swp");
        fs::write(&new, scene.version(n)).expect("written");
        fs::rename(&new, scene.path()).expect("renamed");
        scene.wait(n);
    }
    let by = |line: &&support::Line| line.message() == "reloaded" && line.says("by", "watch");
    wait_until("three reloads were told", || {
        scene.isobar.log().lines().iter().filter(by).count() == 3
    });
    assert_eq!(scene.generation(), 4);
    let audit = |line: &&support::Line| line.says("target", "isobar::audit");
    wait_until("each change is one audit line", || {
        scene.isobar.log().lines().iter().filter(audit).count() == 3
    });
    let lines = scene.isobar.log().lines();
    let line = lines.iter().find(audit).expect("a line");
    let told = ["by", "what", "before", "after"].map(|field| line.text(field));
    let expected = ["watch", "reload", "generation=1", "generation=2"];
    assert_eq!(told, expected.map(Some));
}

#[test]
fn a_file_that_was_deleted_is_taken_when_it_is_back() {
    let scene = Scene::new();
    fs::remove_file(scene.path()).expect("a file");
    // Long enough to be seen as gone: nothing happens for that.
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(scene.isobar.stat("/config/last_reload/ok"), true);
    fs::write(scene.path(), scene.version(5)).expect("written");
    scene.wait(5);
}

/// As Kubernetes does it: the file is a link into `..data`, which is a link to a directory that
/// is replaced by another one.
#[test]
fn a_symlink_that_leads_elsewhere_is_taken() {
    let launch = Launch::new("");
    let mounted = launch.dir().join("mounted");
    let isobar_text =
        |n: u32, backends: &[Backend]| text(backends, &format!("connect_attempts = {n}"));
    let backends: Vec<_> = ["b1", "b2"].into_iter().map(Backend::named).collect();
    let isobar = launch.with_text(&isobar_text(4, &backends)).start();
    let scene = Scene { backends, isobar };
    fs::create_dir(&mounted).expect("a directory");
    let publish = |stamp: &str, n: u32| {
        let directory = mounted.join(stamp);
        fs::create_dir(&directory).expect("a directory");
        fs::write(directory.join("lb.toml"), scene.version(n)).expect("written");
        let new = mounted.join("..data_tmp");
        symlink(stamp, &new).expect("a link");
        fs::rename(&new, mounted.join("..data")).expect("renamed");
    };
    publish("..2026_01", 5);
    fs::remove_file(scene.path()).expect("a file");
    symlink(Path::new("mounted/..data/lb.toml"), scene.path()).expect("a link");
    scene.wait(5);
    publish("..2026_02", 6);
    scene.wait(6);
    fs::remove_dir_all(mounted.join("..2026_01")).expect("removed");
    publish("..2026_03", 7);
    scene.wait(7);
}

/// A file that is written bit by bit is valid on the way, with fewer backends; it is taken when
/// it has been whole for a while.
#[test]
fn half_a_file_is_never_taken() {
    let scene = Scene::new();
    let whole = scene.version(5);
    let parts: Vec<_> = whole.as_bytes().chunks(whole.len() / 8 + 1).collect();
    fs::write(scene.path(), "").expect("written");
    for part in parts {
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(scene.generation(), 1);
        assert_eq!(scene.isobar.stat("/config/last_reload/ok"), true);
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(scene.path())
            .expect("a file");
        std::io::Write::write_all(&mut file, part).expect("room");
    }
    scene.wait(5);
    assert_eq!(scene.generation(), 2);
}

#[test]
fn other_files_of_the_directory_are_no_change() {
    let scene = Scene::new();
    for name in ["lb.toml~", ".lb.toml.swp", "4913", "lb.toml.bak"] {
        fs::write(scene.isobar.dir().join(name), "nonsense").expect("written");
    }
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(scene.generation(), 1);
    assert_eq!(scene.isobar.stat("/config/last_reload/ok"), true);
    scene.isobar.assert_calm();
}

#[test]
fn a_faulty_file_is_told_once_and_the_next_one_is_taken() {
    let scene = Scene::new();
    fs::write(scene.path(), "nonsense").expect("written");
    wait_until("it was refused", || {
        scene.isobar.stat("/config/last_reload/ok") == false
    });
    std::thread::sleep(Duration::from_millis(1200));
    let refused = |line: &support::Line| line.message() == "reload refused";
    assert_eq!(
        scene
            .isobar
            .log()
            .lines()
            .iter()
            .filter(|line| refused(line))
            .count(),
        1
    );
    fs::write(scene.path(), scene.version(5)).expect("written");
    scene.wait(5);
}

/// What an automatic reload would take away too much of, an operator still may.
#[test]
fn too_much_at_once_is_left_to_an_operator() {
    let scene = Scene::new();
    scene.isobar.expect_removal();
    let fewer = scene.isobar.completed(&text(&scene.backends[..1], ""));
    fs::write(scene.path(), &fewer).expect("written");
    wait_until("it was refused", || {
        scene.isobar.stat("/config/last_reload/ok") == false
    });
    let error = scene.isobar.stat("/config/last_reload/error");
    assert!(
        error
            .as_str()
            .expect("a reason")
            .contains("at most 30% may be"),
        "{error}"
    );
    assert_eq!(scene.generation(), 1);
    scene.isobar.reload();
    assert_eq!(scene.generation(), 2);
    assert_eq!(
        scene.isobar.stats()["config"]["last_reload"]["error"],
        Value::Null
    );
}

#[test]
fn the_watch_is_switched_on_and_off_by_the_file() {
    let scene = Scene::new();
    let off = |n: u32| scene.version(n).replace("watch = true", "watch = false");
    fs::write(scene.path(), off(5)).expect("written");
    scene.wait(5);
    fs::write(scene.path(), off(6)).expect("written");
    std::thread::sleep(Duration::from_millis(1200));
    assert!(scene.in_force(5));
    fs::write(scene.path(), scene.version(7)).expect("written");
    scene.isobar.reload();
    scene.wait(7);
    fs::write(scene.path(), scene.version(8)).expect("written");
    scene.wait(8);
}
