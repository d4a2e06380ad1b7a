//! What differs between the routes of a listener before and after.
//!
//! Their order counts, and they have no names: those that are the same at the front and at the
//! end are left out, and what stands in between is compared place by place. So of a route that is
//! put in between, or taken out, only that one is told.

use toml::{Table, Value};

use super::{BLANK, Both, Change, Side};
use crate::config::fields::{self, Effect};
use crate::config::{Listener, Route};

impl Both<'_> {
    /// Keys `route.N`, N from 1 in the order of the file; of those that are gone, the old one.
    pub(super) fn routes(&self, old: Option<&Listener>, new: Option<&Listener>) -> Vec<Change> {
        let Some(listener) = new else {
            return Vec::new();
        };
        let before = old.map_or(&[][..], |old| &old.routes);
        let after = &listener.routes[..];
        let pairs = before.iter().zip(after);
        let front = pairs.take_while(|(one, other)| one == other).count();
        let (before, after) = (&before[front..], &after[front..]);
        let pairs = before.iter().rev().zip(after.iter().rev());
        let end = pairs.take_while(|(one, other)| one == other).count();
        let (before, after) = (&before[..before.len() - end], &after[..after.len() - end]);
        let shown = |side: Side<'_>, listener: Option<&Listener>, route: Option<&Route>, index| {
            shown(side, &listener?.name, route?, index)
        };
        let change = |i: usize| {
            let index = front + i;
            let one = shown(self.old, old, before.get(i), index);
            let other = shown(self.new, new, after.get(i), index);
            let hidden = [&one, &other]
                .iter()
                .any(|side| side.as_ref().is_some_and(|(_, h)| *h));
            let value = |side: Option<(Value, bool)>| {
                let blank = Value::String(BLANK.to_owned());
                side.map(|(value, _)| if hidden { blank } else { value })
            };
            Change {
                key: format!("route.{}", index + 1),
                old: value(one),
                new: value(other),
                hidden,
                effect: Effect::NewConnections,
            }
        };
        (0..before.len().max(after.len())).map(change).collect()
    }
}

/// A route as the file would have it, without conditions that it does not have, and whether that
/// is never shown.
fn shown(side: Side<'_>, listener: &str, route: &Route, index: usize) -> Option<(Value, bool)> {
    let fields = fields::route(route).into_iter();
    let given = fields.filter_map(|field| Some((field.key.to_owned(), field.value?)));
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    let table: Table = given.filter(|(_, value)| !is_empty(value)).collect();
    let hidden = side
        .file
        .hides(&format!("listener/{listener}"), &format!("route.{index}"));
    Some((Value::Table(table), hidden))
}
