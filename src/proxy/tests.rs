//! Headers in and out: the forms of the specification, and properties of all.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::config::SendProxy;

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn between(source: &str, destination: &str) -> Option<Endpoints> {
    Some(Endpoints {
        source: at(source),
        destination: at(destination),
    })
}

/// Reads a whole header, behind which the client's own bytes begin.
fn read(header: &[u8]) -> Result<Option<Endpoints>, Invalid> {
    let bytes = [header, b"\x03\0\x04payload"].concat();
    let header_read = parse(&bytes)?.expect("a whole header");
    assert_eq!(header_read.length, header.len());
    Ok(header_read.endpoints)
}

/// A header of version 2 with this command, family and block.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a short block");
    [
        b"\r\n\r\n\0\r\nQUIT\n".as_slice(),
        &[command, family],
        &length.to_be_bytes(),
        block,
    ]
    .concat()
}

const FOUR: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0x1f, 0x90, 0x01, 0xbb];

fn six() -> Vec<u8> {
    let ip = |text: &str| match text.parse().expect("an address") {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(_) => unreachable!("these are of IPv6"),
    };
    let mut block = [ip("2001:db8::1"), ip("2001:db8::2")].concat();
    block.extend([0x1f, 0x90, 0x01, 0xbb]);
    block
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a short value");
    [&[kind][..], &length.to_be_bytes(), value].concat()
}

/// The same header with a checksum at its end, worked out bit by bit: RFC 4960, appendix B, has
/// the polynomial 0x1EDC6F41, here with its bits in reverse order.
fn with_checksum(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut header = binary(command, family, &[block, &tlv(3, &[0; 4])].concat());
    let mut crc = u32::MAX;
    for byte in &header {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = match crc & 1 {
                1 => (crc >> 1) ^ 0x82f6_3b78,
                _ => crc >> 1,
            };
        }
    }
    let at = header.len() - 4;
    header[at..].copy_from_slice(&(!crc).to_be_bytes());
    header
}

#[test]
fn a_line_names_both_ends() {
    let four = between("192.168.0.1:56324", "192.168.0.11:443");
    let line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
    assert_eq!(read(line), Ok(four));
    let longest = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
    let all = between("255.255.255.255:65535", "255.255.255.255:65535");
    assert_eq!(read(longest), Ok(all));
    let six = between("[2001:db8::a]:0", "[::1]:1");
    for line in [
        "PROXY TCP6 2001:db8::a ::1 0 1\r\n",
        "PROXY TCP6 2001:DB8::A 0000:0000:0000:0000:0000:0000:0000:0001 0 1\r\n",
    ] {
        assert_eq!(read(line.as_bytes()), Ok(six), "{line}");
    }
}

#[test]
fn a_line_that_says_unknown_names_nobody_whatever_else_it_says() {
    let ip = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {ip} {ip} 65535 65535\r\n");
    assert_eq!(longest.len(), 107);
    for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN \0 junk\r\n", &longest] {
        assert_eq!(read(line.as_bytes()), Ok(None), "{line:?}");
    }
}

#[test]
fn a_line_that_is_not_exactly_one_is_refused() {
    for line in [
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
        "PROXY TCP4 01.2.3.4 192.0.2.2 1 2\r\n",
        "PROXY TCP4 1.2.3 192.0.2.2 1 2\r\n",
        "PROXY TCP4 1.2.3.256 192.0.2.2 1 2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 fe80::1%2 ::2 1 2\r\n",
        "PROXY TCP6 1::2::3 ::2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rx",
        "PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n",
        "PROXY TCP4\r\n",
        "PROXY \r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Invalid::Line), "{line:?}");
    }
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 93]].concat();
    assert_eq!(parse(&endless[..106]), Ok(None));
    assert_eq!(parse(&endless), Err(Invalid::LongLine));
    let late = [&endless[..106], b"\r\n"].concat();
    assert_eq!(parse(&late), Err(Invalid::LongLine));
}

#[test]
fn what_begins_like_no_header_is_refused_at_its_first_wrong_byte() {
    for bytes in [
        "G",
        "proxy TCP4",
        "PROXYTCP4",
        "\r\n\r\n\0\r\nQUIT\r",
        "\r\n\r\n\r",
        "\x16\x03\x01",
    ] {
        let (rest, _) = bytes.as_bytes().split_at(bytes.len() - 1);
        assert!(!matches!(parse(rest), Ok(Some(_))));
        assert_eq!(parse(bytes.as_bytes()), Err(Invalid::NoHeader), "{bytes:?}");
    }
    assert_eq!(parse(b""), Ok(None));
    assert_eq!(parse(b"PROX"), Ok(None));
    assert_eq!(parse(b"\r\n\r\n\0"), Ok(None));
}

#[test]
fn a_binary_header_names_both_ends() {
    let four = between("192.0.2.1:8080", "198.51.100.2:443");
    assert_eq!(read(&binary(0x21, 0x11, FOUR)), Ok(four));
    let ends = between("[2001:db8::1]:8080", "[2001:db8::2]:443");
    assert_eq!(read(&binary(0x21, 0x21, &six())), Ok(ends));
}

