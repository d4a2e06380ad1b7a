//! ClientHellos as rustls sends them and as built here, whole, in parts, and with what rules
//! them out.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// The first flight of a real client, one record or more.
fn real(protocols: &[&str], fragment: Option<usize>) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions");
    let mut config = builder
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().into())
        .collect();
    config.max_fragment_size = fragment;
    let name = ServerName::try_from("db.example.com").expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut flight = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut flight).expect("room");
    }
    flight
}

fn extension(of: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("short");
    [&of.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

/// A ClientHello with these extensions; `None`: it ends before them, as old ones do.
fn message(extensions: Option<&[Vec<u8>]>) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([4, 1, 2, 3, 4]);
    body.extend([0, 4, 0x13, 1, 0x13, 2]);
    body.extend([1, 0]);
    if let Some(extensions) = extensions {
        let all = extensions.concat();
        body.extend(u16::try_from(all.len()).expect("short").to_be_bytes());
        body.extend(all);
    }
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[1], &length[1..], &body].concat()
}

/// `message` in records of these sizes, the rest in a last one.
fn in_records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = message;
    for size in sizes.iter().copied().chain([FRAGMENT]) {
        let (now, later) = rest.split_at(size.clamp(1, FRAGMENT).min(rest.len()));
        if !now.is_empty() {
            bytes.extend([HANDSHAKE, 3, 1]);
            bytes.extend(u16::try_from(now.len()).expect("short").to_be_bytes());
            bytes.extend(now);
        }
        rest = later;
    }
    assert!(rest.is_empty(), "all of it is there");
    bytes
}

fn plain() -> Vec<Vec<u8>> {
    vec![
        extension(0x0a0a, b""),
        extension(0, b"\0\x0e\0\0\x0bexample.com"),
        extension(51, &[9; 1216]),
        extension(41, &[5; 40]),
    ]
}

fn takes(bytes: &[u8]) -> bool {
    OneHello::new().takes(bytes)
}

/// The first byte that rules it out, fed one by one.
fn ruled_out_at(bytes: &[u8]) -> Option<usize> {
    let mut hello = OneHello::new();
    bytes
        .iter()
        .position(|byte| !hello.takes(std::slice::from_ref(byte)))
}

#[test]
fn real_hellos_are_taken_and_nothing_behind_them_is() {
    for protocols in [&[][..], &["h2", "http/1.1"], &["postgresql"]] {
        for fragment in [None, Some(64), Some(300)] {
            let hello = real(protocols, fragment);
            assert!(hello.len() > 100, "{}", hello.len());
            assert_eq!(ruled_out_at(&hello), None, "{protocols:?} {fragment:?}");
            for next in [HANDSHAKE, 20, 21, 23, 0, b'G'] {
                let more = [&hello[..], &[next]].concat();
                assert_eq!(ruled_out_at(&more), Some(hello.len()), "{next}");
            }
        }
    }
}

#[test]
fn every_beginning_of_a_real_hello_is_taken() {
    let hello = real(&["h2"], Some(100));
    for end in 0..=hello.len() {
        assert!(takes(&hello[..end]), "{end}");
    }
}

#[test]
fn early_data_is_ruled_out_by_its_extension_wherever_it_stands() {
    for place in 0..=plain().len() {
        let mut extensions = plain();
        extensions.insert(place, extension(42, b""));
        let message = message(Some(&extensions));
        let bytes = in_records(&message, &[]);
        let before: usize = plain()[..place].iter().map(Vec::len).sum();
        let start = in_records(&self::message(Some(&[])), &[]).len();
        assert_eq!(ruled_out_at(&bytes), Some(start + before + 1), "{place}");
    }
    // The same number elsewhere is no such extension.
    let like_it = [extension(43, &[0, 42, 0, 0]), extension(0x2a2a, &[42; 9])];
    assert!(takes(&in_records(&message(Some(&like_it)), &[])));
}

