//! Questions as this machine would answer them: by `/etc/hosts`, else by the DNS servers of
//! `/etc/resolv.conf`, with its search list, over UDP and, where an answer is too long for that,
//! over TCP.
//!
//! Both files are looked at again before a question, once a second at most. The environment
//! variable [`RESOLV_CONF`] names another file in the place of `/etc/resolv.conf`.
//!
//! IPv4 and IPv6 are asked for at the same time, and each is believed for itself: who hears
//! nothing of one knows nothing of it. So a server that never answers about IPv6 costs no more
//! than [`LATE`], and a lost packet no address. The next name of the search list is asked for
//! only where the one before it is known not to be there.

use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::files::{Hosts, ResolvConf};
use super::keep::Ask;
use super::memory::{Missing, Reply};
use crate::aside::aside;
use crate::config::Resolve;
use crate::net::HostName;
use crate::pool::Question;
use crate::pool::names::{Record, Resolved};

/// Names a file in the place of `/etc/resolv.conf`.
pub(super) const RESOLV_CONF: &str = "ISOBAR_RESOLV_CONF";
/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What `/etc/hosts` says is looked for again after this.
const HOSTS_TTL: Duration = Duration::from_secs(10);
/// How much later than IPv4 an answer about IPv6 may come, and the other way round.
const LATE: Duration = Duration::from_secs(1);
/// Hosts of one service beyond so many are left out.
const MOST_HOSTS: usize = 256;

/// The resolver of this machine.
#[derive(Debug)]
pub struct System {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    looked: Instant,
    texts: Texts,
    sources: Rc<Sources>,
}

/// What is in the two files; empty where one is not there.
type Texts = (Vec<u8>, Vec<u8>);

/// Whom to ask, as of the last look.
#[derive(Debug)]
struct Sources {
    conf: ResolvConf,
    hosts: Hosts,
    dns: TokioResolver,
}

/// What is known of one host.
enum Found {
    Addresses {
        ips: Vec<IpAddr>,
        ttl: Duration,
        missing: Vec<Missing>,
    },
    Absent(Option<Duration>),
    Failed(NetError),
}

impl System {
    /// The one that the environment of this process says.
    pub fn of_this_process() -> Self {
        let resolv_conf = std::env::var_os(RESOLV_CONF).filter(|path| !path.is_empty());
        Self {
            resolv_conf: resolv_conf.map_or_else(|| "/etc/resolv.conf".into(), PathBuf::from),
            hosts: "/etc/hosts".into(),
            current: Mutex::new(None),
        }
    }

    /// What the files say now.
    async fn sources(&self) -> Result<Rc<Sources>, String> {
        let mut current = self.current.lock().await;
        if let Some(current) = &*current
            && current.looked.elapsed() < LOOK
        {
            return Ok(Rc::clone(&current.sources));
        }
        let paths = (self.resolv_conf.clone(), self.hosts.clone());
        let read = |path: PathBuf| std::fs::read(path).unwrap_or_default();
        let texts = aside(move || (read(paths.0), read(paths.1))).await;
        let texts = texts.map_err(|error| format!("cannot read the files: {error}"))?;
        let looked = Instant::now();
        match &mut *current {
            Some(current) if current.texts == texts => current.looked = looked,
            current => {
                let sources = Sources::new(&texts).map_err(|error| error.to_string())?;
                *current = Some(Current {
                    looked,
                    texts,
                    sources: Rc::new(sources),
                });
            }
        }
        let current = current.as_ref().expect("it was just looked at");
        Ok(Rc::clone(&current.sources))
    }
}

impl Ask for System {
    async fn ask(&self, question: &Question) -> Reply {
        match self.sources().await {
            Err(error) => Reply::Failed {
                timeout: false,
                error,
            },
            Ok(sources) if question.service => sources.service(question).await,
            Ok(sources) => {
                let found = sources.host(&question.name, question.family).await;
                of_host(found, &question.name)
            }
        }
    }
}

fn of_host(found: Found, host: &HostName) -> Reply {
    match found {
        Found::Absent(ttl) => Reply::Absent { ttl },
        Found::Failed(error) => failed(&error),
        Found::Addresses { ips, ttl, missing } => Reply::Found {
            addresses: ips.into_iter().map(|ip| resolved(ip, host, None)).collect(),
            ttl,
            missing,
        },
    }
}

fn resolved(ip: IpAddr, host: &HostName, record: Option<Record>) -> Resolved {
    Resolved {
        record,
        ip,
        host: host.clone(),
    }
}