#[test]
fn tlvs_are_passed_over_as_long_as_they_fill_the_header() {
    let ends = between("192.0.2.1:8080", "198.51.100.2:443");
    let tlvs = [
        tlv(0x02, b"example.com"),
        tlv(0x04, b""),
        tlv(0xea, &[7; 2000]),
    ]
    .concat();
    let full = [FOUR, &tlvs].concat();
    assert_eq!(read(&binary(0x21, 0x11, &full)), Ok(ends));
    for end in [13, 14, full.len() - 1] {
        let cut = binary(0x21, 0x11, &full[..end]);
        assert_eq!(parse(&cut), Err(Invalid::Tlv), "{end}");
    }
    let beyond = [FOUR, &[0x04, 0xff, 0xff]].concat();
    assert_eq!(parse(&binary(0x21, 0x11, &beyond)), Err(Invalid::Tlv));
    // Not even the client's own bytes behind the header make up for it.
    let glued = [
        binary(0x21, 0x11, &[FOUR, &[4, 0, 2]].concat()),
        b"ab".to_vec(),
    ]
    .concat();
    assert_eq!(parse(&glued), Err(Invalid::Tlv));
}

#[test]
fn headers_of_nobody_leave_the_addresses_of_the_socket() {
    let unix = [7; 216];
    let cases: [(u8, u8, &[u8]); 12] = [
        (0x20, 0x00, b""),
        (0x20, 0x11, FOUR),
        (0x20, 0x11, b"\x01"),
        (0x20, 0x21, &six()),
        (0x20, 0x00, b"anything"),
        (0x21, 0x00, b""),
        (0x21, 0x00, b"\x04\0\x01x"),
        (0x21, 0x31, &unix),
        (0x21, 0x31, b"short"),
        (0x21, 0x12, FOUR),
        (0x21, 0x41, b"four"),
        (0x21, 0x10, FOUR),
    ];
    for (command, family, block) in cases {
        let header = binary(command, family, block);
        assert_eq!(read(&header), Ok(None), "{command:#x} {family:#x}");
    }
}

#[test]
fn a_header_without_room_for_its_addresses_is_refused_before_they_come() {
    for (family, block) in [(0x11, &FOUR[..4]), (0x11, &FOUR[..11]), (0x21, FOUR)] {
        let header = binary(0x21, family, block);
        assert_eq!(parse(&header[..16]), Err(Invalid::Addresses));
        assert_eq!(parse(&header), Err(Invalid::Addresses));
    }
}

#[test]
fn other_versions_and_commands_are_refused() {
    for byte in 0..=255 {
        let header = binary(byte, 0x11, FOUR);
        let known = matches!(byte, 0x20 | 0x21);
        let read = parse(&header[..13]);
        assert_eq!(
            read,
            if known {
                Ok(None)
            } else {
                Err(Invalid::Command)
            }
        );
    }
}

#[test]
fn no_more_than_4096_bytes_are_taken() {
    let most = MAX_HEADER - 16 - FOUR.len() - 3;
    let block = [FOUR, &tlv(4, &vec![0; most])].concat();
    let header = binary(0x21, 0x11, &block);
    assert_eq!(header.len(), MAX_HEADER);
    assert!(matches!(read(&header), Ok(Some(_))));
    let block = [FOUR, &tlv(4, &vec![0; most + 1])].concat();
    let header = binary(0x21, 0x11, &block);
    assert_eq!(parse(&header[..15]), Ok(None));
    assert_eq!(parse(&header[..16]), Err(Invalid::LongHeader));
    // Also one that nobody would look into.
    let local = binary(0x20, 0x00, &vec![0; MAX_HEADER]);
    assert_eq!(parse(&local[..16]), Err(Invalid::LongHeader));
}

#[test]
fn a_checksum_must_be_right_where_there_is_one() {
    let cases: [(u8, u8, &[u8]); 6] = [
        (0x21, 0x11, FOUR),
        (0x21, 0x21, &six()),
        (0x21, 0x11, &[FOUR, &tlv(0x02, b"a.example")].concat()),
        (0x20, 0x00, b""),
        (0x20, 0x11, FOUR),
        (0x21, 0x31, &[0; 216]),
    ];
    for (command, family, block) in cases {
        let header = with_checksum(command, family, block);
        assert!(read(&header).is_ok(), "{command:#x} {family:#x}");
        for at in header.len() - 4..header.len() {
            let mut wrong = header.clone();
            wrong[at] ^= 0x10;
            assert_eq!(parse(&wrong), Err(Invalid::Checksum));
        }
    }
    let mut wrong = with_checksum(0x21, 0x11, FOUR);
    wrong[16] ^= 1;
    assert_eq!(parse(&wrong), Err(Invalid::Checksum), "of another address");
    for value in [b"".as_slice(), b"abc", b"abcde"] {
        let block = [FOUR, &tlv(3, value)].concat();
        assert_eq!(parse(&binary(0x21, 0x11, &block)), Err(Invalid::Tlv));
    }
    let twice = [FOUR, &tlv(3, &[0; 4]), &tlv(3, &[0; 4])].concat();
    assert_eq!(parse(&binary(0x21, 0x11, &twice)), Err(Invalid::Tlv));
}

