//! What the kernel knows of a TCP connection: `TCP_INFO` of tcp(7).
//!
//! The kernel's structure (`struct tcp_info` of `linux/tcp.h`) only ever grows at its end, and an
//! older kernel gives less of it. So its fields are read by their place, and what was not given is
//! not known, which is something else than 0.

use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::{Kind, Stream, sys};

/// More than Linux 6.18 has.
const MOST: usize = 256;

/// `tcpi_delivery_rate_app_limited`, in a byte of bit fields.
const APP_LIMITED: Field<u8> = Field::at(7);
/// `tcpi_unacked`, in segments.
const UNACKED: Field<u32> = Field::at(24);
/// `tcpi_rtt`, in microseconds.
const RTT: Field<u32> = Field::at(68);
/// `tcpi_bytes_acked`, since Linux 4.1.
const ACKED: Field<u64> = Field::at(120);
/// `tcpi_notsent_bytes`, since Linux 4.6.
const NOT_SENT: Field<u32> = Field::at(144);
/// `tcpi_delivery_rate`, in bytes per second, since Linux 4.9.
const DELIVERY_RATE: Field<u64> = Field::at(160);
/// `tcpi_bytes_sent`, retransmitted ones included, since Linux 4.19.
const SENT: Field<u64> = Field::at(200);
/// `tcpi_bytes_retrans`, since Linux 4.19.
const RETRANSMITTED: Field<u64> = Field::at(208);

/// What the kernel knows of a connection, as far as isobar wants to know it. What is sent is what
/// this side sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// The smoothed round-trip time (RFC 6298); `None`: nothing was measured yet.
    pub rtt: Option<Duration>,
    /// Bytes that the peer has acknowledged.
    pub acked: Option<u64>,
    /// Bytes that were sent; known together with `retransmitted`.
    pub sent: Option<u64>,
    /// Of those, how many were not sent for the first time.
    pub retransmitted: Option<u64>,
    /// In bytes per second: how fast the network has lately delivered, while there was enough to
    /// send. `None`: there was never enough for the network to be what held it up.
    pub delivery_rate: Option<u64>,
    /// Everything that was written to the socket is acknowledged.
    pub settled: bool,
}

/// What this kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// How fast it delivers.
    pub delivery_rate: bool,
    /// What was sent, and retransmitted.
    pub retransmitted: bool,
}

/// A number at a place of the structure.
struct Field<T> {
    at: usize,
    _kind: std::marker::PhantomData<T>,
}

impl<T> Field<T> {
    const fn at(at: usize) -> Self {
        Self {
            at,
            _kind: std::marker::PhantomData,
        }
    }

    /// Its bytes, if they were given.
    fn bytes<const N: usize>(&self, info: &[u8]) -> Option<[u8; N]> {
        info.get(self.at..self.at + N)?.try_into().ok()
    }
}

impl Field<u32> {
    fn of(&self, info: &[u8]) -> Option<u32> {
        self.bytes(info).map(u32::from_ne_bytes)
    }
}

impl Field<u64> {
    fn of(&self, info: &[u8]) -> Option<u64> {
        self.bytes(info).map(u64::from_ne_bytes)
    }
}

impl TcpInfo {
    /// Of a connected socket. One system call, which takes the socket's lock.
    ///
    /// # Errors
    /// What getsockopt(2) gives; a Unix socket has none.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let mut buffer = [0; MOST];
        let given = sys::tcp_info(socket, &mut buffer)?;
        Ok(Self::parse(&buffer[..given]))
    }

    /// What this kernel tells of any connection. It is asked once.
    pub fn told() -> Told {
        static TOLD: OnceLock<Told> = OnceLock::new();
        *TOLD.get_or_init(|| {
            let flags = SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
            let mut buffer = [0; MOST];
            let given = socket.map_err(io::Error::from);
            let given = given.and_then(|socket| sys::tcp_info(socket, &mut buffer));
            Told::by(&buffer[..given.unwrap_or(0)])
        })
    }

    fn parse(info: &[u8]) -> Self {
        let rtt = RTT.of(info).filter(|micros| *micros > 0);
        // Bit fields begin with the lowest bit, as the machine is little-endian.
        let app_limited = APP_LIMITED.bytes(info).is_none_or(|[bits]| bits & 1 == 1);
        let rate = DELIVERY_RATE.of(info);
        let retransmitted = RETRANSMITTED.of(info);
        Self {
            rtt: rtt.map(|micros| Duration::from_micros(micros.into())),
            acked: ACKED.of(info),
            sent: retransmitted.and(SENT.of(info)),
            retransmitted,
            delivery_rate: rate.filter(|rate| *rate > 0 && !app_limited),
            settled: UNACKED.of(info) == Some(0) && NOT_SENT.of(info).unwrap_or(0) == 0,
        }
    }
}

