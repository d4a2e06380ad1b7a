//! The workloads: what the clients do, and in which unit it is counted.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One row of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// Connect, send 100 B, get 100 B back, close: 64 at a time.
    Conn,
    /// One 64 B message in flight on one connection.
    Pp1,
    /// One 64 B message in flight on each of 64 connections.
    Pp64,
    /// One 16 KiB message in flight on each of 32 connections.
    Pp16k,
    /// 20,000 messages of 256 B a second over 256 connections, whatever the answers do.
    Paced,
    /// Bulk from one client to one backend.
    Up1,
    /// Bulk from eight clients to eight backends.
    Up8,
    /// Bulk from one backend to one client.
    Down1,
    /// Bulk from eight backends to eight clients.
    Down8,
    /// Memory of connections that have carried one message and now carry nothing.
    Idle,
    /// One 64 B message in flight on each of 100 long-lived connections: how evenly the
    /// workers share them.
    Even,
    /// As [`Conn`](Self::Conn), in fresh instances with one worker and with all: what the
    /// others add.
    Scale,
}

/// What the load generator does for a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Short connections, so many at a time, each echoing one message.
    Short { at_once: usize, bytes: usize },
    /// Closed loop: the next message follows the answer.
    PingPong { connections: usize, bytes: usize },
    /// Open loop: messages leave on a clock.
    Paced {
        connections: usize,
        bytes: usize,
        per_sec: u32,
    },
    /// As much as goes through, one way.
    Bulk {
        connections: usize,
        direction: Direction,
    },
    /// Connections that are only there.
    Idle,
}

/// Where bulk bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Client to backend.
    Up,
    /// Backend to client.
    Down,
}

impl Workload {
    /// The name on the command line, in tables and in files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Conn => "conn",
            Self::Pp1 => "pp1",
            Self::Pp64 => "pp64",
            Self::Pp16k => "pp16k",
            Self::Paced => "paced",
            Self::Up1 => "up1",
            Self::Up8 => "up8",
            Self::Down1 => "down1",
            Self::Down8 => "down8",
            Self::Idle => "idle",
            Self::Even => "even",
            Self::Scale => "scale",
        }
    }

    /// What happens, in a few words.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Conn => "connect, 100 bytes each way, close",
            Self::Pp1 => "ping-pong, 1 connection",
            Self::Pp64 => "ping-pong, 64 connections",
            Self::Pp16k => "16 KiB messages, 32 connections",
            Self::Paced => "20,000 messages a second, 256 connections",
            Self::Up1 => "bulk upload, 1 connection",
            Self::Up8 => "bulk upload, 8 connections",
            Self::Down1 => "bulk download, 1 connection",
            Self::Down8 => "bulk download, 8 connections",
            Self::Idle => "idle connections",
            Self::Even => "ping-pong, 100 connections",
            Self::Scale => "short connections, one worker and all",
        }
    }

    /// What costs and rates are counted per. A MB is a million bytes.
    pub(crate) fn unit(self) -> &'static str {
        match self.traffic() {
            Traffic::Short { .. } | Traffic::Idle => "connection",
            Traffic::PingPong { .. } | Traffic::Paced { .. } => "message",
            Traffic::Bulk { .. } => "MB",
        }
    }

    /// The traffic behind the name.
    pub(crate) fn traffic(self) -> Traffic {
        let ping_pong = |connections, bytes| Traffic::PingPong { connections, bytes };
        let bulk = |connections, direction| Traffic::Bulk {
            connections,
            direction,
        };
        match self {
            Self::Conn | Self::Scale => Traffic::Short {
                at_once: 64,
                bytes: 100,
            },
            Self::Pp1 => ping_pong(1, 64),
            Self::Pp64 => ping_pong(64, 64),
            Self::Pp16k => ping_pong(32, 16 * 1024),
            Self::Paced => Traffic::Paced {
                connections: 256,
                bytes: 256,
                per_sec: 20_000,
            },
            Self::Up1 => bulk(1, Direction::Up),
            Self::Up8 => bulk(8, Direction::Up),
            Self::Down1 => bulk(1, Direction::Down),
            Self::Down8 => bulk(8, Direction::Down),
            Self::Idle => Traffic::Idle,
            Self::Even => ping_pong(100, 64),
        }
    }
}
