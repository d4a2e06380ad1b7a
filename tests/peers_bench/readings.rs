//! What is read from the kernel, from programs and from the command line.

use std::collections::HashSet;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::contender::Contender;
use crate::discover::{Stream, name_columns, number, stream};
use crate::meter::Meter;
use crate::program::Program;
use crate::shares::watched;
use crate::{args, counters, shares};

/// A shell that counts to 100,000 between two lines that it waits for.
#[test]
fn the_meter_sees_cpu_time_and_context_switches_of_a_process() {
    const SCRIPT: &str = "read go; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; read stop";
    let mut shell = Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut orders = shell.stdin.take().expect("it is piped");
    let mut meter = Meter::attach(vec![shell.id().cast_signed()]).expect("a child's threads");
    let before = meter.read().expect("a reading");
    writeln!(orders, "go").expect("it reads");
    let deadline = Instant::now() + Duration::from_secs(60);
    let cost = loop {
        let cost = meter.read().expect("a reading").cost.since(before.cost);
        // Counting takes some milliseconds; to wait is to leave the CPU.
        if cost.cpu_ns > 1_000_000 && cost.switches.voluntary > 0 || Instant::now() > deadline {
            break cost;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    drop(orders);
    shell.wait().expect("it ends with its input");
    assert!(cost.cpu_ns > 1_000_000, "{cost:?}");
    assert!(cost.switches.voluntary > 0, "{cost:?}");
    let counted = counters::unavailable().is_none();
    assert_eq!(cost.instructions.is_some(), counted);
}

#[test]
fn fdinfo_of_an_epoll_instance_names_inodes_in_hexadecimal() {
    let info = "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1044\n\
                tfd:        4 events:       1f data:                4  pos:0 ino:1539b41 sdev:f\n\
                tfd:       11 events: 80002019 data: 7f12ab  pos:0 ino:2a sdev:9\n";
    assert_eq!(watched(info), HashSet::from([0x0153_9b41, 0x2a]));
    assert_eq!(watched("pos:\t0\nino:\t1044\n"), HashSet::new());
}

/// Four clients in two epoll instances, one of which has a second descriptor; a fifth
/// connection is in neither, a sixth belongs to another address.
#[test]
fn connections_are_counted_by_the_epoll_instance_that_waits_for_them() {
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let connect = |listener: &TcpListener| {
        let client = TcpStream::connect(listener.local_addr().expect("bound"));
        (
            client.expect("it listens"),
            listener.accept().expect("one").0,
        )
    };
    let mut pairs: Vec<_> = (0..5).map(|_| connect(&listener)).collect();
    pairs.push(connect(&other));
    let epolls = [(); 2].map(|()| epoll::create(CreateFlags::CLOEXEC).expect("an instance"));
    for (epoll, pair) in [(0, 0), (0, 1), (0, 2), (1, 3), (1, 5)] {
        let (data, accepted) = (EventData::new_u64(0), pairs[pair].1.as_fd());
        epoll::add(&epolls[epoll], accepted, data, EventFlags::IN).expect("it is new");
    }
    let _duplicate = epolls[0].try_clone().expect("a descriptor");
    let pids = [std::process::id().cast_signed()];
    let address = listener.local_addr().expect("bound");
    assert_eq!(
        shares::connections(&pids, address).expect("own files"),
        [3, 1]
    );
}

#[test]
fn nginx_says_where_its_stream_module_is() {
    let debian = "nginx version: nginx/1.22.1\nconfigure arguments: --prefix=/usr/share/nginx \
                  --modules-path=/usr/lib/nginx/modules --with-stream=dynamic \
                  --with-stream_ssl_module";
    assert_eq!(
        stream(debian),
        Stream::Module(Some("/usr/lib/nginx/modules"))
    );
    let linked = "configure arguments: --with-stream --with-stream_ssl_preread_module";
    assert_eq!(stream(linked), Stream::Linked);
    let dynamic = "configure arguments: --with-stream=dynamic";
    assert_eq!(stream(dynamic), Stream::Module(None));
    assert_eq!(
        stream("configure arguments: --with-stream_ssl_module"),
        Stream::Missing
    );
    assert_eq!(stream("nginx version: nginx/1.31.5"), Stream::Missing);
}

#[test]
fn versions_are_read_without_what_a_distribution_adds() {
    for (version, expected) in [
        (
            "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/",
            "2.6.12",
        ),
        ("HAProxy version 3.5-dev5-2b1dc8e 2026/01/01", "3.5-dev5"),
        ("nginx version: nginx/1.22.1", "1.22.1"),
        ("isobar 0.1.0", "0.1.0"),
        ("", ""),
    ] {
        assert_eq!(number(version), expected);
    }
}

#[test]
fn columns_of_one_kind_are_told_apart_by_version() {
    let of = |contender, version: &str| Program {
        contender,
        version: version.into(),
        ..Program::direct()
    };
    let mut programs = [
        of(Contender::Isobar, "isobar 0.1.0"),
        of(Contender::Haproxy, "HAProxy version 2.6.12-1+deb12u4"),
        of(Contender::Haproxy, "HAProxy version 3.5-dev5"),
        of(Contender::Haproxy, "HAProxy version 3.5-dev5"),
        of(Contender::Nginx, "nginx version: nginx/1.22.1"),
    ];
    name_columns(&mut programs);
    let columns = programs.map(|program| program.column);
    let expected = [
        "isobar",
        "haproxy-2.6.12",
        "haproxy-3.5-dev5",
        "haproxy-3.5-dev5-2",
        "nginx",
    ];
    assert_eq!(columns, expected);
}

#[test]
fn the_command_is_kept_without_directories() {
    let typed = [
        "--bench",
        "--quick",
        "--haproxy=/opt/a/haproxy",
        "--nginx",
        "/opt/b/nginx",
    ];
    let expected = "cargo bench --bench peers -- --quick --haproxy=haproxy --nginx nginx";
    assert_eq!(args::command(typed.map(String::from)), expected);
    assert_eq!(
        args::command(["--bench".to_owned()]),
        "cargo bench --bench peers"
    );
}
