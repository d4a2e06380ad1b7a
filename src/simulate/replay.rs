//! Connections come, wait, connect, answer and end, one after the other, in virtual time.
//!
//! ```text
//! arrival ---- a slot now ----> connecting --> connected --> answered --> ended
//!    |                              ^
//!    +-- held -- a slot later ------+
//!          +---- too long: reset
//! ```
//!
//! What happens at the same microsecond happens in this order: connections end, connects
//! succeed, backends answer, held ones have waited too long, new ones come. So a slot that is
//! given back is there for who comes then.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::Spot;
use super::recording::{Arrival, Names};
use super::tally::Tally;
use super::world::World;
use crate::config::Config;
use crate::pool::{Attempt, Client, Held, Keys, Lease, NotHeld, Pool};

/// What happens to a connection next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Ended,
    Connected,
    Answered,
    TimedOut,
}

/// When, what, in which order of those at the same time, and to whom.
type Event = Reverse<(u64, Step, u64, usize)>;

/// What became of a connection, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// It got this backend.
    Served(Spot),
    /// It is held; something else may come of it later.
    Held,
    /// It was reset.
    Refused,
}

/// One who watches: the place of the connection among the arrivals, and what became of it.
pub(super) type Watch<'a> = dyn FnMut(usize, Became) + 'a;

/// A connection with its backend.
struct Live {
    lease: Lease,
    connect: u32,
    first_byte: Option<u32>,
    ends: u64,
}

/// One that is held.
struct Waiting {
    place: Held,
    since: u64,
}

/// Who was granted a slot while held, in order.
type Granted = Arc<Mutex<VecDeque<usize>>>;

struct Ring {
    who: usize,
    granted: Granted,
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.push_back(self.who);
    }
}

/// The connections of one group of pools.
pub(super) struct Replay<'a> {
    config: &'a Config,
    world: &'a World,
    arrivals: &'a [Arrival],
    tally: &'a mut Tally,
    now: u64,
    /// Events that were planned so far.
    planned: u64,
    events: BinaryHeap<Event>,
    live: HashMap<usize, Live>,
    waiting: HashMap<usize, Waiting>,
    granted: Granted,
    pace: Pace,
}

/// How quick each recorded backend was when it was last seen: connect and first byte.
struct Pace {
    /// By the place of the name.
    seen: Vec<Option<(u32, Option<u32>)>>,
    /// The names of the file's backends, where the recording has them.
    names: HashMap<Spot, u32>,
}

impl Pace {
    /// Before anything is seen a backend is as quick as it is going to be the first time.
    fn new(config: &Config, names: &Names, arrivals: &[Arrival]) -> Self {
        let mut seen = vec![None; names.len()];
        for arrival in arrivals {
            if let Some(had) = arrival.had {
                seen[had as usize].get_or_insert((arrival.connect, arrival.first_byte));
            }
        }
        let mut of_spots = HashMap::new();
        for (place, pool) in config.pools.iter().enumerate() {
            for (index, backend) in pool.backends.iter().enumerate() {
                let name = (pool.name.to_string(), backend.name.to_string());
                if let Some(name) = names.get(&name) {
                    let spot = Spot {
                        pool: place,
                        backend: index,
                    };
                    of_spots.insert(spot, *name);
                }
            }
        }
        Self {
            seen,
            names: of_spots,
        }
    }

    fn see(&mut self, arrival: &Arrival) {
        if let Some(had) = arrival.had {
            self.seen[had as usize] = Some((arrival.connect, arrival.first_byte));
        }
    }

    /// Of a connection that goes to this backend: as quick as that was last, or as the connection
    /// was itself where the recording does not have that backend.
    fn of(&self, spot: Spot, arrival: &Arrival) -> (u32, Option<u32>) {
        let name = self.names.get(&spot);
        let seen = name.and_then(|name| self.seen[*name as usize]);
        seen.unwrap_or((arrival.connect, arrival.first_byte))
    }
}

impl<'a> Replay<'a> {
    /// Nothing has happened yet.
    pub(super) fn new(
        config: &'a Config,
        world: &'a World,
        arrivals: &'a [Arrival],
        names: &Names,
        tally: &'a mut Tally,
    ) -> Self {
        Self {
            config,
            world,
            arrivals,
            tally,
            now: 0,
            planned: 0,
            events: BinaryHeap::new(),
            live: HashMap::new(),
            waiting: HashMap::new(),
            granted: Granted::default(),
            pace: Pace::new(config, names, arrivals),
        }
    }

    /// Everything happens.
    pub(super) fn run(mut self, watch: &mut Watch<'_>) {
        for (who, arrival) in self.arrivals.iter().enumerate() {
            self.go_on_until(arrival.at, watch);
            self.set(arrival.at);
            self.pace.see(arrival);
            self.arrive(who, watch);
            self.let_in(watch);
        }
        self.go_on_until(u64::MAX, watch);
        self.give_up();
    }

    fn set(&mut self, now: u64) {
        self.now = now;
        self.world.clock.set(Duration::from_micros(now));
    }

    fn plan(&mut self, at: u64, step: Step, who: usize) {
        self.planned += 1;
        self.events.push(Reverse((at, step, self.planned, who)));
    }

    /// All that is planned up to that time, that time included.
    fn go_on_until(&mut self, end: u64, watch: &mut Watch<'_>) {
        while let Some(&Reverse((at, step, _, who))) = self.events.peek() {
            if at > end {
                return;
            }
            self.events.pop();
            self.set(at);
            match step {
                Step::Ended => drop(self.live.remove(&who)),
                Step::Connected => self.connected(who),
                Step::Answered => self.answered(who),
                Step::TimedOut => self.timed_out(who, watch),
            }
            self.let_in(watch);
        }
    }

