//! A terminal for a program that wants one: a pseudo-terminal, and what would be seen on it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::deadline::{patience, wait_for, wait_until};
use super::process::Process;

/// A program on a terminal of its own.
pub struct Terminal {
    keyboard: File,
    child: Child,
    shown: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Starts `command` on an xterm of this size, as the leader of its session: `setsid`
    /// (util-linux) makes the terminal its controlling one, so that it hears of new sizes.
    #[track_caller]
    pub fn start(command: &Command, columns: u16, rows: u16) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&keyboard).expect("our own terminal");
        unlockpt(&keyboard).expect("our own terminal");
        let name = ptsname(&keyboard, Vec::new()).expect("a name");
        let name = name.to_str().expect("a plain path");
        let open = || {
            let device = OpenOptions::new().read(true).write(true).open(name);
            device.expect("the terminal's other end")
        };
        tcsetwinsize(&keyboard, size(columns, rows)).expect("a size");
        let mut own = Command::new("setsid");
        own.arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .env_remove("ISOBAR_CONFIG")
            .env_remove("ISOBAR_TOKEN");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => own.env(name, value),
                None => own.env_remove(name),
            };
        }
        let child = own.stdin(open()).stdout(open()).stderr(open()).spawn();
        let shown = vt100::Parser::new(at_least_one(rows), at_least_one(columns), 0);
        let shown = Arc::new(Mutex::new(shown));
        let terminal = Self {
            child: child.expect("util-linux has setsid"),
            keyboard: File::from(keyboard),
            shown,
        };
        terminal.watch();
        terminal
    }

    /// Shows what is written, until nobody has the terminal any more.
    fn watch(&self) {
        let mut written = self.keyboard.try_clone().expect("a descriptor");
        let shown = Arc::clone(&self.shown);
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 * 1024];
            // The kernel says EIO where a pipe says that it ends.
            while let Ok(n @ 1..) = written.read(&mut bytes) {
                shown.lock().expect("no panic").process(&bytes[..n]);
            }
        });
    }

    fn shown(&self) -> MutexGuard<'_, vt100::Parser> {
        self.shown.lock().expect("no panic while it was held")
    }

    /// Types these characters.
    pub fn press(&self, keys: &str) {
        let mut keyboard = &self.keyboard;
        keyboard.write_all(keys.as_bytes()).expect("a terminal");
    }

    /// Gives the terminal another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let mut shown = self.shown();
        shown
            .screen_mut()
            .set_size(at_least_one(rows), at_least_one(columns));
        tcsetwinsize(&self.keyboard, size(columns, rows)).expect("a size");
    }

    /// The lines that are seen now, without the blanks at their ends.
    pub fn lines(&self) -> Vec<String> {
        let shown = self.shown();
        let (_, columns) = shown.screen().size();
        let rows = shown.screen().rows(0, columns.get());
        rows.map(|row| row.trim_end().to_owned()).collect()
    }

    /// Waits until the lines are like this: a frame comes in pieces.
    #[track_caller]
    pub fn wait_lines(&self, what: &str, are_they: impl Fn(&[String]) -> bool) {
        let end = Instant::now() + patience();
        loop {
            let lines = self.lines();
            if are_they(&lines) {
                return;
            }
            assert!(
                Instant::now() < end,
                "waited in vain for {what} on\n{}",
                lines.join("\n")
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until there is a line that begins so and has this too, further on.
    #[track_caller]
    pub fn wait_line(&self, begin: &str, rest: &str) {
        self.wait_lines(&format!("{begin:?} and {rest:?}"), |lines| {
            let ends = lines.iter().filter_map(|line| line.strip_prefix(begin));
            ends.into_iter().any(|end| end.contains(rest))
        });
    }

    /// Waits until this is seen.
    #[track_caller]
    pub fn wait_text(&self, text: &str) {
        self.wait_lines(text, |lines| lines.iter().any(|line| line.contains(text)));
    }

    /// Waits until this is seen no more.
    #[track_caller]
    pub fn wait_gone(&self, text: &str) {
        let what = format!("the end of {text}");
        self.wait_lines(&what, |lines| !lines.iter().any(|line| line.contains(text)));
    }

    /// Whether anything that is seen has a colour.
    pub fn is_coloured(&self) -> bool {
        let shown = self.shown();
        let (rows, columns) = shown.screen().size();
        let all = (0..rows.get()).flat_map(|row| (0..columns.get()).map(move |c| (row, c)));
        let mut cells = all.filter_map(|(row, column)| shown.screen().cell(row, column));
        cells.any(|cell| cell.fgcolor() != vt100::Color::Default)
    }

    /// Whether the program has taken the whole screen.
    pub fn is_taken(&self) -> bool {
        self.shown().screen().alternate_screen()
    }

    /// Asserts that it is as it was before: the screen that a shell has, a cursor, and keys that
    /// come as lines and are seen.
    #[track_caller]
    pub fn assert_given_back(&self) {
        // What was written last may not be shown yet.
        wait_until("the screen was given back", || {
            let shown = self.shown();
            let screen = shown.screen();
            !screen.alternate_screen() && !screen.hide_cursor()
        });
        let modes = tcgetattr(&self.keyboard).expect("a terminal").local_modes;
        let wanted = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        assert!(modes.contains(wanted), "{modes:?}");
    }

    /// The program.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our own child");
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        wait_for("the program ended", || {
            self.child.try_wait().expect("our own child")
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn at_least_one(n: u16) -> NonZeroU16 {
    NonZeroU16::new(n).expect("a terminal has room")
}
