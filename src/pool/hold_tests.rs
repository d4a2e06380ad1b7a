//! Tests of [`hold`](super::hold), apart from it since the module is compiled into its model
//! test as well.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::hold::{Full, Place, Queue};

fn queue() -> Arc<Queue<u32, u32>> {
    Arc::new(Queue::new())
}

fn poll(place: &mut Place<u32, u32>) -> Poll<u32> {
    Pin::new(place).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn waiters_are_served_in_order_of_arrival() {
    let queue = queue();
    let mut places: Vec<_> = (0..3)
        .map(|n| queue.join(n, None, 8).expect("there is room"))
        .collect();
    let mut slots = 2;
    let served = queue.serve(|&request| {
        slots -= 1;
        (slots >= 0).then_some(request * 10)
    });
    assert_eq!(served, 2);
    assert_eq!(poll(&mut places[0]), Poll::Ready(0));
    assert_eq!(poll(&mut places[1]), Poll::Ready(10));
    assert_eq!(poll(&mut places[2]), Poll::Pending);
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_ticket_keeps_its_place_and_gets_in_when_full() {
    let queue = queue();
    let mut first = queue.join(1, None, 1).expect("there is room");
    assert!(queue.serve_head(|_| Some(0)));
    assert_eq!(poll(&mut first), Poll::Ready(0));
    let mut second = queue.join(2, None, 1).expect("there is room");
    assert_eq!(queue.join(3, None, 1).err(), Some(Full));
    let ticket = first.ticket();
    drop(first);
    let mut again = queue.join(1, Some(ticket), 1).expect("a ticket gets in");
    assert!(queue.serve_head(|&request| Some(request)));
    assert_eq!(poll(&mut again), Poll::Ready(1));
    assert_eq!(poll(&mut second), Poll::Pending);
}

#[test]
fn leaving_frees_the_place_and_drops_an_untaken_grant() {
    let queue = Arc::new(Queue::<u32, Arc<()>>::new());
    let slot = Arc::new(());
    let place = queue.join(1, None, 8).expect("there is room");
    queue.serve_head(|_| Some(Arc::clone(&slot)));
    assert_eq!(Arc::strong_count(&slot), 2);
    drop(place);
    assert_eq!(Arc::strong_count(&slot), 1);
    let place = queue.join(1, None, 8).expect("there is room");
    drop(place);
    assert!(queue.is_empty());
}
