//! isobar, a layer-4 (TCP) load balancer.
//!
//! Every connection goes one way through the same stages:
//!
//! ```text
//! accept -> admit -> identify -> route -> pick -> connect -> relay -> account
//! ```
//!
//! | module | what it is about |
//! | --- | --- |
//! | [`config`] | `lb.toml` as a value that cannot be wrong |
//! | [`runtime`] | the tasks, sockets and deadlines of a data core |
//! | [`net`] | addresses and sockets |
//! | [`metrics`] | what is counted, and under which names |
//! | [`log`] | lines: events, finished connections, and the thread that writes them |
//! | [`balance`] | which backend a connection gets |
//! | [`pool`] | backends and their states, leases, the hold queue |
//! | [`hello`] | where a TLS client wants to go, out of its first bytes |
//! | [`conn`] | the life of a connection: route, pick, connect, relay, account |
//! | [`admit`] | who may come in: lists, limits for each address, rates |
//! | [`listener`] | bound addresses, and the loop that accepts |
//! | [`proxy`] | the PROXY protocol, in and out |
//! | [`check`] | active health checks |
//! | [`series`] | the last fifteen minutes of every backend |
//! | [`resolve`] | what DNS says of backends by name |
//! | [`rebalance`] | evens a pool at quiet moments, after a backend was added |
//! | [`simulate`] | what a configuration would have made of recorded connections |
//! | [`plan`] | what a reload would change, and which connections it would touch |
//! | [`admin`] | the HTTP endpoint |
//! | [`upgrade`] | another process takes the place of this one, with every connection |
//! | [`server`] | what is started, in which order, and how it stops |
//! | [`cli`] | the command line |
//!
//! Connections live on data cores, one single-threaded runtime each. The control plane (checks,
//! admin, signals) runs on a thread of its own and reaches them only by publishing immutable
//! snapshots or by sending a command.

pub mod admin;
pub mod admit;
mod aside;
pub mod balance;
pub mod check;
pub mod cli;
pub mod config;
pub mod conn;
pub mod hello;
pub mod listener;
pub mod log;
pub mod metrics;
pub mod net;
pub mod plan;
pub mod pool;
pub mod proxy;
pub mod rebalance;
pub mod resolve;
pub mod runtime;
pub mod series;
pub mod server;
pub mod simulate;
mod terminal;
pub mod upgrade;