impl Told {
    fn by(info: &[u8]) -> Self {
        Self {
            delivery_rate: DELIVERY_RATE.of(info).is_some(),
            retransmitted: RETRANSMITTED.of(info).is_some(),
        }
    }
}

impl Stream {
    /// What the kernel knows of it; `None`: it is a Unix socket.
    pub fn tcp_info(&self) -> Option<TcpInfo> {
        let is_tcp = self.kind() == Kind::Tcp;
        is_tcp.then(|| TcpInfo::of(self.socket()).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    fn put(info: &mut [u8], at: usize, number: &[u8]) {
        info[at..at + number.len()].copy_from_slice(number);
    }

    /// As Linux 6.18 gives it.
    fn whole() -> Vec<u8> {
        let mut info = vec![0; 248];
        put(&mut info, 24, &3_u32.to_ne_bytes());
        put(&mut info, 68, &250_u32.to_ne_bytes());
        put(&mut info, 120, &9_000_u64.to_ne_bytes());
        put(&mut info, 160, &125_000_u64.to_ne_bytes());
        put(&mut info, 200, &10_000_u64.to_ne_bytes());
        put(&mut info, 208, &500_u64.to_ne_bytes());
        info
    }

    #[test]
    fn every_field_is_read_from_its_place() {
        let expected = TcpInfo {
            rtt: Some(Duration::from_micros(250)),
            acked: Some(9_000),
            sent: Some(10_000),
            retransmitted: Some(500),
            delivery_rate: Some(125_000),
            settled: false,
        };
        assert_eq!(TcpInfo::parse(&whole()), expected);
    }

    #[test]
    fn what_an_older_kernel_does_not_give_is_not_known() {
        let whole = whole();
        let of = |version: &str, given| (version.to_owned(), TcpInfo::parse(&whole[..given]));
        let (version, info) = of("4.18", 200);
        assert_eq!((info.sent, info.retransmitted), (None, None), "{version}");
        assert_eq!(info.delivery_rate, Some(125_000));
        let (version, info) = of("4.8", 160);
        assert_eq!(info.delivery_rate, None, "{version}");
        let (version, info) = of("2.6", 104);
        assert_eq!(info.acked, None, "{version}");
        assert_eq!(info.rtt, Some(Duration::from_micros(250)));
        assert_eq!(TcpInfo::parse(&[]), TcpInfo::default());
        let told = [216, 200, 160].map(|given| {
            let told = Told::by(&whole[..given]);
            (told.delivery_rate, told.retransmitted)
        });
        assert_eq!(told, [(true, true), (true, false), (false, false)]);
    }

    #[test]
    fn a_rate_that_the_sender_held_down_says_nothing_of_the_network() {
        let mut info = whole();
        info[7] = 1;
        assert_eq!(TcpInfo::parse(&info).delivery_rate, None);
        // Another bit of the same byte.
        info[7] = 2;
        assert_eq!(TcpInfo::parse(&info).delivery_rate, Some(125_000));
    }

    #[test]
    fn the_kernel_says_what_was_sent_and_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(address).expect("a listener");
        let (mut server, _) = listener.accept().expect("a client");
        client.write_all(&[7; 1000]).expect("room");
        server.read_exact(&mut [0; 1000]).expect("all of it");
        let deadline = Instant::now() + Duration::from_secs(20);
        let info = loop {
            let info = TcpInfo::of(&client).expect("of a TCP socket");
            assert!(Instant::now() < deadline, "{info:?}");
            if info.settled {
                break info;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(info.rtt.is_some_and(|rtt| rtt < Duration::from_secs(20)));
        let told = TcpInfo::told();
        let known = told.retransmitted.then_some(());
        assert_eq!(info.retransmitted, known.map(|()| 0));
        assert_eq!(info.sent, known.map(|()| 1000));
        // The handshake may count for one.
        assert!(
            info.acked
                .is_none_or(|acked| (1000..=1001).contains(&acked))
        );
    }

    #[test]
    fn a_unix_socket_has_none() {
        let (one, _other) = UnixStream::pair().expect("two sockets");
        assert!(TcpInfo::of(&one).is_err());
    }
}
