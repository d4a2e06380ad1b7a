//! Hellos made by hand, and by a TLS library; whole, cut and damaged.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A ClientHello to be, with what real ones have.
#[derive(Clone, Debug)]
pub(super) struct Made {
    session: Vec<u8>,
    suites: Vec<u8>,
    /// `None`: as before TLS 1.3 a hello may do without.
    extensions: Option<Vec<(u16, Vec<u8>)>>,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            session: vec![7; 32],
            // GREASE, TLS_AES_128_GCM_SHA256.
            suites: vec![0x3a, 0x3a, 0x13, 0x01],
            extensions: Some(vec![(0x2a2a, Vec::new()), (43, vec![2, 3, 4])]),
        }
    }
}

impl Made {
    fn with(mut self, kind: u16, data: Vec<u8>) -> Self {
        self.extensions.get_or_insert_default().push((kind, data));
        self
    }

    fn sni(self, name: &[u8]) -> Self {
        self.with(0, server_name(&[(0, name)]))
    }

    fn alpn(self, protocols: &[&[u8]]) -> Self {
        let list = protocols
            .iter()
            .flat_map(|p| vector8(p))
            .collect::<Vec<_>>();
        self.with(16, vector16(&list))
    }

    /// The handshake message.
    pub(super) fn message(&self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([0x55; 32]);
        body.extend(vector8(&self.session));
        body.extend(vector16(&self.suites));
        body.extend(vector8(&[0]));
        if let Some(extensions) = &self.extensions {
            let all = extensions.iter().flat_map(|(kind, data)| {
                let kind = kind.to_be_bytes();
                kind.into_iter().chain(vector16(data))
            });
            body.extend(vector16(&all.collect::<Vec<_>>()));
        }
        message(1, &body)
    }

    /// In records of at most `most` bytes.
    pub(super) fn records(&self, most: usize) -> Vec<u8> {
        records(&self.message(), most)
    }

    fn answer(&self) -> Answer {
        answer(&self.records(MAX_FRAGMENT))
    }

    /// Hellos for the fuzzer to begin with.
    pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
        let named = Made::default().sni(b"DB.example.com.");
        let twice = named.clone().sni(b"other.example.com");
        let two = Made::default().with(0, server_name(&[(0, b"a"), (0, b"b")]));
        let protocols = named.clone().alpn(&[b"h2", b"\x0a\x0a", b"http/1.1"]);
        let large = named
            .clone()
            .with(51, vec![1; 1248])
            .with(0xfe0d, vec![2; 600]);
        let seeds = [
            ("named", named),
            ("named-twice", twice),
            ("two-names", two),
            ("protocols", protocols),
            ("large", large),
            ("address", Made::default().sni(b"10.0.0.1")),
            ("empty-name", Made::default().sni(b"")),
        ];
        let mut seeds = seeds.map(|(name, made)| (name, made.records(700))).to_vec();
        seeds.push(("of-a-library", of_a_library("db.example.com", &[b"h2"])));
        seeds
    }
}

const MAX_FRAGMENT: usize = 1 << 14;

fn vector8(bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len()).expect("short");
    std::iter::once(len).chain(bytes.iter().copied()).collect()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("short");
    len.to_be_bytes()
        .into_iter()
        .chain(bytes.iter().copied())
        .collect()
}

fn server_name(names: &[(u8, &[u8])]) -> Vec<u8> {
    let name = |(kind, name): &(u8, &[u8])| [vec![*kind], vector16(name)].concat();
    vector16(&names.iter().flat_map(name).collect::<Vec<_>>())
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[kind, len[1], len[2], len[3]], body].concat()
}

fn record(kind: u8, minor: u8, fragment: &[u8]) -> Vec<u8> {
    [vec![kind, 3, minor], vector16(fragment)].concat()
}

fn records(message: &[u8], most: usize) -> Vec<u8> {
    message
        .chunks(most)
        .flat_map(|part| record(22, 1, part))
        .collect()
}

fn answer(bytes: &[u8]) -> Answer {
    Reader::new().feed(bytes)
}

fn hello(sni: Option<&str>, alpn: &[&[u8]]) -> Answer {
    Answer::Hello(Box::new(Hello {
        sni: sni.map(Arc::from),
        alpn: alpn.iter().map(|p| Box::from(*p)).collect(),
        early_data: false,
    }))
}

#[test]
fn name_and_protocols_are_read() {
    let made = Made::default()
        .sni(b"DB.example.com.")
        .alpn(&[b"h2", b"http/1.1"]);
    let expected = hello(Some("db.example.com"), &[b"h2", b"http/1.1"]);
    assert_eq!(made.answer(), expected);
    assert_eq!(Made::default().answer(), hello(None, &[]));
    assert_eq!(Made::default().sni(b"10.0.0.1").answer(), hello(None, &[]));
    let bare = Made {
        extensions: None,
        ..Made::default()
    };
    assert_eq!(bare.answer(), hello(None, &[]));
}

