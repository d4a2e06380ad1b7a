use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;

use super::super::{ListenOptions, Liveness, Socket};
use super::*;

fn variables(all: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
    move |name| {
        let found = all.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    }
}

fn listening() -> (Address, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").into();
    (address, listener.into())
}

#[test]
fn sockets_for_another_process_are_not_ours() {
    for all in [
        &[("LISTEN_FDS", "1")][..],
        &[("LISTEN_FDS", "1"), ("LISTEN_PID", "8")],
        &[("LISTEN_FDS", "1"), ("LISTEN_PID", "seven")],
        &[("LISTEN_PID", "7")],
        &[("LISTEN_FDS", "many"), ("LISTEN_PID", "8")],
    ] {
        assert_eq!(Activation::read(&variables(all), 7), Ok(None), "{all:?}");
    }
}

#[test]
fn a_count_and_names_are_read() {
    let all = variables(&[
        ("LISTEN_PID", "7"),
        ("LISTEN_FDS", "2"),
        ("LISTEN_FDNAMES", "web.socket:admin"),
    ]);
    let activation = Activation::read(&all, 7).expect("a number").expect("ours");
    assert_eq!(activation.count, 2);
    assert_eq!(activation.names, ["web.socket", "admin"]);
}

#[test]
fn a_count_that_is_none_is_told() {
    let all = variables(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "-1")]);
    assert_eq!(Activation::read(&all, 7), Err("-1".to_owned()));
}

#[test]
fn a_socket_is_taken_once_by_its_address_alone() {
    let mut inherited = Inherited::none();
    let ((one, first), (two, second)) = (listening(), listening());
    inherited
        .add(&one, first, Keeper::Isobar)
        .expect("a listener");
    inherited
        .add(&two, second, Keeper::Isobar)
        .expect("a listener");
    let handed = inherited.take(&two).expect("the second");
    assert_eq!(address_of(&handed.socket).expect("a listener"), two);
    assert!(inherited.take(&two).is_none());
    let any_port = "127.0.0.1:0".parse().expect("an address");
    assert!(inherited.take(&any_port).is_none());
    let left = inherited.left();
    assert_eq!(left.len(), 1);
    assert!(left[0].contains(&one.to_string()), "{left:?}");
}

#[test]
fn a_mapped_address_is_the_ipv4_address() {
    let mut inherited = Inherited::none();
    let (address, socket) = listening();
    inherited
        .add(&address, socket, Keeper::Isobar)
        .expect("a listener");
    let port = address.port().expect("a port");
    let mapped = format!("[::ffff:127.0.0.1]:{port}");
    assert!(
        inherited
            .take(&mapped.parse().expect("an address"))
            .is_some()
    );
}

#[test]
fn unix_sockets_are_known_by_path_and_by_abstract_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.sock");
    let by_path = UnixListener::bind(&path).expect("a socket");
    assert_eq!(
        address_of(&by_path.into()).expect("a listener"),
        Address::Unix(path)
    );
    let name = format!("isobar-inherit-{}", std::process::id());
    let abstract_one = std::os::unix::net::SocketAddr::from_abstract_name(&name)
        .and_then(|address| UnixListener::bind_addr(&address))
        .expect("a socket");
    assert_eq!(
        address_of(&abstract_one.into()).expect("a listener"),
        Address::Unix(format!("@{name}").into())
    );
}

#[test]
fn what_is_no_listening_stream_socket_is_refused() {
    let (address, listener) = listening();
    let Address::Ip(ip) = address else {
        unreachable!("it was bound to an IP address")
    };
    let connection = TcpStream::connect(ip).expect("a listener");
    drop(listener);
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let file = std::fs::File::open("/dev/null").expect("a file");
    assert!(matches!(
        address_of(&connection.into()),
        Err(InheritError::NotListening)
    ));
    for socket in [OwnedFd::from(datagrams), file.into()] {
        assert!(matches!(address_of(&socket), Err(InheritError::Kind)));
    }
}

#[test]
fn a_socket_with_another_address_than_was_said_is_refused() {
    let ((address, _kept), (other, socket)) = (listening(), listening());
    let mut inherited = Inherited::none();
    let refused = inherited.add(&address, socket, Keeper::Isobar);
    assert!(matches!(refused, Err(InheritError::OtherAddress(a)) if a == other));
    assert!(inherited.take(&other).is_none());
}

#[test]
fn a_socket_does_not_block_and_is_closed_on_exec_however_it_came() {
    let (_, socket) = listening();
    rustix::io::fcntl_setfd(&socket, FdFlags::empty()).expect("our own socket");
    address_of(&socket).expect("a listener");
    let flags = rustix::io::fcntl_getfd(&socket).expect("our own socket");
    assert!(flags.contains(FdFlags::CLOEXEC));
    let flags = rustix::fs::fcntl_getfl(&socket).expect("our own socket");
    assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
}

/// 1. A socket is handed on, to the same process for once.
/// 2. The first owner leaves the file; the second removes it.
#[test]
fn the_file_of_a_socket_goes_with_its_last_owner() {
    let options = ListenOptions {
        backlog: 8,
        ipv6_only: false,
        unix_mode: 0o600,
        liveness: Liveness::OFF,
    };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.sock");
    let address = Address::Unix(path.clone());
    let first = Socket::bind(&address, options).expect("a socket");
    let copy = first.socket().try_clone().expect("a descriptor");
    let mut inherited = Inherited::none();
    inherited
        .add(&address, copy, first.keeper())
        .expect("a listener");
    let second = Socket::open(&address, options, &mut inherited).expect("a listener");
    first.give_away_file();
    drop(first);
    assert!(path.exists());
    let client = std::os::unix::net::UnixStream::connect(&path);
    client.expect("somebody listens");
    drop(second);
    assert!(!path.exists());
}
