//! A DNS server that answers as the test says: over UDP and TCP on one port of loopback.
//!
//! Just enough of RFC 1035: one question, answers without compression but for the name that was
//! asked for.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A server, until it is dropped.
pub struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// A kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    A = 1,
    Aaaa = 28,
    Srv = 33,
}

/// What is said of a name.
#[derive(Clone, Debug)]
pub enum Say {
    /// Nothing at all.
    Hang,
    /// SERVFAIL.
    Fail,
    /// NXDOMAIN.
    Absent,
    /// That it is there, without records of this kind.
    Empty,
    /// These addresses, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// These records: priority, weight, port and host, for so many seconds.
    Services(Vec<(u16, u16, u16, &'static str)>, u32),
}

#[derive(Default)]
struct Zone {
    names: HashMap<String, Say>,
    /// Of one kind alone.
    kinds: HashMap<(String, u16), Say>,
    /// Answers over UDP have no room for records.
    truncates: bool,
    asked: HashMap<(String, u16), usize>,
    asked_by_tcp: usize,
}

/// How often threads look whether they are to end.
const LOOK: Duration = Duration::from_millis(20);

impl Dns {
    /// One that knows no name.
    pub fn start() -> Self {
        let (udp, tcp) = sockets();
        let address = udp.local_addr().expect("an address");
        let (zone, stop) = (Arc::<Mutex<Zone>>::default(), Arc::<AtomicBool>::default());
        udp.set_read_timeout(Some(LOOK)).expect("a time-out");
        tcp.set_nonblocking(true).expect("a flag");
        let threads = {
            let (zone, other) = (Arc::clone(&zone), Arc::clone(&zone));
            let (stop, too) = (Arc::clone(&stop), Arc::clone(&stop));
            vec![
                std::thread::spawn(move || datagrams(&udp, &zone, &stop)),
                std::thread::spawn(move || streams(&tcp, &other, &too)),
            ]
        };
        Self {
            address,
            zone,
            stop,
            threads,
        }
    }

    /// A file in `dir` for `ISOBAR_RESOLV_CONF` that names this server alone.
    pub fn resolv_conf(&self, dir: &Path) -> PathBuf {
        let path = dir.join("resolv.conf");
        let text = format!(
            "nameserver {}\noptions timeout:1 attempts:1\n",
            self.address
        );
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// What it says of a name from now on.
    pub fn say(&self, name: &str, say: Say) {
        let mut zone = self.zone();
        zone.kinds.retain(|(of, _), _| of != name);
        zone.names.insert(name.to_owned(), say);
    }

    /// The same where it is asked for records of one kind.
    pub fn say_of(&self, name: &str, kind: Kind, say: Say) {
        let key = (name.to_owned(), kind as u16);
        self.zone().kinds.insert(key, say);
    }

    /// These addresses of a name, for a second.
    pub fn addresses(&self, name: &str, ips: &[IpAddr]) {
        self.say(name, Say::Addresses(ips.to_vec(), 1));
    }

    /// Whether answers over UDP say that they were too long.
    pub fn truncate(&self, truncates: bool) {
        self.zone().truncates = truncates;
    }

    /// How often it was asked for records of a name.
    pub fn asked(&self, name: &str, kind: Kind) -> usize {
        let key = (name.to_owned(), kind as u16);
        self.zone().asked.get(&key).copied().unwrap_or(0)
    }

    /// How often it was asked over TCP.
    pub fn asked_by_tcp(&self) -> usize {
        self.zone().asked_by_tcp
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().expect("no panic while it was held")
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A port that is free for both.
fn sockets() -> (UdpSocket, TcpListener) {
    let pair = || {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let tcp = TcpListener::bind(udp.local_addr().expect("an address"));
        tcp.ok().map(|tcp| (udp, tcp))
    };
    let found = std::iter::repeat_with(pair).take(50).flatten().next();
    found.expect("a port that is free for UDP and TCP")
}

fn datagrams(socket: &UdpSocket, zone: &Mutex<Zone>, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((n, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let answer = lock(zone).answer(&buffer[..n], false);
        if let Some(answer) = answer {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn streams(listener: &TcpListener, zone: &Mutex<Zone>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => drop(one_stream(stream, zone)),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Answers one question, then closes.
fn one_stream(mut stream: TcpStream, zone: &Mutex<Zone>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut query = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut query)?;
    if let Some(answer) = lock(zone).answer(&query, true) {
        let length = u16::try_from(answer.len()).expect("a short answer");
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())?;
    }
    Ok(())
}

fn lock(zone: &Mutex<Zone>) -> MutexGuard<'_, Zone> {
    zone.lock().expect("no panic while it was held")
}

impl Zone {
    fn answer(&mut self, query: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
        let (name, end) = name_at(query, 12)?;
        let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
        *self.asked.entry((name.clone(), kind)).or_default() += 1;
        self.asked_by_tcp += usize::from(by_tcp);
        let say = self.kinds.get(&(name.clone(), kind));
        let say = say.or_else(|| self.names.get(&name)).cloned();
        let (code, records) = match say.unwrap_or(Say::Absent) {
            Say::Hang => return None,
            Say::Fail => (2, Vec::new()),
            Say::Absent => (3, Vec::new()),
            Say::Empty => (0, Vec::new()),
            Say::Addresses(ips, ttl) => (0, addresses(&ips, kind, ttl)),
            Say::Services(all, ttl) => (0, services(&all, kind, ttl)),
        };
        let cut = self.truncates && !by_tcp && !records.is_empty();
        let records = if cut { Vec::new() } else { records };
        let count = u16::try_from(records.len()).expect("few records");
        let mut answer = query[..2].to_vec();
        // A response, recursion desired and available; TC where it was cut.
        answer.extend([0x81 | if cut { 2 } else { 0 }, 0x80 | code]);
        answer.extend([0, 1]);
        answer.extend(count.to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(&query[12..end + 4]);
        answer.extend(records.concat());
        Some(answer)
    }
}

/// The name at `at`, and where it ends.
fn name_at(query: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = query.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
}

fn addresses(ips: &[IpAddr], kind: u16, ttl: u32) -> Vec<Vec<u8>> {
    let data = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) if kind == Kind::A as u16 => Some(ip.octets().to_vec()),
        IpAddr::V6(ip) if kind == Kind::Aaaa as u16 => Some(ip.octets().to_vec()),
        _ => None,
    };
    let all = ips.iter().filter_map(data);
    all.map(|data| record(kind, ttl, &data)).collect()
}

fn services(all: &[(u16, u16, u16, &str)], kind: u16, ttl: u32) -> Vec<Vec<u8>> {
    if kind != Kind::Srv as u16 {
        return Vec::new();
    }
    let data = |(priority, weight, port, host): &(u16, u16, u16, &str)| {
        let numbers = [*priority, *weight, *port];
        let mut data: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
        for label in host.split('.') {
            data.push(u8::try_from(label.len()).expect("a short label"));
            data.extend(label.as_bytes());
        }
        data.push(0);
        record(kind, ttl, &data)
    };
    all.iter().map(data).collect()
}

/// A record of the name that was asked for.
fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("little data");
    let mut record = vec![0xc0, 12];
    record.extend(kind.to_be_bytes());
    record.extend([0, 1]);
    record.extend(ttl.to_be_bytes());
    record.extend(length.to_be_bytes());
    record.extend(data);
    record
}
