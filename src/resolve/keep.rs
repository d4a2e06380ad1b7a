//! One task for each question that some pool has: it asks, tells what it knows, and asks again.
//!
//! A question that two pools have is asked once, and one that no pool has any more is forgotten.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use super::memory::{Memory, Reply};
use crate::log::Throttle;
use crate::metrics::{Lookup, Process};
use crate::pool::{Question, Resolved};

/// A reply takes no longer: the C library's five seconds, twice, and half as long again.
const LIMIT: Duration = Duration::from_secs(15);
/// Questions under way at the same time, so that a large file does not flood a small resolver.
/// The wait for a turn is part of [`LIMIT`].
const AT_ONCE: usize = 64;
/// Names whose addresses are known, as another process or a pool has them, are asked for within
/// this time, not all at once.
const SPREAD: Duration = Duration::from_secs(1);
/// Addresses of one name beyond this many are left out: each is a backend, with its checks.
const MOST_ADDRESSES: usize = 1024;

/// Who answers questions.
pub trait Ask: 'static {
    /// One reply to one question. It need not ever come.
    fn ask(&self, question: &Question) -> impl Future<Output = Reply>;
}

/// Asks what pools have to ask.
pub struct Resolver<A> {
    ask: A,
    process: Arc<Process>,
    turns: Semaphore,
    asked: RefCell<BTreeMap<Question, Weak<Asked>>>,
    lines: RefCell<Throttle>,
}

/// A question that is being asked, for as long as somebody has this.
pub(super) struct Asked {
    /// What the name stands for; `None`: no reply has come yet.
    answers: watch::Receiver<Option<Vec<Resolved>>>,
    _task: AbortOnDropHandle<()>,
}

impl Asked {
    /// What is answered from now on.
    pub(super) fn answers(&self) -> watch::Receiver<Option<Vec<Resolved>>> {
        self.answers.clone()
    }
}

impl<A: Ask> Resolver<A> {
    /// One that asks `ask`, and counts in `process`.
    pub fn new(ask: A, process: Arc<Process>) -> Rc<Self> {
        Rc::new(Self {
            ask,
            process,
            turns: Semaphore::new(AT_ONCE),
            asked: RefCell::default(),
            lines: RefCell::default(),
        })
    }

    /// Has `question` asked, going on from what is `known`. Needs a `LocalSet`.
    pub(super) fn asked(
        self: &Rc<Self>,
        question: &Question,
        known: Option<Vec<Resolved>>,
    ) -> Rc<Asked> {
        let mut asked = self.asked.borrow_mut();
        if let Some(asked) = asked.get(question).and_then(Weak::upgrade) {
            return asked;
        }
        asked.retain(|_, asked| asked.strong_count() > 0);
        self.process.lookups.begin(&question.to_string());
        let (tell, answers) = watch::channel(None);
        let task = Rc::clone(self).keep(question.clone(), known, tell);
        let new = Rc::new(Asked {
            answers,
            _task: AbortOnDropHandle::new(tokio::task::spawn_local(task)),
        });
        asked.insert(question.clone(), Rc::downgrade(&new));
        new
    }

    async fn keep(
        self: Rc<Self>,
        question: Question,
        known: Option<Vec<Resolved>>,
        tell: watch::Sender<Option<Vec<Resolved>>>,
    ) {
        let known = known.unwrap_or_default();
        if !known.is_empty() {
            let spread = SPREAD.mul_f64(rand::rng().random_range(0.0..1.0));
            tokio::time::sleep(spread).await;
        }
        let mut memory = Memory::of(known);
        loop {
            let reply = self.reply(&question).await;
            self.process
                .lookups
                .count(&question.to_string(), lookup(&reply));
            let before = memory.addresses().to_vec();
            let why = reason(&reply);
            let pause = memory.take(reply, tokio::time::Instant::now().into_std());
            self.say(&question, &before, memory.addresses(), why.as_deref());
            // The first reply is news even where it brings nothing.
            let after = Some(memory.addresses().to_vec());
            tell.send_if_modified(|told| {
                let news = *told != after;
                *told = after;
                news
            });
            let jitter = rand::rng().random_range(1.0..1.1);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
        }
    }

    async fn reply(&self, question: &Question) -> Reply {
        let turn = async {
            let _turn = self.turns.acquire().await;
            self.ask.ask(question).await
        };
        let mut reply = match tokio::time::timeout(LIMIT, turn).await {
            Ok(reply) => reply,
            Err(_) => Reply::Failed {
                timeout: true,
                error: format!("no answer within {} s", LIMIT.as_secs()),
            },
        };
        if let Reply::Found { addresses, .. } = &mut reply
            && addresses.len() > MOST_ADDRESSES
        {
            addresses.sort();
            addresses.dedup();
            addresses.truncate(MOST_ADDRESSES);
        }
        reply
    }

    /// What changes is a line each time; what fails is one line a second for all names together.
    fn say(&self, question: &Question, before: &[Resolved], after: &[Resolved], why: Option<&str>) {
        let (name, addresses) = (question.to_string(), after.len());
        if before != after {
            let (added, removed) = (only_in(after, before), only_in(before, after));
            match after.is_empty() {
                true => tracing::warn!(name, removed, "not resolved any more"),
                false => tracing::info!(name, addresses, added, removed, "resolved"),
            }
        }
        let Some(error) = why else { return };
        if let Some(suppressed) = self.lines.borrow_mut().check(Instant::now()) {
            match after.is_empty() {
                true => tracing::warn!(name, error, suppressed, "not resolved"),
                false => tracing::warn!(
                    name,
                    error,
                    kept = addresses,
                    suppressed,
                    "not resolved, what is known is kept"
                ),
            }
        }
    }
}

/// The addresses of `these` that are none of `those`, whatever weights and priorities they have.
fn only_in(these: &[Resolved], those: &[Resolved]) -> String {
    let key = |resolved: &Resolved| (resolved.ip, resolved.record.map(|record| record.port));
    let known: Vec<_> = those.iter().map(key).collect();
    let own = these
        .iter()
        .filter(|resolved| !known.contains(&key(resolved)));
    let own: Vec<_> = own.map(|resolved| resolved.ip.to_string()).collect();
    own.join(" ")
}

fn lookup(reply: &Reply) -> Lookup {
    match reply {
        Reply::Found { .. } => Lookup::Answered,
        Reply::Absent { .. } => Lookup::Absent,
        Reply::Failed { timeout: true, .. } => Lookup::Timeout,
        Reply::Failed { timeout: false, .. } => Lookup::Failed,
    }
}

/// What is wrong with a reply, if something is.
fn reason(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Found { missing, .. } => {
            let part = missing.first()?;
            let family = if part.ipv6 { "IPv6" } else { "IPv4" };
            Some(format!(
                "no answer about {family} addresses of {}",
                part.host
            ))
        }
        Reply::Absent { .. } => Some("there is no such name, or it has no address".to_owned()),
        Reply::Failed { error, .. } => Some(error.clone()),
    }
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
