//! The admin endpoint: what a running balancer tells, over HTTP.

mod running;

pub use running::{Parts, Phase, Running};

mod endpoint;

pub use endpoint::{Bound, bind};
