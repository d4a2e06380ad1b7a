//! `runtime.watch`: a reload when the file changes.
//!
//! The path is looked at four times a second. That sees every way in which editors, scripts and
//! Kubernetes replace a file (a rename over it, a rewrite, another target of any symbolic link
//! on the way, deletion and a new file), on every file system: inotify(7) tells nothing of
//! changes that another machine makes on NFS, and each directory of a chain of links would need
//! a watch of its own. A look is one stat(2).
//!
//! A change is taken once the file has been the same for [`SETTLED`]; what is read then counts
//! only if the file is the same after it was read, too.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::Stat;

use crate::admin::Running;
use crate::admin::orders::{Refused, Version, Wanted};
use crate::aside::aside;

/// Between two looks at the file.
const LOOK: Duration = Duration::from_millis(250);
/// A file that has been the same for so long is taken to be whole.
const SETTLED: Duration = Duration::from_millis(500);
/// The clock of a file system may be so far behind.
const COARSE: Duration = Duration::from_secs(2);

/// Gives the order to reload whenever the file has changed, while `watch` is on.
pub(super) async fn run(running: Arc<Running>) {
    let mut changes = running.changes();
    loop {
        while !running.configured().file.config.runtime.watch {
            if changes.changed().await.is_err() {
                return;
            }
        }
        follow(&running).await;
    }
}

/// The same until `watch` is off.
async fn follow(running: &Running) {
    let found = version(&running.path).await;
    let taken = found.filter(|found| found.is_older_than(running.last_reload().at));
    let mut file = Followed::new(taken, found, Instant::now());
    let is_on = || running.configured().file.config.runtime.watch;
    while is_on() {
        tokio::time::sleep(LOOK).await;
        let found = version(&running.path).await;
        let Some(found) = file.look(found, Instant::now()) else {
            continue;
        };
        let given = running.orders.give(Wanted::Follow { found }).await;
        if let Err(Refused::Changing | Refused::Upgrading) = given {
            file.try_again();
        }
    }
}

/// The version of the file at `path` now; `None`: there is none, or it cannot be told.
pub(super) async fn version(path: &Path) -> Option<Version> {
    let path: PathBuf = path.into();
    let stat = aside(move || rustix::fs::stat(&path).ok()).await;
    stat.ok().flatten().as_ref().map(Version::of)
}

impl Version {
    fn of(stat: &Stat) -> Self {
        #[allow(
            clippy::useless_conversion,
            clippy::unnecessary_cast,
            reason = "the types differ between architectures"
        )]
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: stat.st_size as u64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// Whether it was there for certain at `time`.
    fn is_older_than(&self, time: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let nanoseconds = u32::try_from(nanoseconds).unwrap_or(0);
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        changed + COARSE < time
    }
}

/// A file that may change, look by look. Pure.
#[derive(Debug)]
struct Followed {
    /// The version that a reload has read.
    taken: Option<Version>,
    seen: Option<Version>,
    since: Instant,
}

impl Followed {
    fn new(taken: Option<Version>, seen: Option<Version>, now: Instant) -> Self {
        Self {
            taken,
            seen,
            since: now,
        }
    }

    /// Takes in what the file is now; the version that is to be taken, if it is time. A file
    /// that is not there is waited for.
    fn look(&mut self, found: Option<Version>, now: Instant) -> Option<Version> {
        if found != self.seen {
            self.seen = found;
            self.since = now;
        }
        let due = found != self.taken && now.saturating_duration_since(self.since) >= SETTLED;
        let found = found.filter(|_| due)?;
        self.taken = Some(found);
        Some(found)
    }

    /// It was another by the time it was read.
    fn try_again(&mut self) {
        self.taken = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(n: u64) -> Option<Version> {
        Some(Version {
            device: 1,
            inode: n,
            size: 10,
            modified: (0, 0),
            changed: (0, 0),
        })
    }

    /// What is taken of versions that are found at such times, in milliseconds.
    fn taken(looks: &[(u64, Option<Version>)]) -> Vec<u64> {
        let start = Instant::now();
        let mut file = Followed::new(version(1), version(1), start);
        let look = |(at, found): &(u64, Option<Version>)| {
            let taken = file.look(*found, start + Duration::from_millis(*at));
            taken.map(|_| *at)
        };
        looks.iter().filter_map(look).collect()
    }

    #[test]
    fn a_change_is_taken_once_and_when_it_has_settled() {
        let looks = [
            (250, version(1)),
            (500, version(2)),
            (750, version(2)),
            (1000, version(2)),
            (1250, version(2)),
        ];
        assert_eq!(taken(&looks), [1000]);
    }

    #[test]
    fn a_file_that_goes_on_changing_is_not_taken() {
        let looks: Vec<_> = (1..20).map(|n| (n * 250, version(n))).collect();
        assert!(taken(&looks).is_empty());
    }

    #[test]
    fn a_file_that_is_gone_for_a_while_is_taken_when_it_is_back() {
        let looks = [
            (250, None),
            (1000, None),
            (1250, version(2)),
            (1500, version(2)),
            (1750, version(2)),
        ];
        assert_eq!(taken(&looks), [1750]);
        let back = [(250, None), (500, version(1)), (1500, version(1))];
        assert!(taken(&back).is_empty(), "it is the one that was taken");
    }

    #[test]
    fn a_version_that_changed_while_it_was_read_is_looked_at_again() {
        let start = Instant::now();
        let mut file = Followed::new(version(1), version(2), start);
        let at = |ms| start + Duration::from_millis(ms);
        assert!(file.look(version(2), at(500)).is_some());
        file.try_again();
        assert!(file.look(version(3), at(750)).is_none());
        assert!(file.look(version(3), at(1250)).is_some());
    }
}
