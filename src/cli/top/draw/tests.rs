//! Whole screens of fixed answers at a fixed time.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::answers::{Event, Series};
use super::super::keys;
use super::super::testing::{app, large, now};
use super::*;

/// The lines of a screen of this size.
fn screen(app: &mut App, width: u16, height: u16) -> Vec<String> {
    let backend = TestBackend::new(width, height);
    let mut terminal = Terminal::new(backend).expect("a terminal");
    terminal.draw(|frame| draw(frame, app)).expect("a frame");
    let buffer = terminal.backend().buffer().clone();
    let line = |y| {
        let cells = (0..width).map(|x| buffer[(x, y)].symbol());
        cells.collect::<String>().trim_end().to_owned()
    };
    (0..height).map(line).collect()
}

fn press(app: &mut App, keys: &[KeyCode]) {
    for key in keys {
        keys::press(app, KeyEvent::new(*key, KeyModifiers::NONE));
    }
}

fn with_series(mut app: App) -> App {
    let list = |value: &str| format!("[{}]", vec![value; 180].join(","));
    let (ten, two) = (list("10"), list("2"));
    let lists =
        format!(r#""connections": {ten}, "active": {two}, "bytes_in": {ten}, "bytes_out": {ten}"#);
    let series = |backends: &str| {
        let text = format!(
            r#"{{"step_seconds": 5, "pools": {{"web": {{{lists}, "held": {two}, "backends": {{{backends}}}}}}}}}"#
        );
        serde_json::from_str::<Series>(&text).expect("series")
    };
    let states = list("\"up\"").replacen("\"up\"", "\"down\"", 12);
    let oak = format!(r#""oak": {{{lists}, "state": {states}}}"#);
    app.data.series = Some(series(""));
    app.data.take_details("web".to_owned(), series(&oak));
    let block = "id: 9\nevent: state\ndata: {\"timestamp\":\"2025-12-31T23:55:00Z\",\
        \"level\":\"WARN\",\"pool\":\"web\",\"backend\":\"elm-2\",\"from\":\"up\",\
        \"state\":\"down\",\"cause\":\"refused\"}";
    app.data.take_event(Event::parse(block).expect("an event"));
    app
}

#[test]
fn pools_on_a_small_terminal() {
    let lines = screen(&mut with_series(app()), 80, 24);
    let bars = "▇".repeat(49);
    let expected = [
        " isobar 0.1.0  http://127.0.0.1:9900  up 2h 5m  lb.toml     ● live 00:00:00 UTC"
            .to_owned(),
        " open 12/9k     new -         in -         out -         usable 1/2       held 2"
            .to_owned(),
        " 1 Pools  2 Backends  3 Listeners  4 Connections  5 Events".to_owned(),
        "─".repeat(80),
        format!(" New     {bars}     2/s  most 2/s"),
        format!(" Open    {bars}       2  most 2"),
        format!(" Payload {bars}     4/s  most 4/s"),
        format!(" Held    {bars}       2  most 2"),
        format!(" Events  {}✕", " ".repeat(32)),
        "         15 min ago      10              5             now".to_owned(),
        String::new(),
        " Pools · 2 in all".to_owned(),
        "  POOL       USABLE    HELD ACTIVE NEW/S  IN/S OUT/S FAILED NEW, 15 MIN".to_owned(),
        format!(
            "▸ web        ◐ 1/2        2     12     -     -     -      4 {}",
            "▇".repeat(20)
        ),
        "  spare      – 0/0        0      0     -     -     -      0".to_owned(),
    ];
    assert_eq!(lines[..expected.len()], expected);
    assert_eq!(
        lines[22..],
        [
            " web: elm-2 is down (connect: connection refused)",
            " q quit  ? help  ↑↓ move  Enter open  / filter  <> sort  c connections  e events"
        ]
    );
}

#[test]
fn a_backend_tells_its_numbers_and_its_states() {
    let mut app = with_series(app());
    press(&mut app, &[KeyCode::Enter, KeyCode::Down, KeyCode::Enter]);
    let lines = screen(&mut app, 100, 40);
    let text = lines.join("\n");
    for line in [
        " 1 Pools  2 Backends  3 Listeners  4 Connections  5 Events  › web › oak",
        " ● up for 2h  at 127.0.0.1:7001",
        " active 11 of 50       new -, 300 in all                    connect    100µs, p99 400µs",
        " check  tcp, passed in 200µs, 0s ago",
        "  Asking …",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let state = lines.iter().find(|line| line.starts_with(" State "));
    assert!(
        state.expect("a line of states").contains("✕✕✕✕✕▁▁▁"),
        "{text}"
    );
}

#[test]
fn what_is_gone_says_so() {
    let mut app = app();
    press(&mut app, &[KeyCode::Enter, KeyCode::Enter]);
    app.path
        .push(Place::Backend("web".to_owned(), "ash".to_owned()));
    let text = screen(&mut app, 80, 24).join("\n");
    assert!(text.contains("There is no web/ash any more."), "{text}");
}

#[test]
fn nobody_answers_since_a_time_and_for_a_reason() {
    let mut app = app();
    let why = "no balancer answers at http://x:1: refused; start one".to_owned();
    app.data.take_stats(Err(why), now());
    app.now = now() + jiff::SignedDuration::from_secs(7);
    let lines = screen(&mut app, 80, 24);
    assert!(
        lines[0].ends_with("✕ no answer since 00:00:00 (7s)"),
        "{}",
        lines[0]
    );
    let alarm = " ✕ Trying again: no balancer answers at http://x:1: refused";
    assert!(lines.iter().any(|line| line == alarm), "{lines:#?}");
}

#[test]
fn a_thousand_backends_are_scrolled() {
    let mut app = large(1000);
    press(&mut app, &[KeyCode::Char('2')]);
    screen(&mut app, 80, 24);
    press(&mut app, &[KeyCode::End]);
    let lines = screen(&mut app, 80, 24);
    assert!(lines[21].starts_with("▸ spare/b998 "), "{lines:#?}");
    press(&mut app, &[KeyCode::PageUp]);
    let lines = screen(&mut app, 80, 24);
    assert!(lines[6].starts_with("▸ spare/b"), "{lines:#?}");
}

#[test]
fn a_filter_and_an_order_are_told() {
    let mut app = app();
    press(
        &mut app,
        &[KeyCode::Char('2'), KeyCode::Char('>'), KeyCode::Char('/')],
    );
    press(
        &mut app,
        &[KeyCode::Char('o'), KeyCode::Char('a'), KeyCode::Char('k')],
    );
    let lines = screen(&mut app, 80, 24);
    assert!(
        lines[4].starts_with(" Backends · 2 in all · 1 of 2 match"),
        "{lines:#?}"
    );
    assert!(lines[4].ends_with("/oak by BACKEND ▴"), "{lines:#?}");
    assert!(lines[5].starts_with("  BACKEND▴"), "{lines:#?}");
    assert!(lines[23].starts_with(" /oak "), "{lines:#?}");
}

#[test]
fn every_place_is_drawn_in_every_size() {
    for (width, height) in [(1, 1), (24, 6), (30, 8), (80, 24), (81, 25), (250, 80)] {
        let mut app = with_series(large(200));
        for keys in [
            &[KeyCode::Char('1')][..],
            &[KeyCode::Enter],
            &[KeyCode::Enter],
            &[KeyCode::Char('2')],
            &[KeyCode::Char('3')],
            &[KeyCode::Char('4'), KeyCode::Char('/'), KeyCode::Char('x')],
            &[KeyCode::Esc, KeyCode::Char('5')],
            &[KeyCode::Char('?')],
            &[KeyCode::Esc, KeyCode::Char('2'), KeyCode::Char('D')],
        ] {
            press(&mut app, keys);
            let text = screen(&mut app, width, height).join("");
            assert!(
                width == 1 || !text.trim().is_empty(),
                "{width} {height} {keys:?}"
            );
        }
    }
}

/// Without colours nothing has one; what is meant is in shapes and words anyway.
#[test]
fn colours_are_left_out_where_nobody_wants_them() {
    let colours = |wanted: bool| {
        let mut app = with_series(app());
        app.colours = wanted;
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
        terminal
            .draw(|frame| draw(frame, &mut app))
            .expect("a frame");
        let cells = terminal.backend().buffer().content.clone();
        cells.iter().filter(|cell| cell.fg != Color::Reset).count()
    };
    assert_eq!(colours(false), 0);
    assert!(colours(true) > 0);
}
