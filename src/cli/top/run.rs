//! The loop: keys and answers in, frames and questions out.
//!
//! One thread draws and asks. Another one waits for keys, as only a thread can; it ends with the
//! process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ratatui::crossterm::event::{self, Event as Input};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use super::answers::{Blocks, Event, Series};
use super::app::{App, Change};
use super::data::{Listed, Told};
use super::draw::draw;
use super::keys::{self, Effect};
use super::schedule::{Ask, Schedule};
use super::screen::{self, Screen};
use crate::cli::client::Client;
use crate::cli::connections::Connections;
use crate::cli::names::{backend_path, segment};
use crate::cli::stats::{Backend, History, Stats};
use crate::cli::table::Tone;
use crate::cli::{Failure, Outcome};
use crate::conn::fault;

/// How long an answer may take before somebody is told that there is none.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to follow the events.
const RETRY: Duration = Duration::from_secs(1);
/// What is taken in before the next frame is drawn, however much comes.
const AT_ONCE: usize = 256;

/// What comes in.
enum Got {
    Input(std::io::Result<Input>),
    Event(Event),
}

/// What was asked for.
enum Answer {
    Stats(Result<Stats, String>),
    Series(Option<Series>),
    Details(String, Option<Series>),
    Connections(Listed),
    History(Told),
    /// Of a change.
    Changed(String, Tone),
}

/// Shows everything until somebody leaves.
pub(super) fn run(client: Client, app: App) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    let shown = runtime.block_on(async {
        let mut top = Top::new(client, app)?;
        top.show().await
    });
    // A look-up of a name may hang in a thread.
    runtime.shutdown_background();
    shown
}

struct Top {
    /// First, so that it is given back before anything else ends.
    screen: Screen,
    client: Arc<Client>,
    app: App,
    schedule: Schedule,
    asked: JoinSet<(Option<Ask>, Answer)>,
    got: UnboundedReceiver<Got>,
    signals: Signals,
}

/// Why the loop goes on, or does not.
enum Next {
    Frame,
    Leave,
}

impl Top {
    fn new(client: Client, app: App) -> Result<Self, Failure> {
        let client = Arc::new(client);
        let (tell, got) = mpsc::unbounded_channel();
        let no_terminal =
            |error| Failure::failed(format_args!("cannot take the terminal: {error}"));
        let signals = Signals::new().map_err(Failure::failed)?;
        let screen = Screen::take().map_err(no_terminal)?;
        listen(tell.clone()).map_err(Failure::failed)?;
        let mut asked = JoinSet::new();
        let following = follow(Arc::clone(&client), tell);
        asked.spawn(async {
            let never = following.await;
            match never {}
        });
        Ok(Self {
            screen,
            client,
            app,
            schedule: Schedule::default(),
            asked,
            got,
            signals,
        })
    }

    async fn show(&mut self) -> Outcome {
        let lost = |error| Failure::failed(format_args!("the terminal is gone: {error}"));
        loop {
            self.app.now = Timestamp::now();
            for ask in self.schedule.due(&self.app, Instant::now()) {
                let client = Arc::clone(&self.client);
                self.asked.spawn(async move {
                    let answer = answer(&client, &ask).await;
                    (Some(ask), answer)
                });
            }
            if screen::has_panicked() {
                return Err(Failure::failed("a part of it failed, as told above"));
            }
            fault::point("draw", "top");
            self.screen
                .draw(|frame| draw(frame, &mut self.app))
                .map_err(lost)?;
            match self.next().await.map_err(lost)? {
                Next::Frame => {}
                Next::Leave => return Ok(()),
            }
        }
    }

    /// Waits for something, and takes it in with all that is there already.
    async fn next(&mut self) -> std::io::Result<Next> {
        let wait = self.schedule.wait(&self.app, Instant::now());
        tokio::select! {
            Some(got) = self.got.recv() => return self.take_all(got),
            Some(done) = self.asked.join_next() => {
                if let Ok((ask, answer)) = done {
                    self.take(ask, answer);
                }
            }
            signal = self.signals.next() => match signal {
                Heard::Leave => return Ok(Next::Leave),
                Heard::Continue => self.screen.take_again()?,
            },
            () = tokio::time::sleep(wait) => {}
        }
        Ok(Next::Frame)
    }

    fn take_all(&mut self, first: Got) -> std::io::Result<Next> {
        let mut got = Some(first);
        for _ in 0..AT_ONCE {
            match got {
                Some(Got::Event(event)) => self.app.data.take_event(event),
                Some(Got::Input(Ok(Input::Key(key)))) => {
                    let effect = keys::press(&mut self.app, key);
                    if let Next::Leave = self.act(effect)? {
                        return Ok(Next::Leave);
                    }
                }
                // A new size is seen with the next frame.
                Some(Got::Input(input)) => drop(input?),
                None => break,
            }
            got = self.got.try_recv().ok();
        }
        Ok(Next::Frame)
    }

