//! Every reason that is counted, by the word that logs, statistics and metrics use for it.

use serde::{Serialize, Serializer};

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All of them, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
            /// The words for all of them, in the same order.
            pub const WORDS: &[&'static str] = &[$($word,)*];

            /// The word for it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

words! {
    /// How an admitted connection ended: the first abnormal event, else the side whose FIN
    /// came first.
    Ended {
        /// Both sent FIN, the client first.
        ClientClosed = "client_closed",
        /// Both sent FIN, the backend first.
        BackendClosed = "backend_closed",
        /// The client reset it.
        ClientReset = "client_reset",
        /// The backend reset it.
        BackendReset = "backend_reset",
        /// The client does not answer any more.
        ClientLost = "client_lost",
        /// The backend does not answer any more.
        BackendLost = "backend_lost",
        /// No byte either way for `idle_timeout`.
        IdleTimeout = "idle_timeout",
        /// No byte for `half_close_timeout` after a FIN.
        HalfCloseTimeout = "half_close_timeout",
        /// The last backend tried refused it, and there was no holding it.
        ConnectFailed = "connect_failed",
        /// The last backend tried did not answer, and there was no holding it.
        ConnectTimeout = "connect_timeout",
        /// No backend could take it, and the pool does not hold.
        NoBackend = "no_backend",
        /// No backend could take it, and the hold queue was full.
        HoldFull = "hold_full",
        /// It was held for `hold.timeout`.
        HoldTimeout = "hold_timeout",
        /// The client left before a backend was connected.
        ClientLeft = "client_left",
        /// Its backend went down, and the pool resets what such a backend has.
        BackendDown = "backend_down",
        /// It was older than `max_age`.
        MaxAge = "max_age",
        /// Closed so that its redial evens the pool.
        Rebalanced = "rebalanced",
        /// A stop, or the drain of its backend, ran out of time.
        DrainTimeout = "drain_timeout",
        /// An operator ended it.
        Killed = "killed",
        /// A fault of this machine: no descriptor, no port, no memory.
        LocalError = "local_error",
        /// A fault of isobar.
        Internal = "internal",
    }
}

words! {
    /// Why a connection was refused before any backend was touched.
    Rejected {
        /// Its address is denied, or not allowed.
        Denied = "denied",
        /// Too many connections of its address.
        IpLimit = "ip_limit",
        /// Too many new connections.
        Rate = "rate",
        /// A PROXY header is missing or wrong.
        ProxyHeader = "proxy_header",
        /// It is not one of `trusted_proxies`.
        Untrusted = "untrusted",
        /// It took longer than `preread_timeout` to say where it wants to go.
        PrereadTimeout = "preread_timeout",
        /// It needed more than 64 KiB to say where it wants to go.
        PrereadLimit = "preread_limit",
        /// No route takes it, and the listener has no pool.
        NoRoute = "no_route",
    }
}

words! {
    /// Why a connect to a backend failed.
    ConnectFailure {
        /// Nothing listens there.
        Refused = "refused",
        /// Nothing answered within `connect_timeout`.
        Timeout = "timeout",
        /// No way to the host or its network.
        Unreachable = "unreachable",
        /// It was reset while it was being set up.
        Reset = "reset",
        /// A fault of this machine: no descriptor, no port, no memory.
        LocalError = "local_error",
        /// What the kernel says is none of these.
        Other = "other",
    }
}

words! {
    /// What live connections hold against a backend.
    Failure {
        /// A connect failed, and not for a fault of this machine.
        Connect = "connect",
        /// A connect timed out.
        ConnectTimeout = "connect_timeout",
        /// It closed before its first byte while the client had sent nothing.
        EarlyClose = "early_close",
        /// It reset before its first byte while the client had sent nothing.
        EarlyReset = "early_reset",
    }
}

words! {
    /// What came of a connection that its backend ended before the first byte.
    Replayed {
        /// Another backend took it over, unseen by the client.
        Moved = "moved",
        /// No backend was left to try.
        Exhausted = "exhausted",
    }
}

words! {
    /// What came of a question to DNS.
    Lookup {
        /// Addresses, or some of them.
        Answered = "answered",
        /// The name is not there, or has no address.
        Absent = "absent",
        /// Nothing in time.
        Timeout = "timeout",
        /// A fault of a server, or none that can be asked.
        Failed = "failed",
    }
}