/// RFC 3720, appendix B.4: 32 bytes of zeroes, and the numbers from 0 to 31.
#[test]
fn the_checksum_is_that_of_the_rfcs() {
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    assert_eq!(crc.checksum(&[0; 32]), 0x8a91_36aa);
    let numbers: Vec<u8> = (0..32).collect();
    assert_eq!(crc.checksum(&numbers), 0x46dd_794e);
}

#[test]
fn mapped_addresses_are_those_of_ipv4() {
    let four = between("192.0.2.1:1", "192.0.2.2:2");
    let line = b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 2\r\n";
    assert_eq!(read(line), Ok(four));
    let ends = Endpoints::new(at("[::ffff:192.0.2.1]:1"), at("[::ffff:192.0.2.2]:2"));
    let line = encode(SendProxy::V1, Some(ends));
    assert_eq!(line, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
}

#[test]
fn headers_are_written_as_the_specification_has_them() {
    let four = between("192.0.2.1:8080", "198.51.100.2:443");
    let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 8080 443\r\n";
    assert_eq!(encode(SendProxy::V1, four), line);
    assert_eq!(encode(SendProxy::V2, four), binary(0x21, 0x11, FOUR));
    let ends = between("[2001:db8::1]:8080", "[2001:db8::2]:443");
    let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 8080 443\r\n";
    assert_eq!(encode(SendProxy::V1, ends), line);
    assert_eq!(encode(SendProxy::V2, ends), binary(0x21, 0x21, &six()));
    assert_eq!(encode(SendProxy::V1, None), b"PROXY UNKNOWN\r\n");
    assert_eq!(encode(SendProxy::V2, None), binary(0x20, 0x00, b""));
    assert_eq!(for_checks(SendProxy::V1), b"PROXY UNKNOWN\r\n");
    assert_eq!(for_checks(SendProxy::V2), binary(0x20, 0x00, b""));
    assert_eq!(encode(SendProxy::Off, four), b"");
}

/// A mapped address beside one of IPv6 has no other form than that.
#[test]
fn ends_of_two_families_are_both_written_as_ipv6() {
    let mixed = between("192.0.2.1:1", "[2001:db8::2]:2");
    let line = b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n";
    assert_eq!(encode(SendProxy::V1, mixed), line);
    for version in [SendProxy::V1, SendProxy::V2] {
        assert_eq!(read(&encode(version, mixed)), Ok(mixed), "{version:?}");
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let four = any::<u32>().prop_map(|ip| IpAddr::V4(ip.into()));
    let six = any::<u128>().prop_map(|ip| IpAddr::V6(ip.into()));
    let ip = prop_oneof![four, six, Just(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST))];
    (ip, any::<u16>()).prop_map(|(ip, port)| canonical(SocketAddr::new(ip, port)))
}

/// Good headers, damaged ones, and nonsense, with bytes behind them.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let version = prop_oneof![Just(SendProxy::V1), Just(SendProxy::V2)];
    let ends = proptest::option::of((address(), address()));
    let good = (version, ends).prop_map(|(version, ends)| {
        encode(version, ends.map(|(from, to)| Endpoints::new(from, to)))
    });
    let tlvs = (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..60));
    let checked = tlvs.prop_map(|(command, family, block)| {
        with_checksum(0x20 | (command & 1), family & 0x33, &block)
    });
    let damage = vec((any::<proptest::sample::Index>(), any::<u8>()), 0..3);
    (prop_oneof![good, checked], damage, vec(any::<u8>(), 0..40)).prop_map(
        |(mut bytes, damage, behind)| {
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend(behind);
            bytes
        },
    )
}

/// What is there for fuzzing, and what fuzzing has found.
#[test]
fn what_must_hold_of_any_bytes_holds_of_the_corpus() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/proxy");
    let files = std::fs::read_dir(corpus).expect("the corpus");
    let files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    assert!(files.len() >= 30, "{}", files.len());
    let (mut good, mut bad) = (0, 0);
    for file in files {
        let bytes = std::fs::read(&file).expect("a readable file");
        match parse(&bytes) {
            Ok(Some(_)) => good += 1,
            Err(_) => bad += 1,
            Ok(None) => {}
        }
        holds(&bytes);
    }
    assert!(good >= 15 && bad >= 10, "{good} good, {bad} bad");
}

proptest! {
    #[test]
    fn however_it_comes_in_parts_the_answer_is_the_same(bytes in input()) {
        holds(&bytes);
    }

    #[test]
    fn no_bytes_bring_the_reader_down(bytes in vec(any::<u8>(), 0..300)) {
        for start in [b"".as_slice(), b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"] {
            holds(&[start, &bytes].concat());
        }
    }

    #[test]
    fn what_is_written_reads_back(source in address(), destination in address()) {
        let ends = Some(Endpoints::new(source, destination));
        for version in [SendProxy::V1, SendProxy::V2] {
            let header = encode(version, ends);
            prop_assert!(header.len() <= 107);
            prop_assert_eq!(read(&header), Ok(ends));
        }
    }
}
