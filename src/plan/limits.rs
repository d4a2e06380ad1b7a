//! How much a reload may change, and the refusal of what is more.

use std::fmt;

use super::{Kind, Plan};

/// What a reload may change at most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Share of the backends of each pool that may go, from 0 to 1; `None`: all. A pool or a
    /// listener that goes is all of it.
    pub max_removed: Option<f64>,
    /// Connections that may be reset at most; `None`: all.
    pub max_dropped: Option<u64>,
    /// Refuse every change that removes a listener or a pool, whatever the share.
    pub keep_all: bool,
}

/// Why a change is refused: every limit that it passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(Vec<String>);

impl Refusal {
    /// The reasons, one sentence each.
    pub fn reasons(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused, nothing was changed: {}", self.0.join("; "))
    }
}

impl std::error::Error for Refusal {}

impl Limits {
    /// Of a reload that nobody asked for: a share of each pool, and no listener and no pool.
    pub fn of_watch(max_removed: f64) -> Self {
        Self {
            max_removed: Some(max_removed),
            max_dropped: None,
            keep_all: true,
        }
    }

    /// Whether `plan` keeps within them.
    ///
    /// # Errors
    ///
    /// Every limit that it passes, in one [`Refusal`].
    pub fn check(&self, plan: &Plan) -> Result<(), Refusal> {
        let mut reasons = Vec::new();
        self.check_gone(plan, &mut reasons);
        self.check_backends(plan, &mut reasons);
        self.check_dropped(plan, &mut reasons);
        match reasons.is_empty() {
            true => Ok(()),
            false => Err(Refusal(reasons)),
        }
    }

    fn check_gone(&self, plan: &Plan, reasons: &mut Vec<String>) {
        let allowed = match self.max_removed {
            _ if self.keep_all => "an automatic reload removes no listener and no pool".to_owned(),
            Some(max) if max < 1.0 => format!("at most {} may be removed", percent(max)),
            _ => return,
        };
        let gone = |change| change == Kind::Removed;
        let listeners = plan.listeners.iter().filter(|l| gone(l.change));
        let pools = plan.pools.iter().filter(|p| gone(p.change));
        let listeners = listeners.map(|l| format!("listener {}", l.name));
        for what in listeners.chain(pools.map(|p| format!("pool {}", p.name))) {
            reasons.push(format!("{what} would be removed, {allowed}"));
        }
    }

    fn check_backends(&self, plan: &Plan, reasons: &mut Vec<String>) {
        let Some(max) = self.max_removed else {
            return;
        };
        for pool in plan.pools.iter().filter(|p| p.change == Kind::Changed) {
            if pool.removed_share > max {
                let gone = pool.backends.iter().filter(|b| b.change == Kind::Removed);
                let gone: Vec<_> = gone.map(|backend| &*backend.name).collect();
                let (name, share) = (&pool.name, percent(pool.removed_share));
                let (gone, max) = (listed(&gone), percent(max));
                let backends = format!("{share} of the backends of pool {name} would be removed");
                reasons.push(format!("{backends} ({gone}), at most {max} may be"));
            }
        }
    }

    fn check_dropped(&self, plan: &Plan, reasons: &mut Vec<String>) {
        let dropped = plan.connections.dropped_at_most();
        if let Some(max) = self.max_dropped.filter(|max| dropped > *max) {
            let connections = format!("up to {dropped} live connections would be reset");
            reasons.push(format!("{connections}, at most {max} may be"));
        }
    }
}

/// The first few of many names.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    match names.len() {
        ..=SHOWN => names.join(", "),
        all => format!("{} and {} more", names[..SHOWN].join(", "), all - SHOWN),
    }
}

/// A share as a percentage with at most one digit behind the point, never rounded to a whole
/// that it is not.
pub(crate) fn percent(share: f64) -> String {
    let tenths = share * 1000.0;
    let text = match share {
        _ if share > 0.0 && tenths < 1.0 => "<0.1".to_owned(),
        _ if share < 1.0 && tenths > 999.0 => ">99.9".to_owned(),
        _ => format!("{:.1}", tenths / 10.0),
    };
    format!("{}%", text.strip_suffix(".0").unwrap_or(&text))
}
