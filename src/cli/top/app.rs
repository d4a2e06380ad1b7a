//! What is on the screen: where somebody is, what is selected, what is typed.

use jiff::Timestamp;

use super::data::Data;
use super::listing::{self, Listing, Row, Sort};
use super::query::Query;
use crate::cli::table::Tone;

/// Where somebody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Pools,
    /// Those of one pool, or all.
    Backends(Option<String>),
    /// One, with its history: pool and name.
    Backend(String, String),
    Listeners,
    Connections,
    Events,
}

/// Places that a digit leads to.
pub(super) const TABS: [(&str, Place); 5] = [
    ("Pools", Place::Pools),
    ("Backends", Place::Backends(None)),
    ("Listeners", Place::Listeners),
    ("Connections", Place::Connections),
    ("Events", Place::Events),
];

impl Place {
    /// Which of [`App::lists`] it has.
    fn list(&self) -> usize {
        match self {
            Self::Pools => 0,
            Self::Backends(_) => 1,
            Self::Listeners => 2,
            Self::Connections => 3,
            Self::Events => 4,
            Self::Backend(..) => 5,
        }
    }
}

/// What of a list is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    /// The key of the selected row; nothing: the first one, whatever it is.
    pub(super) selected: Option<String>,
    /// Where that was when it was drawn last.
    pub(super) at: usize,
    /// The first row that is seen.
    pub(super) offset: usize,
    /// Rows that are seen at once.
    pub(super) height: usize,
    /// Its bars are seen.
    pub(super) has_bars: bool,
    pub(super) filter: String,
    /// The filter that somebody came with.
    pub(super) given: String,
    pub(super) sort: Option<Sort>,
}

impl List {
    /// Where the selected row is now. One that is gone leaves its place to the next.
    pub(super) fn position(&self, rows: &[Row<'_>]) -> usize {
        let Some(selected) = &self.selected else {
            return 0;
        };
        let found = rows.iter().position(|row| row.key == *selected);
        found.unwrap_or_else(|| self.at.min(rows.len().saturating_sub(1)))
    }

    /// The first row that is seen, so that the selected one is, and no room is wasted.
    pub(super) fn first_seen(&self, at: usize, height: usize, rows: usize) -> usize {
        let most = rows.saturating_sub(height);
        let least = (at + 1).saturating_sub(height);
        self.offset.clamp(least, at.max(least)).min(most.max(least))
    }
}

/// What the keys are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Looking,
    /// A filter.
    Typing,
    Help,
    /// Whether it is to be done.
    Asking(Change),
}

/// A change of a backend's admin state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) pool: String,
    pub(super) backend: String,
    /// As the admin endpoint takes it.
    pub(super) state: &'static str,
}

impl Change {
    /// What it would do.
    pub(super) fn question(&self, data: &Data) -> String {
        let Self {
            pool,
            backend,
            state,
        } = self;
        let what = match *state {
            "drain" => "Drain it? It takes no new connections; those that it has go on.",
            "maintenance" => "Maintenance? No new connections, no checks; those that it has go on.",
            _ => "Make it ready? It takes new connections again, once its checks pass.",
        };
        let found = data.stats.pools.find(pool);
        let found = found.and_then(|pool| pool.backends.find(backend));
        let open = found.map_or(0, |backend| backend.connections.active);
        format!("{pool}/{backend}: {what} {open} are open.")
    }
}

/// Everything.
#[derive(Debug)]
pub(super) struct App {
    pub(super) data: Data,
    pub(super) now: Timestamp,
    pub(super) colours: bool,
    /// How somebody came here; never empty.
    pub(super) path: Vec<Place>,
    lists: [List; 6],
    pub(super) mode: Mode,
    /// What became of a change, until the next key.
    pub(super) said: Option<(String, Tone)>,
}

impl App {
    pub(super) fn new(data: Data, now: Timestamp, colours: bool) -> Self {
        Self {
            data,
            now,
            colours,
            path: vec![Place::Pools],
            lists: Default::default(),
            mode: Mode::Looking,
            said: None,
        }
    }

    pub(super) fn place(&self) -> &Place {
        self.path.last().expect("the path begins somewhere")
    }

    pub(super) fn list(&self) -> &List {
        &self.lists[self.place().list()]
    }

    pub(super) fn list_mut(&mut self) -> &mut List {
        &mut self.lists[self.place().list()]
    }

