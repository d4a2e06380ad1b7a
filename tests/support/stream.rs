//! One connection, seen from the client or from the backend.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use isobar::net::Address;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown,
    SocketAddrUnix, SocketFlags, SocketType,
};

use super::deadline::{patience, scaled, wait_until};
use super::pattern::Pattern;
use super::process;
use super::tally::Tally;

/// A writer that gets nowhere for this long is stalled.
pub const STALL: Duration = Duration::from_millis(200);

/// How a stream of bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By FIN: whole.
    Fin,
    /// By RST: cut short.
    Reset,
}

/// One connected socket of any family. Every call gives up at the deadline of all tests, with
/// a panic; all but the closing ones can be used from two threads at once.
pub struct Stream {
    fd: OwnedFd,
    unix: bool,
    tally: Arc<Tally>,
    sent: AtomicU64,
    received: AtomicU64,
    fin_sent: AtomicBool,
}

impl Stream {
    /// Dials `address`; the bytes are added to `tally`.
    pub fn connect(address: &Address, tally: &Arc<Tally>) -> io::Result<Self> {
        Self::connect_from(None, address, tally)
    }

    /// The same from a source address of choice, such as another 127.0.0.x.
    pub fn connect_from(
        source: Option<IpAddr>,
        address: &Address,
        tally: &Arc<Tally>,
    ) -> io::Result<Self> {
        let fd = socket(address)?;
        let stream = Self::over(fd, matches!(address, Address::Unix(_)), tally)?;
        if let Some(source) = source {
            rustix::net::bind(&stream.fd, &SocketAddr::new(source, 0))?;
        }
        match address {
            Address::Ip(to) => rustix::net::connect(&stream.fd, to)?,
            Address::Unix(path) => rustix::net::connect(&stream.fd, &unix_address(path)?)?,
        }
        Ok(stream)
    }

    /// A connected socket as a stream.
    pub fn over(fd: OwnedFd, unix: bool, tally: &Arc<Tally>) -> io::Result<Self> {
        for timeout in [Timeout::Recv, Timeout::Send] {
            sockopt::set_socket_timeout(&fd, timeout, Some(patience()))?;
        }
        if !unix {
            sockopt::set_tcp_nodelay(&fd, true)?;
        }
        Ok(Self {
            fd,
            unix,
            tally: Arc::clone(tally),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            fin_sent: AtomicBool::new(false),
        })
    }

    /// Its own address as the other end sees it; `None` for a Unix client.
    pub fn local(&self) -> Option<SocketAddr> {
        let address = rustix::net::getsockname(&self.fd).expect("an open socket has an address");
        address.try_into().ok()
    }

    /// Bytes handed to the kernel so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    /// Bytes got from the kernel so far.
    pub fn received(&self) -> u64 {
        self.received.load(SeqCst)
    }
}

/// Writing.
impl Stream {
    /// Sends all of `bytes`.
    #[track_caller]
    pub fn write(&self, bytes: impl AsRef<[u8]>) {
        if let Err(error) = self.try_write(bytes) {
            panic!("cannot write: {error} ({self:?})");
        }
    }

