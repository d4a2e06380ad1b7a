//! Bulk where pipes are few, small or not to be had: it is copied then, and arrives whole.

mod support;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use support::{
    Backend, End, Family, Isobar, Launch, Pattern, Stream, auto_finds_bulk, wait_until, web,
};

const MIB: u64 = 1 << 20;
const OUT: Pattern = Pattern(1);

/// What isobar asks for, and what is the least that it takes.
const WHOLE: usize = 1 << 20;
const LEAST: usize = 64 << 10;

/// Listener and pool `web` with this engine.
fn pool(engine: &str, backend: &Backend) -> String {
    web(&format!("relay = \"{engine}\""), &[backend.entry()])
}

fn spliced(isobar: &Isobar) -> u64 {
    isobar.metric("isobar_spliced_bytes_total", &[]) as u64
}

fn in_use(isobar: &Isobar) -> usize {
    isobar.metric("isobar_pipes_in_use", &[]) as usize
}

/// A few mebibytes from one end to the other.
#[track_caller]
fn transfer(from: &Stream, to: &Stream) {
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_pattern(OUT, 4 * MIB));
        to.expect_pattern(OUT, 4 * MIB);
    });
}

/// Goes on until something is spliced.
#[track_caller]
fn transfer_until_spliced(isobar: &Isobar, from: &Stream, to: &Stream) {
    wait_until("bytes were spliced", || {
        transfer(from, to);
        spliced(isobar) > 0
    });
}

#[track_caller]
fn close(client: &Stream, backend: &Stream) {
    client.fin();
    backend.expect_fin();
    backend.fin();
    client.expect_fin();
}

/// 1. a connection is open, and no descriptor is left;
/// 2. bulk arrives whole both ways, and none of it was spliced;
/// 3. with descriptors again it is spliced, on the same connection.
#[test]
fn bulk_is_copied_while_no_descriptor_is_left_for_a_pipe() {
    let engines = ["splice", "auto"].into_iter();
    for engine in engines.filter(|engine| *engine == "splice" || auto_finds_bulk()) {
        let backend = Backend::manual(Family::Ipv4);
        let isobar = Isobar::start(&pool(engine, &backend));
        let (client, server) = (isobar.connect("web"), backend.accept());
        isobar.wait_count("/pools/web/backends/manual/connections/active", 1);
        let shortage = isobar.process().leave_descriptors(0);
        transfer(&client, &server);
        transfer(&server, &client);
        drop(shortage);
        assert_eq!(spliced(&isobar), 0, "{engine}");
        transfer_until_spliced(&isobar, &server, &client);
        close(&client, &server);
    }
}

/// Few descriptors, so that two cores have eight pipes each:
///
/// 1. far more downloads than that, to clients that do not read: each pipe is taken;
/// 2. they read on, and get everything; never is there a pipe more;
/// 3. all are given back.
#[test]
fn more_bulk_than_pipes_arrives_whole_and_takes_no_further_pipe() {
    const DESCRIPTORS: u64 = 512;
    const PIPES: usize = 16;
    const CLIENTS: usize = 60;
    const SIZE: u64 = 16 * MIB;
    let source = Backend::source(Family::Ipv4, SIZE);
    let text = format!("[runtime]\nthreads = 2\n{}", pool("splice", &source));
    let isobar = Launch::new(&text).nofile(DESCRIPTORS).start();
    let clients: Vec<_> = (0..CLIENTS).map(|_| isobar.connect("web")).collect();
    for client in &clients {
        // Far less than is to come, and well above a segment.
        set_socket_recv_buffer_size(client, 128 << 10).expect("a socket option");
    }
    wait_until("every pipe was in use", || in_use(&isobar) == PIPES);
    std::thread::scope(|scope| {
        let readers: Vec<_> = clients
            .iter()
            .map(|client| scope.spawn(|| client.read_pattern_to_end(Pattern(0))))
            .collect();
        wait_until("all have read everything", || {
            let now = in_use(&isobar);
            assert!(now <= PIPES, "{now} pipes");
            readers.iter().all(|reader| reader.is_finished())
        });
        for reader in readers {
            assert_eq!(reader.join().expect("no panic"), (SIZE, End::Fin));
        }
    });
    clients.iter().for_each(Stream::fin);
    isobar.wait_ended("web", "backend_closed", CLIENTS as u64);
    assert_eq!(in_use(&isobar), 0);
    let spliced = spliced(&isobar);
    let all = CLIENTS as u64 * SIZE;
    assert!((1..all).contains(&spliced), "{spliced} of {all} bytes");
}

