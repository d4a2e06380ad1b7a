//! What is asked: the pairs of the query string.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::Whom;
use crate::admin::error::Refusal;
use crate::balance::consistent_hash;
use crate::conn::visitor::Visitor;
use crate::hello::{Hello, host_name};
use crate::net::Address;
use crate::pool::explain::Asked;

/// Who comes through which listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::admin) struct Query {
    pub(super) listener: String,
    pub(super) whom: Whom,
    /// In lower case and without a final dot.
    pub(super) sni: Option<String>,
    /// Protocols that it offers.
    pub(super) alpn: Vec<String>,
}

impl Query {
    /// Reads the pairs of a query string. One without a value is as one that is not there.
    ///
    /// # Errors
    /// 400 for a parameter that is unknown, missing, given twice, or has a value that cannot be.
    pub(in crate::admin) fn parse(pairs: Vec<(String, String)>) -> Result<Self, Refusal> {
        let [mut listener, mut client, mut port, mut sni, mut alpn] = [const { None }; 5];
        for (name, value) in pairs {
            let place = match &*name {
                "listener" => &mut listener,
                "client" => &mut client,
                "port" => &mut port,
                "sni" => &mut sni,
                "alpn" => &mut alpn,
                _ => {
                    return Err(refused(format!(
                        "unknown parameter {name:?}; there are listener, client, port, sni, alpn"
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
            sni: sni.map(|name| self::sni(&name)).transpose()?,
            alpn: protocols(alpn.as_deref().unwrap_or_default())?,
        })
    }
}

impl Query {
    /// The client that is asked about, as one that has come.
    pub(super) fn visitor(&self) -> Visitor {
        let address = match self.whom {
            Whom::Ip(ip, port) => Address::Ip(SocketAddr::new(ip, port.unwrap_or(0))),
            Whom::Unix => Address::Unix(PathBuf::new()),
        };
        let hello = Hello {
            sni: self.sni.as_deref().map(Into::into),
            alpn: self.alpn.iter().map(|p| p.as_bytes().into()).collect(),
            early_data: false,
        };
        Visitor {
            hello: Some(Box::new(hello)),
            ..Visitor::at(address)
        }
    }

    /// The same, as a pool looks at it.
    pub(super) fn asked(&self, destination: Option<SocketAddr>) -> Asked {
        Asked {
            whom: self.whom,
            sni: self.sni.as_deref().map(consistent_hash::key_sni),
            destination,
        }
    }
}

/// The name as it would be read out of a ClientHello.
fn sni(name: &str) -> Result<String, Refusal> {
    match host_name(name.as_bytes()) {
        Ok(Some(name)) => Ok(name),
        Ok(None) => Err(refused(
            "sni: an IP address is never asked for by name".to_owned(),
        )),
        Err(error) => Err(refused(format!("sni: {error}"))),
    }
}

/// A list with commas between.
fn protocols(list: &str) -> Result<Vec<String>, Refusal> {
    let names = list.split(',').filter(|_| !list.is_empty());
    let name = |name: &str| match (1..=255).contains(&name.len()) {
        true => Ok(name.to_owned()),
        false => Err(refused(
            "alpn: expected names of protocols, with commas between".to_owned(),
        )),
    };
    names.map(name).collect()
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
        let query = query("sni=A.example.&alpn=h2,x&listener=l&client=::1").expect("a query");
        assert_eq!(query.sni.as_deref(), Some("a.example"));
        assert_eq!(query.alpn, ["h2", "x"]);
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
                "listener=web&client=::1&sni=10.0.0.1",
                "sni: an IP address is never asked for by name",
            ),
            (
                "listener=web&client=::1&alpn=h2,",
                "alpn: expected names of protocols, with commas between",
            ),
            (
                "listener=web&pool=web",
                "unknown parameter \"pool\"; there are listener, client, port, sni, alpn",
            ),
        ] {
            assert_eq!(query(text), Err(reason.to_owned()), "{text}");
        }
    }
}
