//! The terminal, taken and given back.

use std::io::{self, Stdout, stdout};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::layout::{Position, Rect};
use ratatui::{Frame, Terminal};

/// Whether the terminal is ours now.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Whether something panicked while it was.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// The terminal, as long as it is ours: dropped, it is as it was before.
pub(super) struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Takes it.
    pub(super) fn take() -> io::Result<Self> {
        give_back_on_panic();
        // A terminal that is half taken is given back by the guard too.
        let screen = Self(Terminal::new(CrosstermBackend::new(stdout()))?);
        enter()?;
        Ok(screen)
    }

    /// Takes it again, after somebody else had it.
    pub(super) fn take_again(&mut self) -> io::Result<()> {
        enter()?;
        self.clear()
    }

    /// Draws everything anew with the next frame.
    ///
    /// `Terminal::clear` would ask the terminal where its cursor is, and the answer would come
    /// among the keys, for which another thread waits.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        let size = self.0.size()?;
        self.0.resize(Rect::from((Position::ORIGIN, size)))
    }

    /// One frame, in the size that the terminal has now.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Whether the terminal was given back because something panicked.
pub(super) fn has_panicked() -> bool {
    PANICKED.load(SeqCst)
}

fn enter() -> io::Result<()> {
    TAKEN.store(true, SeqCst);
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, Hide)
}

/// Gives it back, if it is ours. What fails here fails because there is no terminal any more.
pub(super) fn give_back() {
    if TAKEN.swap(false, SeqCst) {
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// A panic is told on the terminal as it was before: on the other screen it would be gone.
fn give_back_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICKED.store(true, SeqCst);
        give_back();
        before(info);
    }));
}
