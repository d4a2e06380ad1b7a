use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::oneshot;

use super::*;
use crate::conn::relay::Pose;
use crate::metrics::PerCore;

/// Both ends of a TCP connection.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = TcpStream::connect(address).expect("a listener");
    let (server, _) = listener.accept().expect("a client");
    (client, server)
}

fn passport(id: u64) -> Passport {
    Passport {
        id,
        listener: "web".into(),
        route: Some("2".into()),
        client: "10.0.0.1:1000".parse().expect("an address"),
        pool: "web".into(),
        backend: "b1".into(),
        backend_address: "10.0.0.2:80".parse().expect("an address"),
        accepted_at: SystemTime::UNIX_EPOCH,
        age: Duration::from_secs(9),
        idle: Duration::from_millis(1),
        bytes_in: 3,
        bytes_out: 4,
        answered: true,
        attempts: 2,
        pick: Some(crate::log::Pick::Retry(2)),
        held: None,
        connect: Some(Duration::from_micros(80)),
        first_byte: None,
        sampled: None,
    }
}

fn pose(client: Kind) -> Pose {
    let gait = r#"{"done": false, "bulk": false}"#;
    let client = match client {
        Kind::Tcp => "Tcp",
        Kind::Unix => "Unix",
    };
    let text = format!(
        r#"{{"client": "{client}", "backend": "Tcp", "up": {gait}, "down": {gait},
            "first_fin": null, "asked_ago": null, "keepalive_in": null}}"#
    );
    serde_json::from_str(&text).expect("a pose")
}

fn pipe_with_bytes(bytes: &[u8]) -> InHand {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    rustix::io::write(&write, bytes).expect("room");
    let held = bytes.len();
    InHand::Pipe { read, write, held }
}

/// A parcel, and the other ends of its sockets.
fn parcel(id: u64, up: InHand, down: InHand) -> (Parcel, [TcpStream; 2]) {
    let ((client, at_client), (backend, at_backend)) = (connection(), connection());
    let still = Still {
        pose: pose(Kind::Tcp),
        client: client.into(),
        backend: backend.into(),
        up,
        down,
    };
    let parcel = Parcel {
        passport: passport(id),
        counters: Arc::new(PerCore::new(1)),
        still: Arc::new(still),
        verdict: oneshot::channel().0,
    };
    (parcel, [at_client, at_backend])
}

/// What comes out of a frame of these.
fn packed(parcels: &[Parcel]) -> (Vec<ConnectionRecord>, Vec<u8>, Vec<OwnedFd>) {
    let records: Vec<_> = parcels.iter().map(record).collect();
    let json = serde_json::to_vec(&records).expect("JSON");
    let (bytes, fds) = contents(parcels);
    let copies = fds
        .iter()
        .map(|fd| fd.try_clone_to_owned().expect("a descriptor"));
    let copies = copies.collect();
    let records = serde_json::from_slice(&json).expect("JSON");
    (records, bytes, copies)
}

#[test]
fn what_a_connection_holds_comes_out_as_it_went_in() {
    let (first, _keep) = parcel(1, InHand::Bytes((*b"up").into()), InHand::Nothing);
    let (second, ends) = parcel(
        2,
        pipe_with_bytes(b"in a pipe"),
        InHand::Bytes((*b"down").into()),
    );
    let (records, bytes, fds) = packed(&[first, second]);
    assert_eq!((&*bytes, fds.len()), (&b"updown"[..], 6));
    let mut out = unpack(records, bytes, fds).expect("connections");
    let (known, second) = out.pop().expect("the second");
    let (_, first) = out.pop().expect("the first");
    assert_eq!(known, passport(2));
    assert!(matches!(&first.up, InHand::Bytes(bytes) if **bytes == *b"up"));
    assert!(matches!(first.down, InHand::Nothing));
    assert!(matches!(&second.down, InHand::Bytes(bytes) if **bytes == *b"down"));
    let InHand::Pipe { read, held: 9, .. } = &second.up else {
        panic!("{:?}", second.up);
    };
    let mut buffer = [0; 16];
    assert_eq!(rustix::io::read(read, &mut buffer), Ok(9));
    assert_eq!(&buffer[..9], b"in a pipe");
    // Its sockets are the very same connections.
    let [mut at_client, _] = ends;
    at_client.write_all(b"x").expect("room");
    let mut client = TcpStream::from(second.client);
    client.set_nonblocking(false).expect("a socket");
    client.read_exact(&mut buffer[..1]).expect("a byte");
}

