//! What a key does.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::app::{App, Change, Mode, Place, TABS};
use super::listing::Sort;

/// What is left to be done by whoever has the terminal and the balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Quit,
    /// As Ctrl-Z does.
    Suspend,
    /// Draw everything again: something else wrote onto the terminal.
    Redraw,
    Change(Change),
}

/// Takes one key.
pub(super) fn press(app: &mut App, key: KeyEvent) -> Effect {
    if key.kind == KeyEventKind::Release {
        return Effect::None;
    }
    app.said = None;
    // Over a slow line Escape and the key behind it come as one.
    if key.modifiers.contains(KeyModifiers::ALT) {
        plain(app, KeyCode::Esc);
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return control(app, key.code);
    }
    plain(app, key.code)
}

fn plain(app: &mut App, key: KeyCode) -> Effect {
    match &app.mode {
        Mode::Looking => look(app, key),
        Mode::Typing => {
            typed(app, key);
            Effect::None
        }
        Mode::Help => {
            app.mode = Mode::Looking;
            match key {
                KeyCode::Char('q') => Effect::Quit,
                _ => Effect::None,
            }
        }
        Mode::Asking(change) => {
            let effect = match key {
                KeyCode::Char('y') => Effect::Change(change.clone()),
                _ => Effect::None,
            };
            app.mode = Mode::Looking;
            effect
        }
    }
}

/// The same everywhere.
fn control(app: &mut App, key: KeyCode) -> Effect {
    match key {
        KeyCode::Char('c') => return Effect::Quit,
        KeyCode::Char('z') => return Effect::Suspend,
        KeyCode::Char('l') => return Effect::Redraw,
        KeyCode::Char('u') if app.mode == Mode::Typing => app.list_mut().filter.clear(),
        KeyCode::Char('d') => half_a_page(app, 1),
        KeyCode::Char('u') => half_a_page(app, -1),
        _ => {}
    }
    Effect::None
}

fn half_a_page(app: &mut App, direction: isize) {
    let half = (app.list().height / 2).max(1);
    app.step(direction * half.cast_signed());
}

fn look(app: &mut App, key: KeyCode) -> Effect {
    let page = app.list().height.max(1).cast_signed();
    match key {
        KeyCode::Char('q') => return Effect::Quit,
        KeyCode::Char('?') | KeyCode::F(1) => app.mode = Mode::Help,
        KeyCode::Char('/') => app.mode = Mode::Typing,
        KeyCode::Up | KeyCode::Char('k') => app.step(-1),
        KeyCode::Down | KeyCode::Char('j') => app.step(1),
        KeyCode::PageUp => app.step(-page),
        KeyCode::PageDown | KeyCode::Char(' ') => app.step(page),
        KeyCode::Home | KeyCode::Char('g') => app.step(isize::MIN),
        KeyCode::End | KeyCode::Char('G') => app.step(isize::MAX),
        KeyCode::Enter | KeyCode::Right => enter(app),
        KeyCode::Esc | KeyCode::Left | KeyCode::Backspace => app.back(),
        KeyCode::Tab => turn(app, 1),
        KeyCode::BackTab => turn(app, TABS.len() - 1),
        KeyCode::Char(digit @ '1'..='9') => app.go(digit as usize - '1' as usize),
        KeyCode::Char('>' | 's') => sort(app, true),
        KeyCode::Char('<' | 'S') => sort(app, false),
        KeyCode::Char('r') => reverse(app),
        KeyCode::Char('c') => about(app, Place::Connections),
        KeyCode::Char('e') => about(app, Place::Events),
        KeyCode::Char('D') => ask(app, "drain"),
        KeyCode::Char('R') => ask(app, "ready"),
        KeyCode::Char('M') => ask(app, "maintenance"),
        _ => {}
    }
    Effect::None
}

/// A filter, which is in force while it is typed.
fn typed(app: &mut App, key: KeyCode) {
    let list = app.list_mut();
    match key {
        KeyCode::Char(character) => list.filter.push(character),
        KeyCode::Backspace if list.filter.is_empty() => app.mode = Mode::Looking,
        KeyCode::Backspace => {
            list.filter.pop();
        }
        KeyCode::Enter => app.mode = Mode::Looking,
        KeyCode::Esc => {
            list.filter.clone_from(&list.given);
            app.mode = Mode::Looking;
        }
        KeyCode::Up => app.step(-1),
        KeyCode::Down => app.step(1),
        _ => {}
    }
}