    /// Sends all of `bytes`, or says why not.
    pub fn try_write(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            let n = self.send(rest, SendFlags::NOSIGNAL)?;
            rest = &rest[n..];
        }
        Ok(())
    }

    /// Sends the first `n` bytes of `pattern`.
    #[track_caller]
    pub fn write_pattern(&self, pattern: Pattern, n: u64) {
        if let Err(error) = self.try_write_pattern(pattern, n) {
            panic!("cannot write: {error} ({self:?})");
        }
    }

    /// The same, or says why not.
    pub fn try_write_pattern(&self, pattern: Pattern, n: u64) -> io::Result<()> {
        self.try_write_range(pattern, 0, n)
    }

    /// Sends the bytes of `pattern` from offset `from` up to offset `to`.
    pub fn try_write_range(&self, pattern: Pattern, from: u64, to: u64) -> io::Result<()> {
        let mut done = from;
        while done < to {
            let left = usize::try_from(to - done).unwrap_or(usize::MAX);
            let part = pattern.at(done, left);
            self.try_write(part)?;
            done += part.len() as u64;
        }
        Ok(())
    }

    /// Sends bytes of `pattern` until the kernel takes none for `quiet`, at most `limit`;
    /// returns how many it took.
    pub fn fill(&self, pattern: Pattern, limit: u64, quiet: Duration) -> u64 {
        self.fill_in_segments(usize::MAX, pattern, limit, quiet)
    }

    /// The same with at most `segment` bytes at once.
    pub fn fill_in_segments(
        &self,
        segment: usize,
        pattern: Pattern,
        limit: u64,
        quiet: Duration,
    ) -> u64 {
        let start = self.sent();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            let done = self.sent() - start;
            if done >= limit || self.wait(PollFlags::OUT, quiet).is_empty() {
                return done;
            }
            let left = usize::try_from(limit - done).unwrap_or(usize::MAX);
            match self.send(pattern.at(done, left.min(segment)), flags) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return self.sent() - start,
            }
        }
    }

    /// Sends `bytes` and FIN in one segment.
    #[track_caller]
    pub fn write_and_fin(&self, bytes: &[u8]) {
        let flags = SendFlags::NOSIGNAL | SendFlags::MORE;
        let sent = self.send(bytes, flags).expect("room for a few bytes");
        assert_eq!(sent, bytes.len());
        self.fin();
    }

    /// Sends `bytes`, which are few, with a descriptor; for Unix sockets.
    #[track_caller]
    pub fn write_with_descriptor(&self, bytes: &str) {
        let own = [self.fd.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&own)));
        let parts = [IoSlice::new(bytes.as_bytes())];
        let sent = rustix::net::sendmsg(&self.fd, &parts, &mut ancillary, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(bytes.len()));
        self.sent.fetch_add(bytes.len() as u64, SeqCst);
        self.tally.add_sent(bytes.len());
    }

    /// Waits until the kernel has taken nothing more for a while, as the reader does not read.
    pub fn wait_for_stall(&self) {
        let mut before = u64::MAX;
        wait_until("a writer stalled", || {
            let stalled = self.sent() == before;
            before = self.sent();
            std::thread::sleep(scaled(STALL));
            stalled
        });
    }

    /// Bytes that the other end's kernel has not acknowledged yet. TCP only.
    pub fn unacknowledged(&self) -> u64 {
        let peer = rustix::net::getpeername(&self.fd).ok().flatten();
        let peer = peer.and_then(|peer| peer.try_into().ok());
        let ends = self.local().zip(peer);
        ends.and_then(|(local, peer)| process::unacknowledged(local, peer))
            .unwrap_or(0)
    }

    /// Waits until the other end's kernel has everything. TCP only.
    #[track_caller]
    pub fn wait_acknowledged(&self) {
        wait_until("all was acknowledged", || self.unacknowledged() == 0);
    }

    /// Sends one urgent byte, which no reader of the stream sees, see tcp(7).
    #[track_caller]
    pub fn write_urgent(&self) {
        let sent = rustix::net::send(&self.fd, b"!", SendFlags::OOB);
        assert_eq!(sent, Ok(1), "an urgent byte");
    }

    /// Sends FIN: this side has said everything.
    #[track_caller]
    pub fn fin(&self) {
        self.fin_sent.store(true, SeqCst);
        match rustix::net::shutdown(&self.fd, Shutdown::Write) {
            // The other end has reset it meanwhile.
            Ok(()) | Err(Errno::NOTCONN) => {}
            Err(error) => panic!("cannot shut down: {error}"),
        }
    }

    /// Closes with RST; on a Unix socket, which knows none, closes.
    pub fn reset(self) {
        self.arm_reset();
    }

    /// Resets now although another thread may be using the stream.
    pub fn abort(&self) {
        if self.unix {
            let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
        } else {
            // tcp_disconnect() in the kernel: RST at once, whoever else holds the socket.
            let _ = rustix::net::connect_unspec(&self.fd);
        }
    }

    /// From now on hears nothing and says nothing, as if the cable were cut: its kernel drops
    /// whatever comes, unacknowledged. TCP only, and the test must not write to it any more.
    pub fn vanish(&self) {
        /// `BPF_RET | BPF_K`: of each packet keep so many bytes.
        const RETURN: u16 = 0x06;
        let keep_nothing = [socket2::SockFilter::new(RETURN, 0, 0, 0)];
        socket2::SockRef::from(&self.fd)
            .attach_filter(&keep_nothing)
            .expect("anybody may filter their own socket");
        // Else the end of the test would say FIN.
        self.arm_reset();
    }

    /// From now on one in `n` segments that come is lost before its kernel has seen it, by chance.
    /// TCP only.
    pub fn lose_one_in(&self, n: u32) {
        // Classic BPF, see socket(7) and linux/filter.h: a random number (`SKF_AD_RANDOM`, at
        // a place where no packet is), modulo n; of the packet nothing is kept where that is 0.
        const LOAD_RANDOM: (u16, u32) = (0x20, 0xffff_f000 + 56);
        const MODULO: u16 = 0x94;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        let filter = [
            socket2::SockFilter::new(LOAD_RANDOM.0, 0, 0, LOAD_RANDOM.1),
            socket2::SockFilter::new(MODULO, 0, 0, n),
            socket2::SockFilter::new(JUMP_IF_EQUAL, 0, 1, 0),
            socket2::SockFilter::new(RETURN, 0, 0, 0),
            socket2::SockFilter::new(RETURN, 0, 0, u32::MAX),
        ];
        socket2::SockRef::from(&self.fd)
            .attach_filter(&filter)
            .expect("anybody may filter their own socket");
    }

    fn arm_reset(&self) {
        if !self.unix {
            sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO)).expect("a socket option");
        }
    }

    fn send(&self, bytes: &[u8], flags: SendFlags) -> io::Result<usize> {
        let n = retry(|| rustix::net::send(&self.fd, bytes, flags))?;
        self.sent.fetch_add(n as u64, SeqCst);
        self.tally.add_sent(n);
        Ok(n)
    }
}

