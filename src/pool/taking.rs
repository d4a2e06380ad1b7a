//! The backends that take new connections, as a rebalance looks at them.
//!
//! That is the first tier that has any: those that are up, or the backups while no other is.
//! Connections of others (drained, down, ejected, removed, of weight 0, backups that are not
//! needed) are neither counted nor moved: what is to become of those was decided elsewhere, by
//! `drain_timeout` or whoever drained them.

use std::sync::Arc;
use std::time::Instant;

use super::backend::Backend;
use super::conduct::Gate;
use super::snapshot::{self, Member};
use super::{Client, Keys, Pool};
use crate::balance::Balancer;
use crate::balance::evening::{Evening, Share, Uneven};
use crate::config::{self, Balance, HashKey};
use crate::net::Address;

/// Backends that take new connections, and the strategy that deals them out.
#[derive(Clone, Debug)]
pub struct Taking {
    settings: Arc<config::Pool>,
    members: Arc<[Member]>,
    balancer: Arc<Balancer>,
    /// New connections are held.
    paused: bool,
}

impl Pool {
    /// Those that take new connections now.
    pub fn taking(&self) -> Taking {
        let snapshot = self.current.load();
        let tiers = snapshot.tiers.iter();
        let mut tiers = tiers.filter(|tier| tier.members.iter().any(is_well));
        let tier = tiers.next().unwrap_or(&snapshot.tiers[0]);
        let (members, balancer) = match tier.members.iter().all(is_well) {
            true => (Arc::clone(&tier.members), Arc::clone(&tier.balancer)),
            false => {
                let well = tier.members.iter().filter(|member| is_well(member));
                let balancer = Balancer::new(snapshot.settings.balance);
                (well.cloned().collect(), Arc::new(balancer))
            }
        };
        Taking {
            settings: Arc::clone(&snapshot.settings),
            members,
            balancer,
            paused: snapshot.pause.is_on(),
        }
    }
}

/// Whether it takes more than a trial.
fn is_well(member: &Member) -> bool {
    member.backend.conduct.gate() == Gate::Open
}

impl Taking {
    /// `[pool.NAME]`.
    pub fn settings(&self) -> &config::Pool {
        &self.settings
    }

    /// Whether new connections are held, so that nobody who is closed could come back.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether these are the same backends with the same weights; how far a slow start has come
    /// changes neither.
    pub fn is_same(&self, other: &Self) -> bool {
        snapshot::same(&self.members, &other.members)
    }

    /// The backends, in file order.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.members.iter().map(|member| &member.backend)
    }

    /// Their weights as configured, in the same order.
    pub fn weights(&self) -> impl Iterator<Item = u32> {
        self.members.iter().map(|member| member.weight)
    }

    /// The place of the backend whose name this is, by its very pointer.
    pub fn position(&self, name: &Arc<str>) -> Option<usize> {
        self.backends()
            .position(|backend| Arc::ptr_eq(&backend.name, name))
    }

    /// Connections that these backends were ever given.
    pub fn arrivals(&self) -> u64 {
        let total = |backend: &Arc<Backend>| backend.counters.sum(|cell| cell.total.value());
        self.backends().map(total).sum()
    }

    /// What a connection of this client is dealt by; `None`: by nothing of its own, so that
    /// where it would go cannot be told.
    ///
    /// Names and destinations are not kept of a connection that has its backend.
    pub fn key(&self, client: &Address) -> Option<u64> {
        let key = self.settings.hash.key;
        match (self.settings.balance, key, client) {
            (Balance::ConsistentHash, HashKey::Sni | HashKey::DestinationIpPort, _) => None,
            (Balance::ConsistentHash, _, Address::Ip(_)) => {
                Some(Keys::from(Client::at(client)).hash(key))
            }
            (Balance::ConsistentHash, _, Address::Unix(_)) => None,
            _ => Some(0),
        }
    }

    /// How they stand, where of each so many connections may be closed.
    pub fn shares(&self, closable: &[u32], now: Instant) -> Vec<Share> {
        let share = |(member, closable): (&Member, &u32)| Share {
            weight: member.share,
            active: member.backend.active(),
            closable: *closable,
            limit: member.backend.limit(),
            identity: member.backend.identity(),
            latency: member.backend.latency(now),
        };
        self.members.iter().zip(closable).map(share).collect()
    }

    /// What would even them, see [`evening`](crate::balance::evening).
    pub fn plan(
        &self,
        shares: &[Share],
        keys: &[(usize, u64)],
        pending: &[u64],
        target: f64,
    ) -> Evening {
        Uneven {
            balance: self.settings.balance,
            balancer: &self.balancer,
            shares,
            keys,
            pending,
            target,
        }
        .plan()
    }
}