/// The next tab, or one of those after it.
fn turn(app: &mut App, by: usize) {
    let from = &app.path[0];
    let from = TABS.iter().position(|(_, place)| place == from);
    app.go((from.unwrap_or(0) + by) % TABS.len());
}

/// Into what is selected.
fn enter(app: &mut App) {
    let Some(key) = app.selected() else {
        return;
    };
    let to = match app.place() {
        Place::Pools => Some(Place::Backends(Some(key))),
        Place::Backends(_) => backend(&key),
        Place::Backend(..) => None,
        Place::Listeners => {
            let listener = app.data.stats.listeners.find(&key);
            let pool = listener.and_then(|listener| listener.pool.clone());
            pool.map(|pool| Place::Backends(Some(pool)))
        }
        Place::Connections => of_connection(app, &key),
        Place::Events => {
            let event = app.data.events.iter().find(|e| e.id.to_string() == key);
            let turn = event.and_then(|event| event.turn.clone());
            turn.map(|turn| Place::Backend(turn.pool, turn.backend))
        }
    };
    if let Some(place) = to {
        app.open(place, String::new());
    }
}

fn backend(key: &str) -> Option<Place> {
    let (pool, name) = key.split_once('/')?;
    Some(Place::Backend(pool.to_owned(), name.to_owned()))
}

fn of_connection(app: &App, id: &str) -> Option<Place> {
    let listed = app.data.listed.as_ref()?.answer.as_ref().ok()?;
    let mut all = listed.connections.iter();
    let connection = all.find(|connection| connection.id == id)?;
    let (pool, name) = (connection.pool.clone()?, connection.backend.clone()?);
    Some(Place::Backend(pool, name))
}

/// The pool or backend that is looked at, or selected.
fn subject(app: &App) -> Option<String> {
    match app.place() {
        Place::Pools | Place::Backends(_) => app.selected(),
        Place::Backend(pool, name) => Some(format!("{pool}/{name}")),
        Place::Listeners => app.selected(),
        Place::Connections | Place::Events => None,
    }
}

/// To the connections, or events, of what is looked at.
fn about(app: &mut App, place: Place) {
    if let Some(subject) = subject(app) {
        app.open(place, subject);
    }
}

fn sort(app: &mut App, forward: bool) {
    let columns = app.listing().columns;
    let list = app.list_mut();
    list.sort = Sort::next(list.sort, columns, forward);
}

fn reverse(app: &mut App) {
    if let Some(sort) = &mut app.list_mut().sort {
        sort.ascending = !sort.ascending;
    }
}