/// Both ends of pipes that count as the user's.
type Hoard = Vec<(OwnedFd, OwnedFd)>;

/// Pipes of a user without privileges, as many as are given at all.
fn hoard(user: Uid) -> Hoard {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).expect("descriptors");
    let hoarding = move || {
        // Of this thread alone.
        set_thread_res_uid(user, user, user).expect("root may be anybody");
        let mut all = Hoard::new();
        let whole = loop {
            let (read, write) = pipe();
            let granted = fcntl_setpipe_size(&write, WHOLE);
            all.push((read, write));
            assert!(all.len() < 2000, "a user has no limit of pipes here");
            if granted.is_err() {
                break all.len() - 1;
            }
        };
        // In place of a large one, so that there are small ones to be had in any case.
        all.remove(whole - 1);
        loop {
            let (read, write) = pipe();
            let size = fcntl_getpipe_size(&write).expect("a pipe");
            all.push((read, write));
            if size < LEAST {
                break all;
            }
        }
    };
    std::thread::spawn(hoarding).join().expect("no panic")
}

/// isobar becomes a user that has all the pipes it may have (`fs.pipe-user-pages-soft`):
///
/// 1. a new pipe would have two pages: bulk is copied;
/// 2. there is room for a few of 64 KiB, and for none larger: it is spliced through these.
#[test]
#[ignore = "needs root"]
fn an_unprivileged_user_splices_as_far_as_its_pages_go() {
    let nobody = nix::unistd::User::from_name("nobody").expect("a user database");
    let nobody = nobody.expect("every Debian has nobody");
    let mut hoard = hoard(Uid::from_raw(nobody.uid.as_raw()));
    let backend = Backend::manual(Family::Ipv4);
    let text = pool("splice", &backend);
    let text = format!("[runtime]\nuser = \"nobody\"\nthreads = 1\n{text}");
    let isobar = Isobar::start(&text);
    let (client, server) = (isobar.connect("web"), backend.accept());
    let of_harness = pipes_of(&isobar);
    transfer(&client, &server);
    transfer(&server, &client);
    assert_eq!((spliced(&isobar), in_use(&isobar)), (0, 0));
    assert_eq!(pipes_of(&isobar), of_harness);
    close(&client, &server);

    // The last has two pages, those before it have 16.
    hoard.truncate(hoard.len() - 4);
    let (client, server) = (isobar.connect("web"), backend.accept());
    transfer_until_spliced(&isobar, &server, &client);
    let mut own = pipes_of(&isobar);
    own.retain(|pipe, _| !of_harness.contains_key(pipe));
    assert!(
        !own.is_empty() && own.values().all(|size| *size == LEAST),
        "{own:?}"
    );
    close(&client, &server);
}

/// The pipes that it has open, and how many bytes each takes.
fn pipes_of(isobar: &Isobar) -> BTreeMap<String, usize> {
    let directory = format!("/proc/{}/fd", isobar.process().0);
    let open = std::fs::read_dir(directory).expect("a process").flatten();
    let pipe = |descriptor: std::fs::DirEntry| {
        let target = std::fs::read_link(descriptor.path()).ok()?;
        let name = target.to_str()?.strip_prefix("pipe:")?.to_owned();
        // The same pipe once more, see proc(5).
        let pipe = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(descriptor.path());
        let size = fcntl_getpipe_size(pipe.ok()?).expect("a pipe");
        Some((name, size))
    };
    open.filter_map(pipe).collect()
}
