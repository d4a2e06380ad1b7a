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
//! | [`log`] | what happened, and how each connection went |
//! | [`net`] | addresses and sockets |
//! | [`metrics`] | what is counted, and under which names |
//! | [`balance`] | which backend a connection gets |
//! | [`pool`] | the backends of a pool and what is known of them |
//! | [`check`] | active health checks |

pub mod balance;
pub mod check;
pub mod config;
pub mod conn;
pub mod listener;
pub mod log;
pub mod metrics;
pub mod net;
pub mod pool;