/// Reading.
impl Stream {
    /// The next bytes, at most as many as fit; 0 is FIN.
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let (n, _) = retry(|| rustix::net::recv(&self.fd, &mut *into, RecvFlags::empty()))?;
        self.received.fetch_add(n as u64, SeqCst);
        self.tally.add_received(n);
        Ok(n)
    }

    /// Exactly `n` bytes.
    #[track_caller]
    pub fn read_exact(&self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        let mut done = 0;
        while done < n {
            match self.read(&mut bytes[done..]) {
                Ok(0) => panic!("FIN after {done} of {n} bytes"),
                Ok(more) => done += more,
                Err(error) => panic!("{error} after {done} of {n} bytes"),
            }
        }
        bytes
    }

    /// What comes up to `n` bytes, or to the end.
    pub fn try_read_up_to(&self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        let mut done = 0;
        while done < n {
            match self.read(&mut bytes[done..]) {
                Ok(more @ 1..) => done += more,
                _ => break,
            }
        }
        bytes.truncate(done);
        bytes
    }

    /// Asserts that `bytes` come next.
    #[track_caller]
    pub fn expect(&self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let got = self.read_exact(bytes.len());
        assert_eq!(
            got.escape_ascii().to_string(),
            bytes.escape_ascii().to_string()
        );
    }

    /// Asserts that this PROXY header comes next, which is no payload and not counted as such.
    #[track_caller]
    pub fn expect_header(&self, header: impl AsRef<[u8]>) {
        let header = header.as_ref();
        self.expect(header);
        self.tally.discount_received(header.len());
    }

    /// Asserts that the first `n` bytes of `pattern` come next.
    #[track_caller]
    pub fn expect_pattern(&self, pattern: Pattern, n: u64) {
        let (got, end) = self.take_pattern(pattern, n);
        assert_eq!(got, n, "ended early: {end:?}");
    }

    /// The text up to a newline, which is left out. Reads a byte at a time.
    #[track_caller]
    pub fn read_line(&self) -> String {
        self.try_read_line()
            .unwrap_or_else(|end| panic!("{end} instead of a line"))
    }

    /// The same, or how the stream ended before it.
    pub fn try_read_line(&self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match self.read(&mut byte)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ if byte == *b"\n" => break,
                _ => line.push(byte[0]),
            }
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Everything up to the end, and how it ended.
    #[track_caller]
    pub fn read_to_end(&self) -> (Vec<u8>, End) {
        let mut all = Vec::new();
        let end = self.each_read(|bytes| all.extend_from_slice(bytes));
        (all, end)
    }

    /// Checks everything up to the end against `pattern`: how many bytes, and how it ended.
    #[track_caller]
    pub fn read_pattern_to_end(&self, pattern: Pattern) -> (u64, End) {
        let (n, end) = self.take_pattern(pattern, u64::MAX);
        (n, end.expect("only an end stops it"))
    }

    /// The same for a stream whose first bytes have been read: from there on, counted from the
    /// beginning.
    #[track_caller]
    pub fn read_rest_of_pattern(&self, pattern: Pattern) -> (u64, End) {
        let mut done = self.received();
        let end = self.each_read(|bytes| {
            pattern.check(done, bytes);
            done += bytes.len() as u64;
        });
        (done, end)
    }

    /// Asserts that nothing more comes, and says how it ended.
    #[track_caller]
    pub fn end(&self) -> End {
        let (rest, end) = self.read_to_end();
        assert!(
            rest.is_empty(),
            "{} more bytes before the end: {}",
            rest.len(),
            rest[..rest.len().min(80)].escape_ascii()
        );
        end
    }

    /// Asserts that the stream ends here, with FIN.
    #[track_caller]
    pub fn expect_fin(&self) {
        assert_eq!(self.end(), End::Fin);
    }

    /// Asserts that the stream ends here, with RST; on a Unix socket a reset is a close.
    #[track_caller]
    pub fn expect_reset(&self) {
        self.assert_is_reset(self.end());
    }

    /// Asserts that `end` is a reset; on a Unix socket a close.
    #[track_caller]
    pub fn assert_is_reset(&self, end: End) {
        assert!(self.unix || end == End::Reset, "a FIN instead of a reset");
    }

    /// Waits, without reading, until the connection is gone both ways.
    #[track_caller]
    pub fn expect_gone(&self) {
        let events = self.wait(PollFlags::HUP | PollFlags::ERR, patience());
        assert!(!events.is_empty(), "still there ({self:?})");
    }

    /// Whether for `time` nothing comes: no byte, no FIN, no reset.
    pub fn is_silent_for(&self, time: Duration) -> bool {
        self.wait(PollFlags::IN | PollFlags::RDHUP, time).is_empty()
    }

    fn take_pattern(&self, pattern: Pattern, limit: u64) -> (u64, Option<End>) {
        let mut buffer = vec![0; 64 * 1024];
        let mut done = 0;
        while done < limit {
            let room = usize::try_from(limit - done).unwrap_or(usize::MAX);
            let room = room.min(buffer.len());
            match self.step(&mut buffer[..room]) {
                Ok(bytes) => {
                    pattern.check(done, bytes);
                    done += bytes.len() as u64;
                }
                Err(end) => return (done, Some(end)),
            }
        }
        (done, None)
    }

    fn each_read(&self, mut take: impl FnMut(&[u8])) -> End {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.step(&mut buffer) {
                Ok(bytes) => take(bytes),
                Err(end) => return end,
            }
        }
    }

    fn step<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], End> {
        match self.read(buffer) {
            Ok(0) if self.was_cut() => Err(End::Reset),
            Ok(0) => Err(End::Fin),
            Ok(n) => Ok(&buffer[..n]),
            Err(error) if is_reset(&error) => Err(End::Reset),
            Err(error) => panic!("neither bytes nor an end: {error} ({self:?})"),
        }
    }

    /// Whether what reads like FIN is the rest of a reset: the kernel reports that once, and a
    /// write from another thread may have got the report. After a FIN of the other end alone
    /// this socket is only half closed.
    fn was_cut(&self) -> bool {
        let half_closed_by_us = self.fin_sent.load(SeqCst);
        let events = self.wait(PollFlags::empty(), Duration::ZERO);
        !self.unix && !half_closed_by_us && events.contains(PollFlags::HUP)
    }

    /// What of `events`, an error or a hang-up has happened, within `time`.
    fn wait(&self, events: PollFlags, time: Duration) -> PollFlags {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("a short time");
            let mut fds = [PollFd::new(&self.fd, events)];
            match poll(&mut fds, Some(&left)) {
                Ok(_) => return fds[0].revents(),
                Err(Errno::INTR) => {}
                Err(error) => panic!("cannot poll: {error}"),
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("local", &self.local())
            .field("sent", &self.sent())
            .field("received", &self.received())
            .finish()
    }
}

/// Whether `error` says that the other end has cut the connection.
pub fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
    )
}

/// A stream socket for `address`, not connected.
pub fn socket(address: &Address) -> io::Result<OwnedFd> {
    let family = match address {
        Address::Ip(SocketAddr::V4(_)) => AddressFamily::INET,
        Address::Ip(SocketAddr::V6(_)) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    };
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// A path, or `@name` in the abstract namespace, as the kernel takes it.
pub fn unix_address(path: &std::path::Path) -> io::Result<SocketAddrUnix> {
    let name = path.as_os_str().as_encoded_bytes();
    Ok(match name.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    })
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
