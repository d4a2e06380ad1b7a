//! What one pool has to ask, and what is answered to it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::keep::{Ask, Asked, Resolver};
use crate::pool::{Pool, Question};

/// Has the questions of `pool` asked, those of backends that are added to it too, and lets it
/// know of every answer, until it is dropped. Needs a `LocalSet`.
pub async fn follow<A: Ask>(pool: Arc<Pool>, resolver: Rc<Resolver<A>>) {
    let mut changes = pool.changes();
    let mut asked: BTreeMap<Question, AbortOnDropHandle<()>> = BTreeMap::new();
    loop {
        changes.mark_unchanged();
        let wanted = pool.questions();
        asked.retain(|question, _| wanted.contains(question));
        for question in wanted {
            asked.entry(question).or_insert_with_key(|question| {
                let source = resolver.asked(question, pool.known(question));
                let hand_on = hand_on(source, Arc::clone(&pool), question.clone());
                AbortOnDropHandle::new(tokio::task::spawn_local(hand_on))
            });
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn hand_on(source: Rc<Asked>, pool: Arc<Pool>, question: Question) {
    let mut answers = source.answers();
    loop {
        let answer = answers.borrow_and_update().clone();
        if let Some(addresses) = answer {
            pool.resolve(&question, addresses);
        }
        if answers.changed().await.is_err() {
            return;
        }
    }
}
