//! A part of the table of addresses: who is connected how often, and their buckets.
//!
//! | how | |
//! | --- | --- |
//! | `entries` | one for each address; an entry never moves while somebody is connected |
//! | `heads`, `next` | chains of the entries whose hashes end alike |
//! | `older`, `newer` | those with nobody connected, by when they were last seen |
//!
//! An address whose bucket is full and who is not connected is as good as one that was never
//! seen: its entry is the first that is used again. So the table grows only as far as it must,
//! and to its capacity at most, where the one that was seen longest ago is forgotten. Only where
//! everybody in it is connected does it grow beyond that; the limit of the process on
//! connections bounds it then.

use super::bucket::{Bucket, Pace};

/// What is limited: an IPv4 address, or the first half of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) bits: u64,
    pub(super) v4: bool,
}

/// 48 bytes, and a head of 4 bytes at most for each.
#[derive(Clone, Debug)]
struct Entry {
    key: Key,
    bucket: Bucket,
    /// Connections there are now.
    active: u32,
    hash: u32,
    next: u32,
    older: u32,
    newer: u32,
}

/// No entry.
const NONE: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Shard {
    pace: Option<Pace>,
    /// From so many entries on somebody is forgotten.
    capacity: usize,
    entries: Vec<Entry>,
    /// A power of two, or none.
    heads: Vec<u32>,
    oldest: u32,
    newest: u32,
}

/// Why somebody is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The limit on connections at once.
    Limit,
    /// A rate.
    Rate,
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) active: u32,
    /// `None`: there is no rate.
    pub(super) bucket: Option<Bucket>,
}

impl Known {
    /// Whether one more connection may come; the bucket without its token then.
    pub(super) fn judge(self, pace: Option<Pace>, limit: u32) -> Result<Option<Bucket>, Over> {
        if limit > 0 && self.active >= limit {
            return Err(Over::Limit);
        }
        match (self.bucket, pace) {
            (Some(bucket), Some(pace)) => bucket.take(pace).map(Some).ok_or(Over::Rate),
            _ => Ok(None),
        }
    }
}

impl Shard {
    pub(super) fn new(pace: Option<Pace>, capacity: usize) -> Self {
        Self {
            pace,
            capacity,
            entries: Vec::new(),
            heads: Vec::new(),
            oldest: NONE,
            newest: NONE,
        }
    }

    pub(super) fn pace(&self) -> Option<Pace> {
        self.pace
    }

    /// Another rate: every bucket is full again. Who is connected stays so.
    pub(super) fn set_pace(&mut self, pace: Option<Pace>, now: u64) {
        if self.pace == pace {
            return;
        }
        self.pace = pace;
        let full = new_bucket(pace, now);
        self.entries
            .iter_mut()
            .for_each(|entry| entry.bucket = full);
    }

    /// What is known of an address now.
    pub(super) fn known(&self, key: Key, hash: u32, now: u64) -> Known {
        self.known_at(self.find(key, hash), now)
    }

    fn known_at(&self, found: Option<u32>, now: u64) -> Known {
        let found = found.map(|index| &self.entries[index as usize]);
        Known {
            active: found.map_or(0, |entry| entry.active),
            bucket: self.pace.map(|pace| match found {
                Some(entry) => entry.bucket.until(pace, now),
                None => Bucket::full(pace, now),
            }),
        }
    }

    /// Lets one more connection in, where `others` say so too; they are asked last. With a limit
    /// it counts until it [leaves](Self::leave): its entry is given.
    ///
    /// Who was never seen and is refused leaves no trace: a crowd that `others` keep out makes
    /// nobody forgotten.
    pub(super) fn admit(
        &mut self,
        (key, hash): (Key, u32),
        limit: u32,
        now: u64,
        others: impl FnOnce() -> bool,
    ) -> Result<Option<u32>, Over> {
        let found = self.find(key, hash);
        if let Some(index) = found {
            self.see(index);
        }
        let bucket = self.known_at(found, now).judge(self.pace, limit)?;
        if !others() {
            return Err(Over::Rate);
        }
        let index = found.unwrap_or_else(|| self.insert(key, hash, now));
        if let Some(bucket) = bucket {
            self.entries[index as usize].bucket = bucket;
        }
        if limit == 0 {
            return Ok(None);
        }
        self.enter(index);
        Ok(Some(index))
    }

    /// Counts a connection that is there already, whatever the limit.
    pub(super) fn count(&mut self, (key, hash): (Key, u32), now: u64) -> u32 {
        let found = self.find(key, hash);
        let index = found.unwrap_or_else(|| self.insert(key, hash, now));
        self.enter(index);
        index
    }

