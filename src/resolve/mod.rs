//! Which addresses backends by name have: asked of DNS at the start, and again as answers expire.
//!
//! ```text
//! follow    pool -> what it has to ask, and back to it what was answered
//! keep      one task for each question, however many pools ask it
//! memory    replies -> what the name stands for, when to ask again    [pure]
//! system    a question -> a reply, by /etc/hosts and the servers of /etc/resolv.conf
//! files     those two files                                           [pure]
//! ```
//!
//! All of it runs on the control plane and waits for nobody else: a name that is never answered
//! delays neither the start nor a reload, a stop or another name.

mod files;
mod follow;
mod keep;
mod memory;
mod system;

pub use follow::follow;
pub use keep::{Ask, Resolver};
pub use memory::{Missing, Reply};
pub use system::System;
