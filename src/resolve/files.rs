//! `/etc/resolv.conf` and `/etc/hosts`, as far as they matter here.
//!
//! Pure: texts come in. What resolv.conf(5) and hosts(5) do not know is passed over, as the C
//! library does. One thing more is understood: a server at another port, written
//! `nameserver ADDRESS:PORT` or `[ADDRESS]:PORT`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::net::HostName;

/// Where DNS listens.
const PORT: u16 = 53;
/// Servers beyond so many are not asked: `MAXNS` of resolv.conf(5).
const MOST_SERVERS: usize = 3;
/// Bounds of `timeout`, `attempts` and `ndots`, see resolv.conf(5).
const MOST_TIMEOUT: u64 = 30;
/// See [`MOST_TIMEOUT`].
const MOST_ATTEMPTS: usize = 5;
/// See [`MOST_TIMEOUT`].
const MOST_DOTS: usize = 15;

/// Whom to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// In order; at least one.
    pub(super) servers: Vec<SocketAddr>,
    /// Names that may stand behind one that is not absolute.
    pub(super) search: Vec<String>,
    /// A name with at least so many dots is asked for as it is first.
    pub(super) dots: usize,
    /// Of one question to one server.
    pub(super) timeout: Duration,
    /// Questions to each server in all.
    pub(super) attempts: usize,
}

impl ResolvConf {
    pub(super) fn read(text: &str) -> Self {
        let mut conf = Self {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().and_then(server)),
                // The last of these lines holds.
                Some("search" | "domain") => conf.search = words.filter_map(domain).collect(),
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            // resolv.conf(5): the server of this machine.
            conf.servers.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        conf.servers.truncate(MOST_SERVERS);
        conf
    }

    fn option(&mut self, word: &str) {
        let Some((name, value)) = word.split_once(':') else {
            return;
        };
        let Ok(value) = value.parse::<u64>() else {
            return;
        };
        let count = usize::try_from(value).unwrap_or(usize::MAX);
        match name {
            "ndots" => self.dots = count.min(MOST_DOTS),
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, MOST_TIMEOUT)),
            "attempts" => self.attempts = count.clamp(1, MOST_ATTEMPTS),
            _ => {}
        }
    }

    /// The absolute names to ask for, one after the other until one is there.
    pub(super) fn candidates(&self, name: &HostName) -> Vec<String> {
        let plain = format!("{}.", name.plain());
        if name.is_absolute() {
            return vec![plain];
        }
        let searched = self.search.iter().map(|domain| match domain.as_str() {
            "." => plain.clone(),
            domain => format!("{plain}{domain}."),
        });
        let mut names: Vec<_> = searched.collect();
        match name.plain().matches('.').count() >= self.dots {
            true => names.insert(0, plain),
            false => names.push(plain),
        }
        let mut there = std::collections::HashSet::new();
        names.retain(|name| there.insert(name.clone()));
        names
    }
}

fn server(word: &str) -> Option<SocketAddr> {
    let ip = word.parse::<IpAddr>().map(|ip| (ip, PORT).into());
    ip.or_else(|_| word.parse::<SocketAddr>()).ok()
}

/// A domain of the search list without its final dot; the root stays one.
fn domain(word: &str) -> Option<String> {
    if word == "." {
        return Some(word.to_owned());
    }
    let name = HostName::of_service(word).ok()?;
    Some(name.plain().to_owned())
}

/// Addresses of hosts by their names, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    pub(super) fn read(text: &str) -> Self {
        let mut hosts = Self::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else {
                continue;
            };
            for name in words {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                hosts.0.entry(name).or_default().push(ip.to_canonical());
            }
        }
        hosts
    }

    /// What it has of a name; none: it does not know it.
    pub(super) fn of(&self, name: &HostName) -> &[IpAddr] {
        self.0.get(name.plain()).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        HostName::of_host(name).expect("a host name")
    }

    #[test]
    fn resolv_conf_is_read_as_the_manual_page_has_it() {
        let conf = ResolvConf::read(
            "# made by hand\n\
             nameserver 10.0.0.53\n\
             nameserver fd00::53 ; the other one\n\
             domain old.example\n\
             search corp.example. example.com\n\
             options ndots:2 timeout:3 attempts:4 rotate edns0\n\
             sortlist 130.155.160.0\n",
        );
        assert_eq!(
            conf,
            ResolvConf {
                servers: vec![
                    "10.0.0.53:53".parse().expect("an address"),
                    "[fd00::53]:53".parse().expect("an address"),
                ],
                search: vec!["corp.example".to_owned(), "example.com".to_owned()],
                dots: 2,
                timeout: Duration::from_secs(3),
                attempts: 4,
            }
        );
    }

    #[test]
    fn a_server_may_have_a_port() {
        let conf = ResolvConf::read("nameserver 127.0.0.1:5353\nnameserver [::1]:5353");
        let ports: Vec<_> = conf.servers.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [5353, 5353]);
    }

    #[test]
    fn without_servers_this_machine_is_asked() {
        for text in ["", "nameserver nonsense", "search example.com"] {
            let servers = ResolvConf::read(text).servers;
            assert_eq!(servers, ["127.0.0.1:53".parse().expect("an address")]);
        }
    }

    #[test]
    fn options_beyond_their_bounds_are_at_them() {
        let conf = ResolvConf::read("options timeout:0 attempts:99 ndots:99 attempts:x");
        assert_eq!(conf.timeout, Duration::from_secs(1));
        assert_eq!((conf.attempts, conf.dots), (MOST_ATTEMPTS, MOST_DOTS));
    }

    #[test]
    fn a_name_is_searched_for_by_its_dots() {
        let conf = ResolvConf::read("search corp.example example.com\noptions ndots:2");
        let candidates = |name: &str| conf.candidates(&host(name));
        assert_eq!(
            candidates("app"),
            ["app.corp.example.", "app.example.com.", "app."]
        );
        assert_eq!(
            candidates("app.a.b"),
            ["app.a.b.", "app.a.b.corp.example.", "app.a.b.example.com."]
        );
        assert_eq!(candidates("app."), ["app."]);
    }

    #[test]
    fn hosts_are_known_by_all_their_names() {
        let hosts = Hosts::read(
            "127.0.0.1 localhost\n::1 LocalHost ip6-localhost # IPv6\n\
             10.0.0.1\tapp.internal app\n# 10.0.0.2 app\nnonsense app\n",
        );
        let of = |name: &str| -> Vec<_> {
            let ips = hosts.of(&host(name)).iter();
            ips.map(IpAddr::to_string).collect()
        };
        assert_eq!(of("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(of("APP.internal"), ["10.0.0.1"]);
        assert_eq!(of("app."), ["10.0.0.1"]);
        assert_eq!(of("other"), Vec::<String>::new());
    }
}
