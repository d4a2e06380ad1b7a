//! What a direction does on sockets that are chosen for it.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Wake, Waker};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::net::sockopt::set_socket_send_buffer_size;

use super::*;
use crate::conn::relay::PIPE_SIZE;
use crate::metrics::Process;
use crate::net::Kind;
use crate::runtime::Runtime;

const BUFFER: usize = 64 << 10;

/// A direction between two sockets, and their other ends.
struct Scene {
    direction: Direction,
    source: Stream,
    sink: Stream,
    client: UnixStream,
    backend: UnixStream,
    pipes: Rc<Pipes>,
    buffer: Vec<u8>,
    tally: Tally,
    window: Window,
}

impl Scene {
    fn new(engine: RelayEngine, pipes: Rc<Pipes>) -> Self {
        let (client, source) = UnixStream::pair().expect("sockets");
        let (sink, backend) = UnixStream::pair().expect("sockets");
        let stream = |socket: UnixStream| {
            socket.set_nonblocking(true).expect("a socket");
            Stream::new(socket.into(), Kind::Unix).expect("a stream")
        };
        Self {
            direction: Direction::new(engine),
            source: stream(source),
            sink: stream(sink),
            client,
            backend,
            pipes,
            buffer: vec![0; BUFFER],
            tally: Tally::default(),
            window: Window::Shut,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut link = Link {
            source: &self.source,
            sink: &self.sink,
            buffer: &mut self.buffer,
            pipes: &self.pipes,
            tally: &mut self.tally,
            window: &mut self.window,
        };
        self.direction.poll(cx, &mut link)
    }

    /// Sends `text` and FIN, and asserts that they arrive.
    async fn pass_on(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).expect("room");
        let shut = self.client.shutdown(std::net::Shutdown::Write);
        shut.expect("a connected socket");
        let end = poll_fn(|cx| self.poll(cx)).await;
        assert!(matches!(end, End::Fin), "{end:?}");
        assert_eq!(self.tally.delivered, text.len() as u64);
        let mut got = vec![0; text.len()];
        self.backend.read_exact(&mut got).expect("the text");
        assert_eq!(got, text.as_bytes());
    }
}

fn pipes() -> Rc<Pipes> {
    Pipes::new(1, Arc::new(Process::new(1)), 0)
}

fn run(test: impl Future<Output = ()>) {
    Runtime::new().expect("a runtime").block_on(test);
}

#[test]
fn a_forced_engine_outlives_any_number_of_portions_that_speak_against_it() {
    for engine in [RelayEngine::Copy, RelayEngine::Splice] {
        let mut direction = Direction::new(engine);
        for _ in 0..1000 {
            direction.judge_copy(true);
            direction.judge_splice(1);
        }
        assert_eq!(direction.bulk, engine == RelayEngine::Splice);
    }
}

#[test]
fn auto_changes_to_splice_for_bulk_and_back_for_small_portions() {
    let mut direction = Direction::new(RelayEngine::Auto);
    (0..FULL_READS).for_each(|_| direction.judge_copy(true));
    assert!(direction.bulk);
    (0..SMALL_PORTIONS).for_each(|_| direction.judge_splice(SMALL - 1));
    assert!(!direction.bulk);
}

#[test]
fn what_can_be_spliced_is() {
    run(async {
        let mut scene = Scene::new(RelayEngine::Splice, pipes());
        scene.pass_on("all of it").await;
        assert_eq!(scene.tally.spliced, 9);
    });
}

#[test]
fn a_source_that_cannot_be_spliced_is_copied_from_then_on() {
    run(async {
        let pipes = Pipes::of_which_one_is_no_pipe();
        let mut scene = Scene::new(RelayEngine::Splice, pipes);
        scene.pass_on("all of it").await;
        assert_eq!(scene.tally.spliced, 0);
        assert!(!scene.direction.bulk);
    });
}

/// What is in the pipe by then must not be lost.
#[test]
fn a_sink_that_cannot_be_spliced_to_gets_what_is_in_the_pipe_by_copy() {
    run(async {
        let mut scene = Scene::new(RelayEngine::Splice, pipes());
        // splice(2): "the target file is opened in append mode".
        let append = OFlags::NONBLOCK | OFlags::APPEND;
        fcntl_setfl(scene.sink.socket(), append).expect("a flag");
        scene.pass_on("all of it").await;
        assert_eq!(scene.tally.spliced, 0);
        assert!(!scene.direction.bulk);
        let again = scene.pipes.take().expect("its pipe was given back");
        let read = rustix::io::read(again.read_end(), &mut [0; 8]);
        assert_eq!(read, Err(rustix::io::Errno::AGAIN), "bytes were left in it");
    });
}

#[test]
fn without_a_pipe_everything_is_copied() {
    run(async {
        let none = Pipes::new(0, Arc::new(Process::new(1)), 0);
        let mut scene = Scene::new(RelayEngine::Splice, none);
        scene.pass_on("all of it").await;
        assert_eq!(scene.tally.spliced, 0);
    });
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// 1. the source has more than [`YIELD_AFTER`], and the sink has room for all of it;
/// 2. the first poll moves [`YIELD_AFTER`], and at most what one call takes beyond that;
/// 3. it asks to be polled again.
#[test]
fn bulk_gives_way_to_others_and_asks_for_another_turn() {
    for engine in [RelayEngine::Copy, RelayEngine::Splice] {
        run(async {
            let mut scene = Scene::new(engine, pipes());
            // The kernel grants less where `net.core.wmem_max` is less, but twice that.
            set_socket_send_buffer_size(&scene.client, 1 << 20).expect("an option");
            set_socket_send_buffer_size(scene.sink.socket(), 1 << 20).expect("an option");
            scene.client.set_nonblocking(true).expect("a socket");
            let mut waiting = 0;
            while let Ok(n) = scene.client.write(&[7; 4096]) {
                waiting += n;
            }
            let one_call = if engine == RelayEngine::Copy {
                BUFFER
            } else {
                PIPE_SIZE
            };
            assert!(waiting > YIELD_AFTER + BUFFER, "{waiting} bytes");
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            let polled = scene.poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            let taken = usize::try_from(scene.tally.taken).expect("few");
            let turn = YIELD_AFTER..YIELD_AFTER + one_call;
            assert!(turn.contains(&taken), "{taken} of {waiting} by {engine:?}");
            assert_eq!(woken.0.load(SeqCst), 1);
        });
    }
}
