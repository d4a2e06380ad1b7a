//! Sockets and addresses: what the kernel is asked for, and how.

mod addr;

pub use addr::{Address, AddressError, canonical};