    /// In the order of the running balancer: its pool, the fallbacks of that, the hold queue.
    fn arrive(&mut self, who: usize, watch: &mut Watch<'_>) {
        let arrival = &self.arrivals[who];
        let home = arrival.pool as usize;
        self.tally.pools[home].arrived += 1;
        let pool = Arc::clone(self.world.pool(home));
        let attempt = Attempt::new(keys(arrival.client));
        let lease = pool
            .acquire(&attempt)
            .or_else(|| overflow(&pool, arrival.client));
        match lease {
            Some(lease) => self.begin(who, lease, watch),
            None => self.hold(who, &pool, &attempt, watch),
        }
    }

    fn hold(&mut self, who: usize, pool: &Arc<Pool>, attempt: &Attempt, watch: &mut Watch<'_>) {
        let home = self.arrivals[who].pool as usize;
        let tally = &mut self.tally.pools[home];
        match pool.hold(attempt, None) {
            Err(NotHeld::Off) => tally.not_held += 1,
            Err(NotHeld::Full) => tally.hold_full += 1,
            Ok(place) => {
                tally.held += 1;
                tally.held_peak = tally.held_peak.max(pool.held());
                watch(who, Became::Held);
                let since = self.now;
                self.waiting.insert(who, Waiting { place, since });
                let timeout = self.config.pools[home].hold.timeout;
                if !timeout.is_zero() {
                    let timeout = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
                    self.plan(since.saturating_add(timeout), Step::TimedOut, who);
                }
                // It may have its slot already.
                return self.ask(who, watch);
            }
        }
        watch(who, Became::Refused);
    }

    /// Those who were granted a slot have it.
    fn let_in(&mut self, watch: &mut Watch<'_>) {
        loop {
            let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(who) = granted.pop_front() else {
                return;
            };
            drop(granted);
            self.ask(who, watch);
        }
    }

    /// One who is held goes to its backend, if it was granted one; else it waits to be told.
    fn ask(&mut self, who: usize, watch: &mut Watch<'_>) {
        let Some(waiting) = self.waiting.get_mut(&who) else {
            return;
        };
        let granted = Arc::clone(&self.granted);
        let waker = Waker::from(Arc::new(Ring { who, granted }));
        let polled = Pin::new(&mut waiting.place).poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(lease) = polled {
            self.end_wait(who);
            self.begin(who, lease, watch);
        }
    }

    /// It waits no more; false: it did not.
    fn end_wait(&mut self, who: usize) -> bool {
        let Some(waiting) = self.waiting.remove(&who) else {
            return false;
        };
        let home = self.arrivals[who].pool as usize;
        self.tally.pools[home].was_held(self.now - waiting.since);
        true
    }

    fn timed_out(&mut self, who: usize, watch: &mut Watch<'_>) {
        if self.end_wait(who) {
            let home = self.arrivals[who].pool as usize;
            self.tally.pools[home].hold_timeout += 1;
            watch(who, Became::Refused);
        }
    }

    /// It has a slot, and its connect begins.
    fn begin(&mut self, who: usize, lease: Lease, watch: &mut Watch<'_>) {
        let arrival = &self.arrivals[who];
        let spot = self.world.spot(lease.backend());
        let tally = &mut self.tally.pools[spot.pool].backends[spot.backend];
        tally.connections += 1;
        tally.peak = tally.peak.max(lease.backend().active());
        let home = arrival.pool as usize;
        self.tally.pools[home].moved += u64::from(spot.pool != home);
        watch(who, Became::Served(spot));
        let (connect, first_byte) = self.pace.of(spot, arrival);
        let connects = self.now.saturating_add(connect.into());
        let live = Live {
            lease,
            connect,
            first_byte,
            ends: self.now.saturating_add(arrival.lasts).max(connects),
        };
        self.live.insert(who, live);
        self.plan(connects, Step::Connected, who);
    }

    fn connected(&mut self, who: usize) {
        let now = self.world.clock.now();
        let Some(live) = self.live.get_mut(&who) else {
            return;
        };
        let took = Duration::from_micros(live.connect.into());
        live.lease.connected(took, now);
        let (first_byte, ends) = (live.first_byte, live.ends);
        match first_byte {
            Some(took) => {
                let at = self.now.saturating_add(took.into()).min(ends);
                self.plan(at, Step::Answered, who);
            }
            None => self.plan(ends, Step::Ended, who),
        }
    }

    fn answered(&mut self, who: usize) {
        let now = self.world.clock.now();
        let Some(live) = self.live.get(&who) else {
            return;
        };
        let took = live.first_byte.unwrap_or_default();
        live.lease.answered(Duration::from_micros(took.into()), now);
        let ends = live.ends;
        self.plan(ends, Step::Ended, who);
    }

    /// Those who are held now are held for ever.
    fn give_up(&mut self) {
        let mut left: Vec<_> = self.waiting.keys().copied().collect();
        left.sort_unstable();
        for who in left {
            self.end_wait(who);
            let home = self.arrivals[who].pool as usize;
            self.tally.pools[home].stuck += 1;
        }
    }
}

/// A slot of a pool that takes what `pool` cannot take.
fn overflow(pool: &Arc<Pool>, client: Client) -> Option<Lease> {
    let mut fallbacks = std::iter::successors(pool.overflow(), |pool| pool.fallback());
    fallbacks.find_map(|pool| pool.acquire(&Attempt::new(keys(client))))
}

/// Neither the name that a client asked for nor where it connected to is recorded.
fn keys(client: Client) -> Keys {
    Keys::from(client)
}