#[test]
fn early_data_is_told() {
    let Answer::Hello(hello) = Made::default().with(42, Vec::new()).answer() else {
        panic!("a hello");
    };
    assert!(hello.early_data);
}

/// With an ML-KEM share, an encrypted hello and unknown extensions it has several KiB.
#[test]
fn size_and_unknown_extensions_do_not_matter() {
    let big = Made::default()
        .with(51, vec![1; 1216 + 32])
        .sni(b"outer.example.com")
        .with(0xfe0d, vec![2; 4000])
        .with(0xfafa, vec![0])
        .with(21, vec![0; 30_000]);
    let expected = hello(Some("outer.example.com"), &[]);
    for most in [1, 2, 3, 5, 100, 1000, MAX_FRAGMENT] {
        assert_eq!(answer(&big.records(most)), expected, "records of {most}");
    }
}

/// Real ones: what a TLS library sends.
#[test]
fn what_a_library_sends_is_read() {
    for (name, alpn) in [
        ("db.example.com", &[&b"h2"[..], b"postgresql"][..]),
        ("a", &[]),
    ] {
        let bytes = of_a_library(name, alpn);
        let expected = hello(Some(name), alpn);
        assert_eq!(answer(&bytes), expected);
        assert_eq!(first_answer(bytes.chunks(1)), expected);
    }
    assert_eq!(
        answer(&of_a_library("10.0.0.1", &[b"h2"])),
        hello(None, &[b"h2"])
    );
}

fn of_a_library(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("its own versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a Vec takes all");
    bytes
}

#[test]
fn any_version_of_a_record_is_taken() {
    let message = Made::default().sni(b"a").message();
    for minor in 0..=4 {
        let bytes = record(22, minor, &message);
        assert_eq!(answer(&bytes), hello(Some("a"), &[]), "3.{minor}");
    }
}

#[test]
fn what_stands_behind_the_hello_does_not_matter() {
    let made = Made::default().sni(b"a");
    let mut message = made.message();
    message.extend([20, 0, 0]);
    assert_eq!(answer(&record(22, 1, &message)), hello(Some("a"), &[]));
    let mut bytes = made.records(100);
    bytes.extend(b"GET / HTTP/1.1");
    assert_eq!(answer(&bytes), hello(Some("a"), &[]));
}

/// Each with the bytes before it asked for more, and it alone decides.
#[test]
fn what_is_not_tls_is_told_at_the_first_byte_that_says_so() {
    let wrong = Answer::Malformed(Fault::Record);
    for (before, byte, expected) in [
        (&b""[..], b'G', Answer::NotTls),
        (b"", 0x80, Answer::NotTls),
        (b"", 0, Answer::NotTls),
        (b"", 23, Answer::NotTls),
        (&[22], 2, Answer::NotTls),
        (&[22], 4, Answer::NotTls),
        (&[22, 3, 1], 0x41, wrong.clone()),
        (&[22, 3, 1], 0xff, wrong.clone()),
        (&[22, 3, 1, 0x40], 1, wrong.clone()),
        (&[22, 3, 1, 0], 0, wrong.clone()),
        (&[22, 3, 1, 1, 0], 2, Answer::Malformed(Fault::Message)),
        (&[22, 3, 1, 1, 0, 1, 1, 0], 0, Answer::TooLong),
        (&[22, 3, 1, 0, 1, 1], 21, wrong.clone()),
        (&[22, 3, 1, 0, 1, 1, 22], 2, wrong.clone()),
    ] {
        let mut reader = Reader::new();
        for one in before {
            assert_eq!(reader.feed(&[*one]), Answer::More, "{before:?}");
        }
        assert_eq!(reader.feed(&[byte]), expected, "{before:?}, then {byte}");
    }
}

#[test]
fn the_longest_message_is_read_and_one_more_byte_is_too_long() {
    let plain = Made::default().with(21, Vec::new()).message().len();
    let made = |len: usize| {
        let (one, other) = ((len - plain) / 2, (len - plain).div_ceil(2) - 4);
        let made = Made::default()
            .with(21, vec![0; one])
            .with(22, vec![0; other]);
        assert_eq!(made.message().len(), len);
        made
    };
    assert_eq!(made(MAX_MESSAGE).answer(), hello(None, &[]));
    // Its body has one more, the extensions no more than two bytes can say.
    let long = message(1, &vec![0; MAX_MESSAGE - 4 + 1]);
    assert_eq!(answer(&records(&long, MAX_FRAGMENT)), Answer::TooLong);
    let mut reader = Reader::new();
    assert_eq!(
        reader.feed(&records(&long, MAX_FRAGMENT)[..9]),
        Answer::TooLong
    );
}

#[test]
fn a_name_that_is_none_is_malformed() {
    let long = "x".repeat(64);
    for name in [
        &b""[..],
        b".",
        b"a..b",
        b"a\0b",
        b"a b",
        b"\xff",
        long.as_bytes(),
    ] {
        let answer = Made::default().sni(name).answer();
        assert_eq!(answer, Answer::Malformed(Fault::ServerName), "{name:?}");
    }
    let other_type = Made::default().with(0, server_name(&[(1, b"a")]));
    assert_eq!(other_type.answer(), Answer::Malformed(Fault::ServerName));
}

