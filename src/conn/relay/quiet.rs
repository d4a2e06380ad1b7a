//! What a relay does when nothing is to be moved now: it ends where it has to, at a quiet moment
//! or at any, or waits for what its clock says.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::age::Age;
use super::{Done, Exchange, Observer};
use crate::metrics::Ended;
use crate::net::Stream;

/// How soon a connection that is to leave and is quiet looks again whether everything has been
/// acknowledged: the kernel tells nobody. An old one has time: where it takes long, because a
/// peer is gone say, that looks less often, see [`look_again`].
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl<O: Observer> Exchange<'_, O> {
    /// Ends the connection if it is time, or sees to it that it is looked at again.
    pub(super) fn rest(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Done> {
        if let Some(ended) = self.entry.parting() {
            return Poll::Ready(Done::Parted(ended));
        }
        match Age::new(
            self.settings.max_age,
            self.entry.accepted(),
            self.entry.id(),
        ) {
            None if !self.entry.is_leaving() => self.look_at_clock(cx, None, now),
            Some(age) if age.ends_at <= now => Poll::Ready(Done::Parted(Ended::MaxAge)),
            Some(age) if !age.is_old(now) && !self.entry.is_leaving() => {
                self.look_at_clock(cx, Some(age.leaves_at), now)
            }
            age => self.look_for_quiet(cx, age, now),
        }
    }

    /// Ends the connection if all is quiet, or looks again when it may be.
    fn look_for_quiet(
        &mut self,
        cx: &mut Context<'_>,
        age: Option<Age>,
        now: Instant,
    ) -> Poll<Done> {
        let look_at = match self.quiet_at() {
            Some(at) if at <= now && self.is_settled() => {
                let is_old = age.is_some_and(|age| age.is_old(now));
                let wish = self.entry.take_leave();
                if let Some(ended) = wish.or_else(|| is_old.then_some(Ended::MaxAge)) {
                    return Poll::Ready(Done::Over(ended));
                }
                None
            }
            // Whoever asked does not wait for long.
            Some(at) if at <= now && self.entry.is_leaving() => Some(now + LOOK_AGAIN),
            Some(at) if at <= now => Some(now + look_again(now - at)),
            at => at,
        };
        let of_age = age.map(|age| age.next(now));
        let look_at = look_at.into_iter().chain(of_age).min();
        self.look_at_clock(cx, look_at, now)
    }

    /// From when on this is quiet, if nothing moves before; `None`: not before more has moved.
    fn quiet_at(&self) -> Option<Instant> {
        let empty = self.up.reads_source() && self.down.reads_source();
        let nobody_waits = self.entry.is_answered() && self.first_fin.is_none();
        (empty && nobody_waits).then(|| self.entry.last_moved() + self.settings.quiet)
    }

    /// Whether what was sent has arrived and nothing else has: asked of the kernel last, as
    /// close to the end as can be.
    fn is_settled(&self) -> bool {
        let settled = |side: &Stream| side.unacknowledged() == 0 && !side.has_unread();
        settled(&self.backend) && settled(&self.client)
    }
}

/// How soon to look again at what has been quiet, and not acknowledged, for so long.
fn look_again(waited: Duration) -> Duration {
    LOOK_AGAIN.max(waited / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand connections whose peers are gone are no reason to be busy.
    #[test]
    fn what_is_not_acknowledged_is_looked_at_less_and_less_often() {
        let mut waited = Duration::ZERO;
        let mut looks = 0;
        while waited < Duration::from_secs(15 * 60) {
            waited += look_again(waited);
            looks += 1;
        }
        assert!((40..100).contains(&looks), "{looks}");
        assert_eq!(look_again(Duration::ZERO), LOOK_AGAIN);
    }
}