fn failed(error: &NetError) -> Reply {
    Reply::Failed {
        timeout: matches!(error, NetError::Timeout),
        error: match error {
            NetError::Timeout => "no DNS server answers".to_owned(),
            NetError::NoConnections => "no DNS server can be reached".to_owned(),
            NetError::Dns(DnsError::ResponseCode(code)) => {
                format!("the DNS server says {code}")
            }
            other => other.to_string(),
        },
    }
}

impl Sources {
    fn new((conf, hosts): &Texts) -> Result<Self, NetError> {
        let conf = ResolvConf::read(&String::from_utf8_lossy(conf));
        let hosts = Hosts::read(&String::from_utf8_lossy(hosts));
        let dns = dns(&conf)?;
        Ok(Self { conf, hosts, dns })
    }

    /// The addresses of a host.
    async fn host(&self, host: &HostName, family: Resolve) -> Found {
        let known = self.hosts.of(host).iter().copied();
        let known: Vec<_> = known.filter(|ip| family.takes(*ip)).collect();
        if !known.is_empty() {
            return Found::Addresses {
                ips: known,
                ttl: HOSTS_TTL,
                missing: Vec::new(),
            };
        }
        let mut absent = None;
        for name in self.conf.candidates(host) {
            match self.addresses(&name, host, family).await {
                Found::Absent(ttl) => absent = ttl,
                other => return other,
            }
        }
        Found::Absent(absent)
    }

    /// The addresses of the absolute `name`, which `host` stands for.
    async fn addresses(&self, name: &str, host: &HostName, family: Resolve) -> Found {
        match family {
            Resolve::Ipv4 => self.records(name, RecordType::A).await,
            Resolve::Ipv6 => self.records(name, RecordType::AAAA).await,
            Resolve::Any => {
                let ipv4 = self.records(name, RecordType::A);
                let ipv6 = self.records(name, RecordType::AAAA);
                let (ipv4, ipv6) = both(ipv4, ipv6).await;
                joined(ipv4, ipv6, host)
            }
        }
    }

    /// Addresses of one family.
    async fn records(&self, name: &str, kind: RecordType) -> Found {
        let lookup = match Name::from_ascii(name) {
            Ok(name) => self.dns.lookup(name, kind).await,
            Err(error) => Err(error.into()),
        };
        let lookup = match lookup {
            Ok(lookup) => lookup,
            Err(error) => return nothing(error),
        };
        let ips = lookup.answers().iter().filter_map(|record| {
            let ip = match &record.data {
                RData::A(ip) => IpAddr::V4(ip.0),
                RData::AAAA(ip) => IpAddr::V6(ip.0).to_canonical(),
                _ => return None,
            };
            is_usable(ip).then_some(ip)
        });
        let ips: Vec<_> = ips.collect();
        let ttl = shortest(lookup.answers().iter().map(|record| record.ttl));
        match ips.is_empty() {
            true => Found::Absent(Some(ttl)),
            false => Found::Addresses {
                ips,
                ttl,
                missing: Vec::new(),
            },
        }
    }

    /// The addresses of all hosts of a service.
    async fn service(self: Rc<Self>, question: &Question) -> Reply {
        let mut absent = None;
        for name in self.conf.candidates(&question.name) {
            let lookup = match Name::from_ascii(&name) {
                Ok(name) => self.dns.lookup(name, RecordType::SRV).await,
                Err(error) => Err(error.into()),
            };
            let lookup = match lookup.map_err(nothing) {
                Ok(lookup) => lookup,
                Err(Found::Failed(error)) => return failed(&error),
                Err(Found::Absent(ttl)) => {
                    absent = ttl;
                    continue;
                }
                Err(Found::Addresses { .. }) => unreachable!("an error has no addresses"),
            };
            let ttl = shortest(lookup.answers().iter().map(|record| record.ttl));
            let records = lookup.answers().iter().filter_map(|record| {
                let RData::SRV(srv) = &record.data else {
                    return None;
                };
                // The root stands for "not here": RFC 2782.
                let host = HostName::of_service(&srv.target.to_ascii()).ok()?;
                let record = Record {
                    priority: srv.priority,
                    weight: srv.weight,
                    port: srv.port,
                };
                (srv.port > 0).then_some((host, record))
            });
            let records: Vec<_> = records.take(MOST_HOSTS).collect();
            return match records.is_empty() {
                true => Reply::Absent { ttl: Some(ttl) },
                false => self.hosts_of(records, question.family, ttl).await,
            };
        }
        Reply::Absent { ttl: absent }
    }

