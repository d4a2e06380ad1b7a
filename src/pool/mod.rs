//! The backends of a pool and what is known of them.

pub mod health;
pub mod history;
