//! What a PROXY header costs beside its bytes: reading one that is all there, and writing one.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use isobar::config::SendProxy;
use isobar::proxy::{Endpoints, encode, parse};

criterion_group!(
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .nresamples(10_000);
    targets = headers, checksum
);
criterion_main!(benches);

fn headers(criterion: &mut Criterion) {
    let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let four = Endpoints::new(at("203.0.113.7:51234"), at("198.51.100.1:443"));
    let six = Endpoints::new(at("[2001:db8::7:1]:51234"), at("[2001:db8:1::1]:443"));
    for (version, send) in [("v1", SendProxy::V1), ("v2", SendProxy::V2)] {
        for (family, ends) in [("ipv4", four), ("ipv6", six)] {
            let header = encode(send, Some(ends));
            criterion.bench_function(&format!("proxy_{version}_{family}_parse"), |bencher| {
                bencher.iter(|| parse(black_box(&header)));
            });
            criterion.bench_function(&format!("proxy_{version}_{family}_encode"), |bencher| {
                bencher.iter(|| encode(send, Some(black_box(ends))));
            });
        }
    }
}

/// The longest header that is taken: TLVs to pass over, and a checksum over all of it.
fn checksum(criterion: &mut Criterion) {
    let length = 4096_u16 - 16;
    let filler = length - 12 - 7 - 3;
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend(length.to_be_bytes());
    header.extend([0; 12]);
    header.push(4);
    header.extend(filler.to_be_bytes());
    header.extend(vec![0; usize::from(filler)]);
    header.extend([3, 0, 4, 0, 0, 0, 0]);
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&header);
    let at = header.len() - 4;
    header[at..].copy_from_slice(&sum.to_be_bytes());
    assert!(matches!(parse(&header), Ok(Some(_))), "a sound header");
    criterion.bench_function("proxy_v2_4096_bytes_with_checksum_parse", |bencher| {
        bencher.iter(|| parse(black_box(&header)));
    });
}