    async fn hosts_of(
        self: Rc<Self>,
        records: Vec<(HostName, Record)>,
        family: Resolve,
        mut ttl: Duration,
    ) -> Reply {
        let mut asked = JoinSet::new();
        let hosts: std::collections::BTreeSet<_> = records.iter().map(|(h, _)| h.clone()).collect();
        for host in hosts {
            let sources = Rc::clone(&self);
            asked.spawn_local(async move {
                let found = sources.host(&host, family).await;
                (host, found)
            });
        }
        let (mut addresses, mut missing, mut last) = (Vec::new(), Vec::new(), None);
        while let Some(answer) = asked.join_next().await {
            let Ok((host, found)) = answer else { continue };
            match found {
                Found::Absent(_) => {}
                Found::Failed(error) => {
                    let families = [(Resolve::Ipv4, false), (Resolve::Ipv6, true)];
                    let families = families
                        .into_iter()
                        .filter(|(one, _)| family == Resolve::Any || family == *one);
                    missing.extend(families.map(|(_, ipv6)| Missing {
                        host: host.clone(),
                        ipv6,
                    }));
                    last = Some(error);
                }
                Found::Addresses {
                    ips,
                    ttl: holds,
                    missing: parts,
                } => {
                    ttl = ttl.min(holds);
                    missing.extend(parts);
                    let of_host = records.iter().filter(|(one, _)| *one == host);
                    for (_, record) in of_host {
                        let all = ips.iter();
                        addresses.extend(all.map(|ip| resolved(*ip, &host, Some(*record))));
                    }
                }
            }
        }
        match (addresses.is_empty(), last) {
            (true, Some(error)) => failed(&error),
            (true, None) => Reply::Absent { ttl: Some(ttl) },
            (false, _) => Reply::Found {
                addresses,
                ttl,
                missing,
            },
        }
    }
}

/// Both answers; where one has addresses and the other one is late, the other is none.
async fn both(
    one: impl Future<Output = Found>,
    other: impl Future<Output = Found>,
) -> (Found, Found) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let late = || Found::Failed(NetError::Timeout);
    let found = |found: &Found| matches!(found, Found::Addresses { .. });
    tokio::select! {
        first = &mut one => match found(&first) {
            false => (first, other.await),
            true => {
                let second = tokio::time::timeout(LATE, other).await;
                (first, second.unwrap_or_else(|_| late()))
            }
        },
        second = &mut other => match found(&second) {
            false => (one.await, second),
            true => {
                let first = tokio::time::timeout(LATE, one).await;
                (first.unwrap_or_else(|_| late()), second)
            }
        },
    }
}

/// What is known of a host by two answers.
fn joined(ipv4: Found, ipv6: Found, host: &HostName) -> Found {
    let unanswered = |ipv6| {
        vec![Missing {
            host: host.clone(),
            ipv6,
        }]
    };
    match (ipv4, ipv6) {
        (
            Found::Addresses { mut ips, ttl, .. },
            Found::Addresses {
                ips: more,
                ttl: other,
                ..
            },
        ) => {
            ips.extend(more);
            Found::Addresses {
                ips,
                ttl: ttl.min(other),
                missing: Vec::new(),
            }
        }
        (found @ Found::Addresses { .. }, Found::Absent(_))
        | (Found::Absent(_), found @ Found::Addresses { .. }) => found,
        (Found::Addresses { ips, ttl, .. }, Found::Failed(_)) => Found::Addresses {
            ips,
            ttl,
            missing: unanswered(true),
        },
        (Found::Failed(_), Found::Addresses { ips, ttl, .. }) => Found::Addresses {
            ips,
            ttl,
            missing: unanswered(false),
        },
        (failed @ Found::Failed(_), _) | (_, failed @ Found::Failed(_)) => failed,
        (Found::Absent(one), Found::Absent(other)) => Found::Absent(one.min(other)),
    }
}

fn nothing(error: NetError) -> Found {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            let ttl = none.negative_ttl;
            Found::Absent(ttl.map(|ttl| Duration::from_secs(ttl.into())))
        }
        other => Found::Failed(other),
    }
}

fn shortest(ttls: impl Iterator<Item = u32>) -> Duration {
    Duration::from_secs(ttls.min().unwrap_or(0).into())
}

/// Whether somebody may listen there. `0.0.0.0` is what filters answer for what they block, and
/// dialled it would be this machine.
fn is_usable(ip: IpAddr) -> bool {
    let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    !(ip.is_unspecified() || ip.is_multicast() || link_local)
}

/// Asks the servers of `conf`. What is answered is kept elsewhere, not here.
fn dns(conf: &ResolvConf) -> Result<TokioResolver, NetError> {
    let server = |address: &std::net::SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        let at = |connection: &mut ConnectionConfig| connection.port = address.port();
        server.connections.iter_mut().for_each(at);
        server
    };
    let servers = conf.servers.iter().map(server).collect();
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = conf.timeout;
    options.attempts = conf.attempts;
    options.cache_size = 0;
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    builder.build()
}