    /// One connection less.
    pub(super) fn leave(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.active -= 1;
        if entry.active == 0 {
            self.link(index);
        }
    }

    fn enter(&mut self, index: u32) {
        if self.entries[index as usize].active == 0 {
            self.unlink(index);
        }
        self.entries[index as usize].active += 1;
    }

    /// It was seen last of all.
    fn see(&mut self, index: u32) {
        if self.entries[index as usize].active == 0 && self.newest != index {
            self.unlink(index);
            self.link(index);
        }
    }

    fn find(&self, key: Key, hash: u32) -> Option<u32> {
        let mut at = *self.heads.get(self.slot(hash))?;
        while let Some(entry) = self.entries.get(at as usize) {
            if entry.key == key {
                return Some(at);
            }
            at = entry.next;
        }
        None
    }

    /// A new entry, seen last of all, with a full bucket.
    fn insert(&mut self, key: Key, hash: u32, now: u64) -> u32 {
        let entry = Entry {
            key,
            bucket: new_bucket(self.pace, now),
            active: 0,
            hash,
            next: NONE,
            older: NONE,
            newer: NONE,
        };
        let index = match self.spare(now) {
            Some(index) => {
                self.unlink(index);
                self.unchain(index);
                self.entries[index as usize] = entry;
                index
            }
            None => self.push(entry),
        };
        self.chain(index);
        self.link(index);
        index
    }

    /// The entry seen longest ago, if it may be used for somebody else.
    fn spare(&self, now: u64) -> Option<u32> {
        let oldest = self.entries.get(self.oldest as usize)?;
        let full = |pace| oldest.bucket.until(pace, now).is_full(pace);
        let worthless = self.pace.is_none_or(full);
        (worthless || self.entries.len() >= self.capacity).then_some(self.oldest)
    }

    fn push(&mut self, entry: Entry) -> u32 {
        let len = self.entries.len();
        if len == self.entries.capacity() {
            // No more than the capacity, and beyond it slowly.
            let more = match self.capacity.checked_sub(len) {
                Some(room @ 1..) => room.min(len.max(16)),
                _ => len / 8 + 1,
            };
            self.entries.reserve_exact(more);
        }
        let index = u32::try_from(len).expect("a process has fewer connections than a u32 counts");
        self.entries.push(entry);
        if self.entries.len() > self.heads.len() {
            self.rehash();
        }
        index
    }

    fn rehash(&mut self) {
        let heads = self.entries.len().next_power_of_two().max(16);
        self.heads = vec![NONE; heads];
        // The last one is chained by whoever pushed it.
        for index in 0..self.entries.len() - 1 {
            self.chain(index as u32);
        }
    }

    fn slot(&self, hash: u32) -> usize {
        hash as usize & self.heads.len().wrapping_sub(1)
    }

    fn chain(&mut self, index: u32) {
        let slot = self.slot(self.entries[index as usize].hash);
        self.entries[index as usize].next = self.heads[slot];
        self.heads[slot] = index;
    }

    fn unchain(&mut self, index: u32) {
        let Entry { hash, next, .. } = self.entries[index as usize];
        let slot = self.slot(hash);
        let mut at = self.heads[slot];
        if at == index {
            self.heads[slot] = next;
            return;
        }
        while self.entries[at as usize].next != index {
            at = self.entries[at as usize].next;
        }
        self.entries[at as usize].next = next;
    }

    /// Into the list of those that may be forgotten, as the newest.
    fn link(&mut self, index: u32) {
        let older = std::mem::replace(&mut self.newest, index);
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = index,
            None => self.oldest = index,
        }
        let entry = &mut self.entries[index as usize];
        (entry.older, entry.newer) = (older, NONE);
    }

    fn unlink(&mut self, index: u32) {
        let Entry { older, newer, .. } = self.entries[index as usize];
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }

    /// What its memory comes to, in bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.heads.capacity() * size_of::<u32>()
    }

    /// Addresses in it, and connections of theirs.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, u64) {
        let active = self.entries.iter().map(|entry| u64::from(entry.active));
        (self.entries.len(), active.sum())
    }
}

/// Where there is no rate nobody looks at it.
fn new_bucket(pace: Option<Pace>, now: u64) -> Bucket {
    let any = || Pace::new(crate::config::Rate::per_second(1));
    Bucket::full(pace.unwrap_or_else(any), now)
}
