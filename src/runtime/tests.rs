//! The runtime as tasks see it.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use super::*;

fn run<F: Future>(main: F) -> F::Output {
    Runtime::new().expect("a runtime").block_on(main)
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("an address"));
    let (server, _) = listener.accept().expect("the client");
    server.set_nonblocking(true).expect("a socket");
    (client.expect("a connection"), server)
}

#[test]
fn tasks_take_turns_in_the_order_in_which_they_were_woken() {
    run(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        for name in ["a", "b", "c"] {
            let order = Rc::clone(&order);
            spawn(async move {
                for round in 0..2 {
                    order.borrow_mut().push((round, name));
                    yield_now().await;
                }
            });
        }
        while order.borrow().len() < 6 {
            yield_now().await;
        }
        let expected = [(0, "a"), (0, "b"), (0, "c"), (1, "a"), (1, "b"), (1, "c")];
        assert_eq!(*order.borrow(), expected);
    });
}

#[test]
fn a_task_that_panics_ends_no_other_and_is_dropped() {
    struct Told(Rc<Cell<bool>>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.set(std::thread::panicking());
        }
    }
    run(async {
        let dropped = Rc::new(Cell::new(false));
        let told = Told(Rc::clone(&dropped));
        spawn(async move {
            let _told = told;
            yield_now().await;
            panic!("as this test wants it");
        });
        while !dropped.get() {
            yield_now().await;
        }
    });
}

#[test]
fn tasks_that_are_left_are_dropped_with_the_runtime() {
    let kept = Rc::new(());
    let runtime = Runtime::new().expect("a runtime");
    let inside = Rc::clone(&kept);
    runtime.block_on(async move {
        spawn(async move {
            let _inside = inside;
            std::future::pending::<()>().await;
        });
        yield_now().await;
    });
    assert_eq!(Rc::strong_count(&kept), 2);
    drop(runtime);
    assert_eq!(Rc::strong_count(&kept), 1);
}

/// Many times over, as a wake that comes just before the wait is the one that gets lost.
#[test]
fn a_wake_from_another_thread_ends_a_wait() {
    let (ask, asked) = mpsc::channel::<tokio::sync::oneshot::Sender<()>>();
    let other = std::thread::spawn(move || {
        for answer in asked {
            answer.send(()).expect("somebody waits");
        }
    });
    run(async {
        for _ in 0..20_000 {
            let (answer, answered) = tokio::sync::oneshot::channel();
            ask.send(answer).expect("the other thread lives");
            answered.await.expect("an answer");
        }
    });
    drop(ask);
    other.join().expect("the other thread");
}

#[test]
fn a_socket_that_becomes_readable_wakes_who_waits_for_it() {
    run(async {
        let (mut client, server) = pair();
        let source = Source::new(&server).expect("a watch");
        source.dry();
        let writer = std::thread::spawn(move || {
            client.write_all(b"x").expect("a connection");
            client
        });
        let readable = Ready::READABLE;
        let ready = poll_fn(|cx| source.poll_ready(cx, readable)).await;
        assert!(ready.any(readable) && !ready.any(Ready::READ_CLOSED));
        source.dry();
        drop(writer.join().expect("the writer"));
        let ready = poll_fn(|cx| source.poll_ready(cx, Ready::READ_CLOSED)).await;
        assert!(ready.any(Ready::READ_CLOSED));
    });
}

/// Two runtimes watch one listening socket and wait: one client wakes one of them.
#[test]
fn a_client_wakes_one_of_the_runtimes_that_wait_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let listener = std::sync::Arc::new(listener);
    let (tell, told) = mpsc::channel();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (listener, tell) = (std::sync::Arc::clone(&listener), tell.clone());
            std::thread::spawn(move || {
                run(async {
                    let source = Source::listening(&listener).expect("a watch");
                    let thread = rustix::thread::gettid().as_raw_nonzero();
                    tell.send(Some(thread)).expect("the test");
                    poll_fn(|cx| source.poll_ready(cx, Ready::READABLE)).await;
                    listener.accept().expect("the client");
                    tell.send(None).expect("the test");
                });
            })
        })
        .collect();
    let wait = Duration::from_secs(60);
    let ready = || told.recv_timeout(wait).expect("a runtime");
    let waiting = [ready(), ready()].map(|thread| thread.expect("its number"));
    while !waiting.iter().all(|thread| is_asleep(*thread)) {
        std::thread::yield_now();
    }
    let first = TcpStream::connect(address).expect("a connection");
    assert_eq!(ready(), None);
    assert!(told.recv_timeout(Duration::from_millis(100)).is_err());
    let second = TcpStream::connect(address).expect("a connection");
    assert_eq!(ready(), None);
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("a runtime"));
    drop((first, second));
}

/// Whether a thread of this process waits for something, see proc(5).
fn is_asleep(thread: std::num::NonZero<i32>) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
    stat.expect("the thread lives").contains(") S ")
}

#[test]
fn what_the_kernel_said_of_a_socket_that_is_gone_concerns_no_other() {
    run(async {
        let (mut client, server) = pair();
        let gone = Source::new(&server).expect("a watch");
        client.write_all(b"x").expect("a connection");
        // Its place in the table goes to the next one, while the kernel has news for it.
        drop(gone);
        let (_other_client, other) = pair();
        let source = Source::new(&other).expect("a watch");
        source.dry();
        timers().sleep(Duration::from_millis(5)).await;
        assert!(!source.ready().any(Ready::READABLE));
    });
}