    fn act(&mut self, effect: Effect) -> std::io::Result<Next> {
        match effect {
            Effect::None => {}
            Effect::Quit => return Ok(Next::Leave),
            Effect::Redraw => self.screen.clear()?,
            Effect::Suspend => {
                screen::give_back();
                // Comes back when somebody has it continue.
                rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::TSTP,
                )?;
                self.screen.take_again()?;
            }
            Effect::Change(change) => {
                let client = Arc::clone(&self.client);
                self.asked
                    .spawn(async move { (None, done(&client, &change).await) });
            }
        }
        Ok(Next::Frame)
    }

    fn take(&mut self, ask: Option<Ask>, answer: Answer) {
        let data = &mut self.app.data;
        match answer {
            Answer::Stats(stats) => {
                let was_lost = data.lost.is_some();
                if data.take_stats(stats, Timestamp::now()) || was_lost {
                    self.schedule.forget();
                }
            }
            Answer::Series(Some(series)) => data.series = Some(series),
            Answer::Details(pool, Some(series)) => data.take_details(pool, series),
            // Whether anybody answers is for /stats to tell.
            Answer::Series(None) | Answer::Details(_, None) => {}
            Answer::Connections(listed) => data.listed = Some(listed),
            Answer::History(told) => data.told = Some(told),
            Answer::Changed(words, tone) => self.app.said = Some((words, tone)),
        }
        if let Some(ask) = ask {
            self.schedule.done(&ask, Instant::now());
        }
    }
}

/// Asks.
async fn answer(client: &Client, ask: &Ask) -> Answer {
    match ask {
        Ask::Stats => Answer::Stats(get(client, "/stats").await),
        Ask::Series => {
            let path = "/series?minutes=15&backends=false";
            Answer::Series(get(client, path).await.ok())
        }
        Ask::Details(pool) => {
            let path = format!("/series?minutes=15&pool={}", segment(pool));
            Answer::Details(pool.clone(), get(client, &path).await.ok())
        }
        Ask::Connections(query) => Answer::Connections(Listed {
            answer: get::<Connections>(client, query.path()).await,
            query: query.clone(),
        }),
        Ask::History(pool, backend) => {
            let path = backend_path(pool, backend) + "/history";
            let answer = get::<History>(client, &path).await;
            Answer::History(Told {
                pool: pool.clone(),
                backend: backend.clone(),
                answer: answer.map(|history| history.history),
            })
        }
    }
}

async fn get<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T, String> {
    client.fetch(path, None, PATIENCE).await.map_err(words)
}

/// Changes a backend's admin state.
async fn done(client: &Client, change: &Change) -> Answer {
    let Change {
        pool,
        backend,
        state,
    } = change;
    let body = json!({"state": state});
    let path = backend_path(pool, backend);
    match client.fetch::<Backend>(&path, Some(&body), PATIENCE).await {
        Ok(now) => {
            let (state, active) = (now.state, now.connections.active);
            Answer::Changed(
                format!("{pool}/{backend} is {state}, {active} are open"),
                Tone::Good,
            )
        }
        Err(failure) => Answer::Changed(words(failure), Tone::Bad),
    }
}

/// What a failure says, for whoever sees it in the middle of other words.
fn words(failure: Failure) -> String {
    let message = failure.message;
    message
        .strip_prefix("error: ")
        .unwrap_or(&message)
        .to_owned()
}

/// Tells every event, those that were missed while nobody answered too.
async fn follow(client: Arc<Client>, tell: UnboundedSender<Got>) -> std::convert::Infallible {
    let mut last = None;
    loop {
        if let Ok(mut stream) = client.follow("/events", last).await {
            let mut blocks = Blocks::default();
            while let Some(piece) = stream.next().await {
                for event in blocks.push(&piece) {
                    last = Some(event.id);
                    // Nobody takes it while everything ends.
                    let _ = tell.send(Got::Event(event));
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Tells every key, and when the terminal has another size.
fn listen(tell: UnboundedSender<Got>) -> std::io::Result<()> {
    let listen = move || {
        loop {
            let input = event::read();
            let is_last = input.is_err();
            if tell.send(Got::Input(input)).is_err() || is_last {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("keys".to_owned());
    thread.spawn(listen).map(drop)
}

/// Signals that are heard.
struct Signals {
    leave: [Signal; 4],
    carry_on: Signal,
}

enum Heard {
    Leave,
    /// After it was stopped; meanwhile somebody else had the terminal.
    Continue,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            leave: [
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::hangup())?,
                signal(SignalKind::quit())?,
            ],
            carry_on: signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
        })
    }

    async fn next(&mut self) -> Heard {
        let [terminate, interrupt, hangup, quit] = &mut self.leave;
        tokio::select! {
            _ = terminate.recv() => Heard::Leave,
            _ = interrupt.recv() => Heard::Leave,
            _ = hangup.recv() => Heard::Leave,
            _ = quit.recv() => Heard::Leave,
            _ = self.carry_on.recv() => Heard::Continue,
        }
    }
}
