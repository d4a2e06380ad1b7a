//! What admission costs: a look-up in lists of 10,000 blocks, and a connection against the table
//! of addresses, let in and gone again.
//!
//! Limit to keep: 1 µs a look-up with 10,000 blocks.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use isobar::admit::{Admit, Table};
use isobar::net::{Address, Cidr};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The same blocks and clients in every run.
const SEED: u64 = 4711;
const BLOCKS: usize = 10_000;
/// Clients in turn, so that no look-up finds the way of the one before in the cache. A power of two.
const CLIENTS: usize = 1 << 14;

criterion_group!(
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .nresamples(10_000);
    targets = look_up, table_of_addresses
);
criterion_main!(benches);

fn look_up(criterion: &mut Criterion) {
    let mut random = StdRng::seed_from_u64(SEED);
    // As in lists of networks: most blocks small, some within others.
    let v4 = |random: &mut StdRng| -> Cidr {
        let ip = IpAddr::V4(Ipv4Addr::from_bits(random.random()));
        Cidr::new(ip, random.random_range(8..=32)).expect("a block")
    };
    let v6 = |random: &mut StdRng| -> Cidr {
        let ip = IpAddr::V6(Ipv6Addr::from_bits(random.random()));
        Cidr::new(ip, random.random_range(16..=64)).expect("a block")
    };
    for (name, block) in [("ipv4", &v4 as &dyn Fn(&mut StdRng) -> Cidr), ("ipv6", &v6)] {
        let blocks: Vec<_> = (0..BLOCKS).map(|_| block(&mut random)).collect();
        let table = Table::new(blocks.iter().copied());
        // Half of them are in a block for certain, at its lowest address.
        let inside = |n: usize| blocks[n % BLOCKS].first();
        let clients: Vec<IpAddr> = (0..CLIENTS)
            .map(|n| match n % 2 {
                0 => inside(n * 7919),
                _ => block(&mut random).first(),
            })
            .collect();
        let mut next = 0;
        criterion.bench_function(&format!("look_up_{name}_10000_blocks"), |bencher| {
            bencher.iter(|| {
                next = (next + 1) & (CLIENTS - 1);
                black_box(table.find(black_box(clients[next])))
            });
        });
    }
}

fn table_of_addresses(criterion: &mut Criterion) {
    for (name, keys) in [
        ("limit", "max_connections_per_ip = 100"),
        ("rate_per_ip", "rate_per_ip = \"1000000/s\""),
        ("rate", "rate = \"4000000000/s\""),
    ] {
        let admit = rules(keys);
        let now = Instant::now();
        let client =
            |n: u32| Address::Ip((Ipv4Addr::from_bits(n.wrapping_mul(2_654_435_761)), 1).into());
        let clients: Vec<_> = (0..CLIENTS as u32).map(client).collect();
        let mut next = 0;
        criterion.bench_function(&format!("admit_and_leave_{name}"), |bencher| {
            bencher.iter(|| {
                next = (next + 1) & (CLIENTS - 1);
                drop(black_box(admit.admit(black_box(&clients[next]), now)));
            });
        });
    }
    // A crowd beyond what is remembered: each makes another one forgotten.
    let admit = rules("rate_per_ip = \"1/h\"");
    let now = Instant::now();
    let mut next = 0u32;
    let mut come = || {
        next = next.wrapping_add(1);
        let client = Address::Ip((Ipv4Addr::from_bits(next), 1).into());
        drop(black_box(admit.admit(&client, now)));
    };
    (0..2_000_000).for_each(|_| come());
    criterion.bench_function("admit_and_forget_another_of_a_million", |bencher| {
        bencher.iter(&mut come);
    });
}

fn rules(keys: &str) -> std::sync::Arc<Admit> {
    let text = format!("[listener.web]\nbind = \"127.0.0.1:0\"\n{keys}\n");
    let loaded = isobar::config::parse(&text, "bench", &|_| None).expect("a configuration");
    Admit::new(&loaded.config.listeners[0]).expect("a rule")
}
