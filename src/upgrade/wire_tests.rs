use std::io::Write;
use std::os::fd::AsFd;

use proptest::prelude::*;

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn pair() -> (Wire, Wire) {
    let (ours, theirs) = Wire::pair().expect("a pair");
    (ours, Wire::new(theirs))
}

fn soon() -> Instant {
    Instant::now() + SOON
}

fn failed(reason: String) -> Message {
    Message::Failed {
        reason,
        invalid: true,
        problems: Vec::new(),
    }
}

#[test]
fn a_message_arrives_with_its_bytes_and_descriptors_closed_on_exec() {
    let (mut from, mut to) = pair();
    let file = std::fs::File::open("/dev/null").expect("a file");
    let fds = [file.as_fd(); 3];
    let message = failed("why".to_owned());
    from.send(&message, b"behind it", &fds, SOON).expect("room");
    from.send(&Message::Serving, &[], &[], SOON).expect("room");
    let frame = to.receive(soon()).expect("a frame");
    assert_eq!((frame.message, &*frame.bytes), (message, &b"behind it"[..]));
    assert_eq!(frame.fds.len(), 3);
    for fd in &frame.fds {
        let flags = rustix::io::fcntl_getfd(fd).expect("open");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
    assert_eq!(
        to.receive(soon()).expect("a frame").message,
        Message::Serving
    );
}

#[test]
fn a_frame_as_large_as_may_be_arrives_while_it_is_read() {
    let (mut from, mut to) = pair();
    let bytes = vec![7; MOST_BYTES];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            from.send(&Message::Serving, &bytes, &[], SOON)
                .expect("room")
        });
        assert_eq!(to.receive(soon()).expect("a frame").bytes, bytes);
    });
}

#[test]
fn what_breaks_a_bound_is_not_sent() {
    let (mut from, _to) = pair();
    let file = std::fs::File::open("/dev/null").expect("a file");
    let too_many = vec![file.as_fd(); MOST_FDS + 1];
    let too_long = failed("x".repeat(MOST_MESSAGE));
    for refused in [
        from.send(&Message::Serving, &[], &too_many, SOON),
        from.send(&Message::Serving, &vec![0; MOST_BYTES + 1], &[], SOON),
        from.send(&too_long, &[], &[], SOON),
    ] {
        assert!(matches!(refused, Err(WireError::Broken(_))), "{refused:?}");
    }
    let most = vec![file.as_fd(); MOST_FDS];
    from.send(&Message::Serving, &[], &most, SOON)
        .expect("as many as the kernel takes");
}

/// What a receiver makes of bytes that come with these descriptors.
fn receive(bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Frame, WireError> {
    let (from, mut to) = pair();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let flags = SendFlags::NOSIGNAL;
    sendmsg(&from, &[IoSlice::new(bytes)], &mut ancillary, flags).expect("room");
    drop(from);
    to.receive(soon())
}

#[test]
fn descriptors_that_were_not_announced_or_did_not_come_are_a_fault() {
    let file = std::fs::File::open("/dev/null").expect("a file");
    let without = encode(&Message::Serving, &[], 0).expect("a frame");
    let with_two = encode(&Message::Serving, &[], 2).expect("a frame");
    assert!(receive(&without, &[]).is_ok());
    assert!(receive(&with_two, &[file.as_fd(); 2]).is_ok());
    for (frame, fds) in [
        (&without, 1),
        (&with_two, 1),
        (&with_two, 3),
        (&with_two, 0),
    ] {
        let received = receive(frame, &vec![file.as_fd(); fds]);
        assert!(
            matches!(received, Err(WireError::Broken(_))),
            "{received:?}"
        );
    }
}

#[test]
fn another_version_is_no_broken_message() {
    let mut frame = encode(&Message::Serving, &[], 0).expect("a frame");
    frame[8..12].copy_from_slice(&2_u32.to_le_bytes());
    assert!(matches!(receive(&frame, &[]), Err(WireError::Version(2))));
}

#[test]
fn lengths_beyond_their_bounds_are_refused_before_anything_is_read() {
    for at in [12, 16, 20] {
        let mut frame = encode(&Message::Serving, &[], 0).expect("a frame");
        frame[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let received = receive(&frame, &[]);
        assert!(
            matches!(received, Err(WireError::Broken(_))),
            "{received:?}"
        );
    }
}

#[test]
fn an_end_and_a_silence_are_told_apart() {
    let (from, mut to) = pair();
    let in_a_moment = Instant::now() + Duration::from_millis(20);
    assert!(matches!(to.receive(in_a_moment), Err(WireError::Late)));
    assert!(!to.wait(Duration::from_millis(1)).expect("a socket"));
    drop(from);
    assert!(to.wait(SOON).expect("a socket"));
    assert!(matches!(to.receive(soon()), Err(WireError::Gone)));
}

proptest! {
    /// Whatever comes is a message or an error: no panic, nothing waited for that cannot come.
    #[test]
    fn anything_at_all_is_a_message_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = receive(&bytes, &[]);
    }

    /// The same for frames of which a few bytes are wrong.
    #[test]
    fn a_damaged_frame_is_a_message_or_a_fault(
        damage in proptest::collection::vec((0_usize..90, any::<u8>()), 1..4),
        length in 0_usize..90,
    ) {
        let mut frame = encode(&failed("why it is so".to_owned()), b"bytes", 0).expect("a frame");
        for (at, byte) in damage {
            let at = at % frame.len();
            frame[at] = byte;
        }
        frame.truncate(length.max(1));
        let _ = receive(&frame, &[]);
    }

    /// However a frame is cut up on its way.
    #[test]
    fn a_frame_arrives_in_pieces(cuts in proptest::collection::vec(1_usize..40, 1..9)) {
        let message = failed("in pieces".to_owned());
        let frame = encode(&message, b"and more", 0).expect("a frame");
        let (from, mut to) = pair();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut rest = &frame[..];
                for cut in cuts.iter().cycle() {
                    let (now, later) = rest.split_at((*cut).min(rest.len()));
                    (&from.socket).write_all(now).expect("room");
                    rest = later;
                    if rest.is_empty() {
                        break;
                    }
                }
            });
            let received = to.receive(soon()).expect("a frame");
            assert_eq!((received.message, &*received.bytes), (message, &b"and more"[..]));
        });
    }
}