#[test]
fn a_second_handshake_message_in_the_same_record_is_ruled_out() {
    let hello = message(Some(&plain()));
    let two = in_records(&[&hello[..], &[1]].concat(), &[]);
    assert_eq!(ruled_out_at(&two), Some(two.len() - 1));
    assert!(!takes(&in_records(&[&hello[..], &hello].concat(), &[])));
}

#[test]
fn hellos_without_extensions_are_taken_whole_and_no_further() {
    for extensions in [None, Some(&[][..])] {
        let bytes = in_records(&message(extensions), &[]);
        assert_eq!(ruled_out_at(&bytes), None);
        assert!(!takes(&[&bytes[..], &bytes].concat()));
    }
}

#[test]
fn what_is_no_hello_is_ruled_out_at_once() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"PROXY TCP4 ",
        b"SSH-2.0-x",
    ] {
        assert_eq!(ruled_out_at(bytes), Some(0));
    }
    let cases: [(&[u8], usize); 8] = [
        // Another content type, another major version.
        (&[23, 3, 3, 0, 5], 0),
        (&[HANDSHAKE, 2, 0, 0, 5], 1),
        // A record with nothing in it, and one that is too long.
        (&[HANDSHAKE, 3, 1, 0, 0], 4),
        (&[HANDSHAKE, 3, 1, 0x40, 1], 4),
        // Another message; one of more than 64 KiB; one that is too short for its start.
        (&[HANDSHAKE, 3, 1, 0, 9, 2], 5),
        (&[HANDSHAKE, 3, 1, 0, 9, 1, 1, 0, 1], 8),
        (&[HANDSHAKE, 3, 1, 0, 9, 1, 0, 0, 33], 8),
        (&[HANDSHAKE, 3, 1, 0, 0x40, 1, 0xff, 0xff, 0xff], 8),
    ];
    for (bytes, place) in cases {
        assert_eq!(ruled_out_at(bytes), Some(place), "{bytes:?}");
    }
}

#[test]
fn lengths_that_lead_out_of_the_message_are_ruled_out() {
    let good = message(Some(&plain()));
    // Session, ciphers, compressions, extensions, the first extension.
    for place in [38, 43, 49, 51, 55] {
        let mut bad = good.clone();
        bad[place] = 0xff;
        assert!(!takes(&in_records(&bad, &[])), "{place}");
    }
    let mut short = message(Some(&plain()));
    short[52] = short[52].wrapping_sub(1);
    assert!(
        !takes(&in_records(&short, &[])),
        "bytes behind the extensions"
    );
}

proptest! {
    #[test]
    fn any_split_gives_the_same_answer(
        sizes in vec(1..400usize, 0..8),
        splits in vec(any::<proptest::sample::Index>(), 0..12),
        extra in vec(any::<u8>(), 0..3),
        early in any::<bool>(),
    ) {
        let mut extensions = plain();
        if early {
            extensions.insert(2, extension(42, b""));
        }
        let mut bytes = in_records(&message(Some(&extensions)), &sizes);
        let whole = !early && extra.is_empty();
        bytes.extend(extra);
        let mut cuts: Vec<_> = splits.iter().map(|at| at.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut hello = OneHello::new();
        let in_parts = cuts.windows(2).all(|cut| hello.takes(&bytes[cut[0]..cut[1]]));
        prop_assert_eq!(in_parts, takes(&bytes));
        prop_assert_eq!(in_parts, whole);
        prop_assert_eq!(ruled_out_at(&bytes).is_none(), whole);
    }

    #[test]
    fn no_bytes_bring_it_down(bytes in vec(any::<u8>(), 0..300), hello in any::<bool>()) {
        let mut all = if hello { vec![HANDSHAKE, 3, 1, 2, 0, 1, 0, 1, 200] } else { Vec::new() };
        all.extend(bytes);
        prop_assert_eq!(takes(&all), ruled_out_at(&all).is_none());
    }
}