#[test]
fn counts_that_do_not_add_up_are_refused() {
    type Change<'a> = dyn Fn(&mut Vec<ConnectionRecord>, &mut Vec<u8>, &mut Vec<OwnedFd>) + 'a;
    let refused = |change: &Change<'_>| {
        let (parcel, _keep) = parcel(1, pipe_with_bytes(b"12345"), InHand::Bytes((*b"67").into()));
        let (mut records, mut bytes, mut fds) = packed(&[parcel]);
        change(&mut records, &mut bytes, &mut fds);
        unpack(records, bytes, fds).is_err()
    };
    assert!(!refused(&|_, _, _| ()));
    assert!(refused(&|_, bytes, _| bytes.push(0)));
    assert!(refused(&|_, bytes, _| bytes.truncate(1)));
    assert!(refused(&|_, _, fds| drop(fds.pop())));
    assert!(refused(&|_, _, fds| drop(fds.remove(0))));
    for held in [0, 4, 6, usize::MAX] {
        assert!(refused(
            &|records, _, _| records[0].up = HandRecord::Pipe(held)
        ));
    }
    for bytes in [0, 1, 3, usize::MAX] {
        assert!(refused(
            &|records, _, _| records[0].down = HandRecord::Bytes(bytes)
        ));
    }
}

#[test]
fn descriptors_of_another_kind_are_refused() {
    let refused = |place: usize, other: OwnedFd| {
        let (parcel, _keep) = parcel(1, pipe_with_bytes(b"12345"), InHand::Nothing);
        let (records, bytes, mut fds) = packed(&[parcel]);
        fds[place] = other;
        unpack(records, bytes, fds).is_err()
    };
    let file = || std::fs::File::open("/dev/null").expect("a file").into();
    let listener = || TcpListener::bind("127.0.0.1:0").expect("a port").into();
    let datagrams = || {
        std::net::UdpSocket::bind("127.0.0.1:0")
            .expect("a port")
            .into()
    };
    let unix = || {
        std::os::unix::net::UnixStream::pair()
            .expect("a pair")
            .0
            .into()
    };
    for place in 0..4 {
        assert!(refused(place, file()), "a file at {place}");
    }
    for place in 0..2 {
        assert!(refused(place, listener()), "a listener at {place}");
        assert!(refused(place, datagrams()), "datagrams at {place}");
        assert!(refused(place, unix()), "a Unix socket at {place}");
    }
    assert!(refused(2, unix()), "a socket for a pipe");
}

#[test]
fn fins_that_nobody_can_have_passed_on_are_refused() {
    let (parcel, _keep) = parcel(1, InHand::Nothing, InHand::Nothing);
    let (records, bytes, fds) = packed(&[parcel]);
    let mut json = serde_json::to_value(&records).expect("JSON");
    json[0]["pose"]["up"]["done"] = true.into();
    let records = serde_json::from_value(json).expect("records");
    assert!(unpack(records, bytes, fds).is_err());
}

#[test]
fn a_batch_holds_what_a_frame_may_carry() {
    let (parcel, _keep) = parcel(1, InHand::Bytes(vec![0; 64 << 10].into()), InHand::Nothing);
    let mut batch = Batch::default();
    let taken = (0..1000).take_while(|_| batch.takes(&parcel.still)).count();
    assert_eq!(taken, MOST_BYTES / (64 << 10));
    let (small, _keep) = self::parcel(1, InHand::Nothing, InHand::Nothing);
    let mut batch = Batch::default();
    let taken = (0..1000).take_while(|_| batch.takes(&small.still)).count();
    assert_eq!(taken, MOST_FDS / 2);
}
