//! What is asked: the pairs of the query string.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::Whom;
use crate::admin::error::Refusal;
use crate::conn::visitor::Visitor;
use crate::net::Address;

/// Who comes through which listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::admin) struct Query {
    pub(super) listener: String,
    pub(super) whom: Whom,
    pub(super) sni: Option<String>,
}

impl Query {
    /// Reads the pairs of a query string. One without a value is as one that is not there.
    ///
    /// # Errors
    /// 400 for a parameter that is unknown, missing, given twice, or has a value that cannot be.
    pub(in crate::admin) fn parse(pairs: Vec<(String, String)>) -> Result<Self, Refusal> {
        let [mut listener, mut client, mut port, mut sni] = [const { None }; 4];
        for (name, value) in pairs {
            let place = match &*name {
                "listener" => &mut listener,
                "client" => &mut client,
                "port" => &mut port,
                "sni" => &mut sni,
                _ => {
                    return Err(refused(format!(
                        "unknown parameter {name:?}; there are listener, client, port, sni"
                    )));
                }
            };
            if !value.is_empty() && place.replace(value).is_some() {
                return Err(refused(format!("{name} is given twice")));
            }
        }
        Ok(Self {
            listener: listener.ok_or_else(|| refused("listener is missing".to_owned()))?,
            whom: whom(client.as_deref(), port.as_deref()).map_err(refused)?,
            sni,
        })
    }
}

impl Query {
    /// The client that is asked about, as one that has come.
    pub(super) fn visitor(&self) -> Visitor {
        Visitor::at(match self.whom {
            Whom::Ip(ip, port) => Address::Ip(SocketAddr::new(ip, port.unwrap_or(0))),
            Whom::Unix => Address::Unix(PathBuf::new()),
        })
    }
}

fn refused(why: String) -> Refusal {
    Refusal::bad_request(why)
}

fn whom(client: Option<&str>, port: Option<&str>) -> Result<Whom, String> {
    let client = client.ok_or("client is missing")?;
    let port = port.map(|port| match port.parse::<u16>() {
        Ok(port @ 1..) => Ok(port),
        _ => Err("port: expected a number from 1 to 65535".to_owned()),
    });
    let port = port.transpose()?;
    match client {
        "unix" if port.is_some() => Err("port: a Unix client has none".to_owned()),
        "unix" => Ok(Whom::Unix),
        _ => match client.parse::<IpAddr>() {
            Ok(ip) => Ok(Whom::Ip(ip.to_canonical(), port)),
            Err(_) => Err("client: expected an IP address, or unix".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, String> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Query::parse(pairs.map(own).collect()).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn a_client_is_an_address_with_or_without_a_port() {
        let of = |client: &str, port| Whom::Ip(client.parse().expect("an address"), port);
        for (text, whom) in [
            ("client=10.0.0.9", of("10.0.0.9", None)),
            ("client=10.0.0.9&port=", of("10.0.0.9", None)),
            ("client=::1&port=65535", of("::1", Some(65535))),
            ("client=::ffff:10.0.0.9&port=1", of("10.0.0.9", Some(1))),
            ("client=unix", Whom::Unix),
        ] {
            let query = query(&format!("listener=web&{text}")).expect(text);
            assert_eq!(
                (&*query.listener, query.whom, query.sni),
                ("web", whom, None)
            );
        }
        let query = query("sni=a.example&listener=l&client=::1").expect("a query");
        assert_eq!(query.sni.as_deref(), Some("a.example"));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_the_reason() {
        for (text, reason) in [
            ("client=::1", "listener is missing"),
            ("listener=&client=::1", "listener is missing"),
            ("listener=web", "client is missing"),
            ("listener=web&client=", "client is missing"),
            (
                "listener=web&client=host",
                "client: expected an IP address, or unix",
            ),
            (
                "listener=web&client=10.0.0.1:80",
                "client: expected an IP address, or unix",
            ),
            (
                "listener=web&client=::1&port=0",
                "port: expected a number from 1 to 65535",
            ),
            (
                "listener=web&client=::1&port=65536",
                "port: expected a number from 1 to 65535",
            ),
            (
                "listener=web&client=unix&port=1",
                "port: a Unix client has none",
            ),
            (
                "listener=web&client=::1&client=::2",
                "client is given twice",
            ),
            (
                "listener=web&pool=web",
                "unknown parameter \"pool\"; there are listener, client, port, sni",
            ),
        ] {
            assert_eq!(query(text), Err(reason.to_owned()), "{text}");
        }
    }
}
