//! What the black-box suites share: the real binary as a process, scripted peers on real sockets,
//! and the invariants that hold after every case.
//!
//! | file | what it is |
//! | --- | --- |
//! | `isobar.rs` | the binary: start, addresses, log, statistics, signals, exit |
//! | `invariants.rs` | what must be true of it after every case, checked when it is dropped |
//! | `stream.rs` | one connection, client's or backend's: read, write, FIN, reset, stall |
//! | `backend.rs` | listening peers: scripted by the test, or ready-made |
//! | `paths.rs` | one case on every engine and address family at once |
//! | `process.rs` | descriptors, sockets, processor time and memory, from /proc |
//! | `browser.rs` | Chromium, and what is on its screen |
//! | `hello.rs` | what TLS clients begin with |
//! | `programs.rs`, `nginx.rs`, `haproxy.rs`, `tls.rs` | real programs as backends and clients |
//! | `crowd.rs` | thousands of clients, and backends for them, in processes of their own |
//! | `load.rs` | clients that come and go at a pace, and streams, in processes of their own |
//! | `manager.rs` | a service manager, as far as it hears |
//! | `terminal.rs` | a pseudo-terminal, and what would be seen on it |
//! | `dns.rs` | a DNS server that answers as the test says |
//! | `restartable.rs` | a backend in a process of its own, which knows its accept queue |
//!
//! Nothing here sleeps for luck: a condition is waited for, with one deadline that the
//! environment variable `ISOBAR_TEST_TIMEOUT_FACTOR` stretches on a slow machine.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test binary uses another part of it"
)]

mod backend;
pub mod browser;
mod config;
pub mod crowd;
mod deadline;
mod dns;
mod family;
pub mod haproxy;
pub mod hello;
mod http;
mod invariants;
mod isobar;
pub mod load;
mod log;
mod manager;
pub mod nginx;
mod paths;
mod pattern;
mod process;
pub mod programs;
pub mod restartable;
mod stream;
mod tally;
mod terminal;
pub mod tls;

pub use backend::{Backend, Blackhole, at_one_port};
pub use config::web;
pub use crowd::{Crowd, Echoes};
pub use deadline::{patience, scaled, wait_for, wait_until};
pub use dns::{Dns, Kind, Say};
pub use family::Family;
pub use http::{Response, get, request, send_raw};
pub use isobar::{Exit, Isobar, Launch, Running, samples};
pub use load::{Flow, Streams, Visitors};
pub use log::{Line, Log};
pub use manager::Manager;
pub use paths::{Engine, Path, on_every_path, on_every_path_with};
pub use pattern::Pattern;
pub use process::{Process, auto_finds_bulk, is_listening, listening_at, sockets_at};
pub use stream::{End, STALL, Stream, is_reset};
pub use tally::Tally;
pub use terminal::Terminal;