    /// What is listed here, as it is to be seen.
    pub(super) fn listing(&self) -> Listing<'_> {
        let (data, now) = (&self.data, self.now);
        let all = match self.place() {
            Place::Pools => listing::pools::listing(data, now),
            Place::Backends(pool) => listing::backends::listing(data, pool.as_deref(), now),
            Place::Backend(pool, name) => {
                let told = data.told.as_ref();
                let told = told.filter(|told| told.pool == *pool && told.backend == *name);
                listing::history::listing(told, now)
            }
            Place::Listeners => listing::listeners::listing(data),
            Place::Connections => {
                listing::connections::listing(data.listed.as_ref(), self.query().as_ref())
            }
            Place::Events => listing::events::listing(data, now),
        };
        let list = self.list();
        all.arranged(&list.filter, list.sort)
    }

    /// The connections that are wanted.
    pub(super) fn query(&self) -> Result<Query, String> {
        let typed = &self.lists[Place::Connections.list()].filter;
        Query::parse(typed, &self.data.stats)
    }

    /// Pools whose backends' series are seen, and so wanted.
    pub(super) fn wanted_details(&self) -> Vec<String> {
        let list = self.list();
        match self.place() {
            Place::Backend(pool, _) => vec![pool.clone()],
            Place::Backends(Some(pool)) if list.has_bars => vec![pool.clone()],
            Place::Backends(None) if list.has_bars => {
                let rows = self.listing().rows;
                let seen = rows.iter().skip(list.offset).take(list.height);
                let mut pools: Vec<_> = seen
                    .filter_map(|row| Some(row.key.split_once('/')?.0.to_owned()))
                    .collect();
                pools.sort_unstable();
                pools.dedup();
                pools
            }
            _ => Vec::new(),
        }
    }

    /// Goes on to another place, which has this filter.
    pub(super) fn open(&mut self, place: Place, filter: String) {
        self.path.push(place);
        *self.list_mut() = List {
            given: filter.clone(),
            filter,
            ..List::default()
        };
    }

    /// Goes to where a digit leads.
    pub(super) fn go(&mut self, tab: usize) {
        let Some((_, place)) = TABS.get(tab) else {
            return;
        };
        self.path = vec![place.clone()];
        let list = self.list_mut();
        if list.filter == list.given {
            list.filter.clear();
        }
        list.given.clear();
    }

    /// Takes back what was typed, else goes back.
    pub(super) fn back(&mut self) {
        let list = self.list_mut();
        if list.filter != list.given {
            list.filter.clone_from(&list.given);
        } else if self.path.len() > 1 {
            self.path.pop();
        }
    }

    /// The key of the selected row.
    pub(super) fn selected(&self) -> Option<String> {
        let rows = self.listing().rows;
        let at = self.list().position(&rows);
        rows.into_iter().nth(at).map(|row| row.key)
    }

    /// Selects the row that is so many further down, or up.
    pub(super) fn step(&mut self, by: isize) {
        let rows = self.listing().rows;
        let at = self.list().position(&rows);
        let to = at.saturating_add_signed(by);
        let to = to.min(rows.len().saturating_sub(1));
        let key = rows.into_iter().nth(to).map(|row| row.key);
        let list = self.list_mut();
        list.selected = key;
        list.at = to;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::large;
    use super::*;

    fn app() -> App {
        let mut app = large(100);
        app.open(Place::Backends(Some("spare".to_owned())), String::new());
        app
    }

    #[test]
    fn a_selected_row_stays_selected_wherever_it_moves() {
        let mut app = app();
        app.step(3);
        let selected = app.selected().expect("a row");
        app.list_mut().sort = Sort::next(None, app.listing().columns, true);
        assert_eq!(app.selected(), Some(selected));
    }

    #[test]
    fn a_row_that_goes_leaves_its_place_to_the_next() {
        let mut app = app();
        app.step(3);
        app.list_mut().selected = Some("spare/gone".to_owned());
        let rows = app.listing().rows;
        assert_eq!(app.selected().as_ref(), Some(&rows[3].key));
    }

    #[test]
    fn nobody_goes_beyond_the_ends() {
        let mut app = app();
        app.step(isize::MAX);
        assert_eq!(app.selected().as_deref(), Some("spare/b098"));
        app.step(isize::MIN);
        assert_eq!(app.list().position(&app.listing().rows), 0);
        app.list_mut().filter = "nobody".to_owned();
        app.step(1);
        assert_eq!(app.selected(), None);
    }

    #[test]
    fn the_selected_row_is_seen_and_no_room_is_wasted() {
        let list = |offset| List {
            offset,
            ..List::default()
        };
        for (offset, at, height, rows, expected) in [
            (0, 0, 10, 100, 0),
            (0, 10, 10, 100, 1),
            (50, 20, 10, 100, 20),
            (50, 55, 10, 100, 50),
            // Rows went away: the rest moves down into the room.
            (95, 99, 10, 100, 90),
            (90, 4, 10, 5, 0),
            (0, 0, 0, 0, 1),
        ] {
            assert_eq!(list(offset).first_seen(at, height, rows), expected);
        }
    }

    #[test]
    fn series_are_wanted_of_pools_that_are_seen() {
        let mut app = app();
        assert!(app.wanted_details().is_empty());
        app.list_mut().has_bars = true;
        assert_eq!(app.wanted_details(), ["spare"]);
        app.go(1);
        let list = app.list_mut();
        (list.has_bars, list.height, list.offset) = (true, 1, 0);
        assert_eq!(app.wanted_details(), ["web"]);
        app.list_mut().height = 5;
        assert_eq!(app.wanted_details(), ["spare", "web"]);
    }
}
