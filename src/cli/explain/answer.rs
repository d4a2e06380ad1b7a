//! `GET /explain`, as far as `isobar explain` shows it. What a balancer of another version
//! leaves out has a default.

use serde::Deserialize;

/// The answer.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) client: Client,
    pub(super) listener: Listener,
    #[serde(default)]
    pub(super) admission: Admission,
    #[serde(default)]
    pub(super) routes: Vec<Route>,
    #[serde(default)]
    pub(super) route: Option<String>,
    #[serde(default)]
    pub(super) pool: Option<String>,
    #[serde(default)]
    pub(super) pools: Vec<Pool>,
    pub(super) outcome: Ending,
    #[serde(default)]
    pub(super) if_all_fail: Option<Ending>,
    #[serde(default)]
    pub(super) notes: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Client {
    pub(super) address: String,
    #[serde(default)]
    pub(super) port: Option<u16>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Listener {
    pub(super) listener: String,
}

/// Whether it would be let in; a balancer that does not say so lets everybody in.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Admission {
    pub(super) reason: Option<String>,
    pub(super) why: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Route {
    pub(super) route: String,
    pub(super) pool: String,
    pub(super) verdict: String,
    pub(super) conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Condition {
    pub(super) condition: String,
    pub(super) wanted: Vec<String>,
    pub(super) has: Vec<String>,
    pub(super) holds: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pool {
    pub(super) pool: String,
    pub(super) balance: String,
    #[serde(default)]
    pub(super) rule: String,
    #[serde(default)]
    pub(super) paused: bool,
    #[serde(default)]
    pub(super) held: u64,
    #[serde(default)]
    pub(super) key: Option<Key>,
    #[serde(default)]
    pub(super) backends: Vec<Backend>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Key {
    pub(super) of: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Backend {
    pub(super) backend: String,
    pub(super) state: String,
    pub(super) since: Option<String>,
    pub(super) weight: u64,
    /// Less what a slow start takes away.
    pub(super) effective_weight: Option<f64>,
    pub(super) backup: bool,
    pub(super) active: u64,
    pub(super) verdict: String,
    pub(super) score: Option<Score>,
    pub(super) chance: Option<f64>,
    pub(super) attempt: Option<u64>,
    pub(super) why: String,
}

impl Backend {
    /// Whether new connections may go there, if there is room.
    pub(super) fn is_usable(&self) -> bool {
        !matches!(&*self.verdict, "state" | "weight")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Score {
    pub(super) value: f64,
    pub(super) due: Option<f64>,
    pub(super) latency_seconds: Option<f64>,
    pub(super) sampled: Option<bool>,
    pub(super) most: Option<u64>,
}

/// What comes of the connection.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ending {
    pub(super) result: String,
    pub(super) pool: Option<String>,
    pub(super) backend: Option<String>,
    pub(super) address: Option<String>,
    pub(super) pick: Option<String>,
    pub(super) ahead: Option<u64>,
    pub(super) hold_timeout_seconds: Option<f64>,
    pub(super) reason: Option<String>,
}