fn ask(app: &mut App, state: &'static str) {
    let key = match app.place() {
        Place::Backends(_) | Place::Backend(..) => subject(app),
        _ => None,
    };
    if let Some(Place::Backend(pool, backend)) = key.as_deref().and_then(backend) {
        app.mode = Mode::Asking(Change {
            pool,
            backend,
            state,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::app;
    use super::*;

    fn press_all(app: &mut App, keys: &[KeyCode]) -> Effect {
        let mut effect = Effect::None;
        for key in keys {
            effect = press(app, KeyEvent::new(*key, KeyModifiers::NONE));
        }
        effect
    }

    fn control(app: &mut App, key: char) -> Effect {
        press(
            app,
            KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL),
        )
    }

    use KeyCode::{Backspace, Char, Down, Enter, Esc, Tab};

    #[test]
    fn enter_leads_from_a_pool_to_a_backend_and_escape_back() {
        let mut app = app();
        press_all(&mut app, &[Enter]);
        assert_eq!(*app.place(), Place::Backends(Some("web".to_owned())));
        press_all(&mut app, &[Down, Enter]);
        let oak = Place::Backend("web".to_owned(), "oak".to_owned());
        assert_eq!(*app.place(), oak);
        press_all(&mut app, &[Char('c')]);
        assert_eq!(*app.place(), Place::Connections);
        let path = app.query().expect("a query").path().to_owned();
        assert_eq!(path, "/connections?limit=500&pool=web&backend=oak");
        press_all(&mut app, &[Esc]);
        assert_eq!(*app.place(), oak);
        press_all(&mut app, &[Esc, Esc, Esc, Esc]);
        assert_eq!(app.path, [Place::Pools]);
    }

    #[test]
    fn a_filter_is_in_force_while_it_is_typed() {
        let mut app = app();
        press_all(
            &mut app,
            &[
                Char('2'),
                Char('/'),
                Char('q'),
                Backspace,
                Char('E'),
                Char('l'),
            ],
        );
        assert_eq!(app.listing().rows.len(), 1);
        assert_eq!(app.selected().as_deref(), Some("web/elm-2"));
        press_all(&mut app, &[Enter]);
        assert_eq!((&app.mode, &*app.list().filter), (&Mode::Looking, "El"));
        press_all(&mut app, &[Esc]);
        assert_eq!(app.listing().rows.len(), 2);
        press_all(&mut app, &[Char('/'), Char('x'), Esc]);
        assert_eq!((&app.mode, &*app.list().filter), (&Mode::Looking, ""));
    }

    #[test]
    fn q_leaves_but_not_while_a_filter_is_typed_and_control_c_always_does() {
        let mut app = app();
        assert_eq!(press_all(&mut app, &[Char('/'), Char('q')]), Effect::None);
        assert_eq!(control(&mut app, 'c'), Effect::Quit);
        assert_eq!(press_all(&mut app, &[Esc, Char('q')]), Effect::Quit);
        assert_eq!(press_all(&mut app, &[Char('?'), Char('q')]), Effect::Quit);
        assert_eq!(control(&mut app, 'z'), Effect::Suspend);
        press_all(&mut app, &[Char('/')]);
        let both = KeyEvent::new(Char('q'), KeyModifiers::ALT);
        assert_eq!(press(&mut app, both), Effect::Quit);
    }

    #[test]
    fn nothing_is_changed_without_a_yes() {
        let mut app = app();
        press_all(&mut app, &[Char('D')]);
        assert_eq!(app.mode, Mode::Looking);
        press_all(&mut app, &[Enter, Down, Char('D')]);
        let change = Change {
            pool: "web".to_owned(),
            backend: "oak".to_owned(),
            state: "drain",
        };
        assert_eq!(app.mode, Mode::Asking(change.clone()));
        assert!(change.question(&app.data).contains("11 are open"));
        assert_eq!(press_all(&mut app, &[Enter]), Effect::None);
        assert_eq!(app.mode, Mode::Looking);
        let done = press_all(&mut app, &[Char('D'), Char('y')]);
        assert_eq!(done, Effect::Change(change));
    }

    #[test]
    fn tabs_are_turned_and_orders_are_chosen() {
        let mut app = app();
        press_all(&mut app, &[Tab, Tab]);
        assert_eq!(app.path, [Place::Listeners]);
        press_all(
            &mut app,
            &[KeyCode::BackTab, Char('>'), Char('>'), Char('>'), Char('r')],
        );
        let sort = app.list().sort.expect("an order");
        assert_eq!(app.listing().columns[sort.column].title, "STATE");
        assert!(!sort.ascending);
        assert_eq!(app.selected().as_deref(), Some("web/oak"));
        press_all(&mut app, &[Char('<'), Char('<'), Char('<')]);
        assert_eq!(app.list().sort, None);
    }

    #[test]
    fn an_event_of_a_backend_leads_to_it() {
        let mut app = app();
        let block = "id: 1\nevent: state\ndata: {\"timestamp\":\"2025-01-01T00:00:00Z\",\
            \"level\":\"INFO\",\"pool\":\"web\",\"backend\":\"oak\",\"state\":\"up\"}";
        let event = super::super::answers::Event::parse(block).expect("an event");
        app.data.take_event(event);
        press_all(&mut app, &[Char('5'), Enter]);
        assert_eq!(
            *app.place(),
            Place::Backend("web".to_owned(), "oak".to_owned())
        );
    }
}
