//! What it costs to read a ClientHello: a plain one, one with a post-quantum key share and an
//! encrypted inner hello, the same byte by byte, and bytes that are no TLS.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use isobar::hello::{Answer, Reader};

/// From the fuzzer's corpus, which has lengths of pieces in front.
const OF_A_LIBRARY: &[u8] = include_bytes!("../fuzz/corpus/client_hello/of-a-library");
const LARGE: &[u8] = include_bytes!("../fuzz/corpus/client_hello/large");
const LENGTHS: usize = 8;

criterion_group!(
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .nresamples(10_000);
    targets = read
);
criterion_main!(benches);

fn read(criterion: &mut Criterion) {
    let (plain, large) = (&OF_A_LIBRARY[LENGTHS..], &LARGE[LENGTHS..]);
    for (name, bytes) in [("of_250_bytes", plain), ("of_2_kib", large)] {
        criterion.bench_function(&format!("hello_{name}"), |bencher| {
            bencher.iter(|| expect_hello(Reader::new().feed(black_box(bytes))));
        });
    }
    criterion.bench_function("hello_of_2_kib_byte_by_byte", |bencher| {
        bencher.iter(|| {
            let mut reader = Reader::new();
            let mut bytes = black_box(large).chunks(1);
            let answer = bytes.find_map(|byte| match reader.feed(byte) {
                Answer::More => None,
                answer => Some(answer),
            });
            expect_hello(answer.unwrap_or(Answer::More));
        });
    });
    criterion.bench_function("hello_of_no_tls", |bencher| {
        bencher.iter(|| Reader::new().feed(black_box(b"GET / HTTP/1.1\r\n")));
    });
}

fn expect_hello(answer: Answer) {
    assert!(matches!(answer, Answer::Hello(_)), "{answer:?}");
}