#[test]
fn two_names_are_none() {
    for names in [
        [(0, &b"a"[..]), (0, b"b")],
        [(0, b"a"), (1, b"b")],
        [(1, b"b"), (0, b"a")],
    ] {
        let made = Made::default().with(0, server_name(&names));
        assert!(matches!(made.answer(), Answer::Malformed(_)), "{names:?}");
    }
    let twice = Made::default().sni(b"a").sni(b"a");
    assert_eq!(twice.answer(), Answer::Malformed(Fault::Twice));
}

#[test]
fn no_extension_comes_twice() {
    let made = Made::default().with(51, vec![1]).with(51, vec![2]);
    assert_eq!(made.answer(), Answer::Malformed(Fault::Twice));
}

#[test]
fn a_list_of_protocols_has_some() {
    for data in [vector16(b""), vector16(&[0]), vector16(&[2, b'h', b'2', 0])] {
        let made = Made::default().with(16, data);
        assert_eq!(made.answer(), Answer::Malformed(Fault::Alpn));
    }
}

#[test]
fn lengths_that_do_not_fit_are_malformed() {
    let long_session = Made {
        session: vec![0; 33],
        ..Made::default()
    };
    let odd_suites = Made {
        suites: vec![1, 2, 3],
        ..Made::default()
    };
    let no_suites = Made {
        suites: Vec::new(),
        ..Made::default()
    };
    for made in [long_session, odd_suites, no_suites] {
        assert_eq!(made.answer(), Answer::Malformed(Fault::Length), "{made:?}");
    }
    for data in [
        vec![],
        vec![0],
        vec![0, 9, 0, 0, 1, b'a'],
        [server_name(&[(0, b"a")]), vec![0]].concat(),
    ] {
        let made = Made::default().with(0, data);
        assert_eq!(made.answer(), Answer::Malformed(Fault::Length), "{made:?}");
    }
    let mut behind = Made::default().message();
    behind.push(0);
    behind[3] += 1;
    assert_eq!(
        answer(&record(22, 1, &behind)),
        Answer::Malformed(Fault::Length)
    );
}

fn made() -> impl Strategy<Value = Made> {
    let extensions = vec((any::<u16>(), vec(any::<u8>(), 0..40)), 0..6);
    let names = prop_oneof!["[a-zA-Z0-9-]{1,9}(\\.[a-z]{1,9}){0,3}\\.?", "[ -~]{0,9}"];
    let protocols = vec(vec(any::<u8>(), 0..5), 0..4);
    let parts = (
        vec(any::<u8>(), 0..=32),
        extensions,
        proptest::option::of(names),
        protocols,
    );
    parts.prop_map(|(session, extensions, name, protocols)| {
        let mut made = Made {
            session,
            extensions: Some(extensions),
            ..Made::default()
        };
        if let Some(name) = name {
            made = made.sni(name.as_bytes());
        }
        let protocols: Vec<&[u8]> = protocols.iter().map(|p| &**p).collect();
        match protocols.is_empty() {
            true => made,
            false => made.alpn(&protocols),
        }
    })
}

/// Pieces of these lengths, over and over.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let len = (*lengths.next()?).min(bytes.len());
        let (piece, rest) = bytes.split_at(len);
        bytes = rest;
        (len > 0).then_some(piece)
    })
}

proptest! {
    #[test]
    fn neither_records_nor_segments_change_the_answer(
        made in made(),
        fragments in vec(1..200usize, 1..5),
        segments in vec(1..200usize, 1..5),
    ) {
        let message = made.message();
        let whole = made.answer();
        prop_assert!(!matches!(whole, Answer::More));
        let cut = pieces(&message, &fragments).flat_map(|part| record(22, 3, part));
        let cut = cut.collect::<Vec<_>>();
        prop_assert_eq!(&first_answer(pieces(&cut, &segments)), &whole);
        prop_assert_eq!(&first_answer(cut.chunks(1)), &whole);
    }

    #[test]
    fn a_part_of_a_hello_asks_for_more(made in made(), most in 1..300usize, end in any::<prop::sample::Index>()) {
        let bytes = made.records(most);
        let end = end.index(bytes.len());
        prop_assert_eq!(answer(&bytes[..end]), Answer::More);
    }

    #[test]
    fn damage_is_survived_and_told_alike_in_any_pieces(
        made in made(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cuts in any::<[u8; 8]>(),
    ) {
        let mut bytes = made.records(500);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fuzz(&[&cuts[..], &bytes].concat());
    }

    #[test]
    fn no_bytes_bring_it_down(bytes in vec(any::<u8>(), 0..200)) {
        fuzz(&bytes);
        fuzz(&[&[9; 8], &[22, 3, 1][..], &bytes].concat());
    }
}
