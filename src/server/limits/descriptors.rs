//! Open files: too few for the connections that the file asks for.

use super::machine::Machine;
use super::shortages::Shortage;
use super::wanted::Wanted;
use super::{Limits, descriptors_for};
use crate::config::{Config, KeyPath, Listener};

/// Everything that is to be said about them.
pub(super) fn shortages<'c>(
    config: &'c Config,
    machine: &Machine,
    limits: Limits,
) -> Vec<Shortage<'c>> {
    let files = Files {
        config,
        machine,
        limits,
    };
    let of_process = files.lowered().into_iter().chain(files.out_of_reach());
    of_process.chain(files.of_all_processes()).collect()
}

struct Files<'c, 'm> {
    config: &'c Config,
    machine: &'m Machine,
    limits: Limits,
}

impl<'c> Files<'c, '_> {
    fn lowered(&self) -> Option<Shortage<'c>> {
        let allowed = self.limits.allowed;
        let wanted = self.config.runtime.max_connections;
        let message = format!(
            "runtime.max_connections = {wanted} is lowered to {allowed}, which is what {}",
            self.limit_and_remedy(wanted)
        );
        (wanted > allowed).then_some((KeyPath::MaxConnections, message))
    }

    /// Limits of listeners that the whole process cannot reach, each; else all of them
    /// together.
    fn out_of_reach(&self) -> Vec<Shortage<'c>> {
        let allowed = self.limits.allowed;
        let limited = self.config.listeners.iter().map(|listener| &**listener);
        let limited: Vec<&Listener> = limited.filter(|l| l.max_connections > 0).collect();
        let alone = |listener: &&'c Listener| {
            let (name, wanted) = (&listener.name, listener.max_connections);
            let message = format!(
                "listener `{name}` cannot have {wanted} connections: {allowed} in all is what {}",
                self.limit_and_remedy(wanted)
            );
            (wanted > allowed).then_some((KeyPath::ListenerMaxConnections(name), message))
        };
        let alone: Vec<_> = limited.iter().filter_map(alone).collect();
        let sum: usize = limited.iter().fold(0, |sum, listener| {
            sum.saturating_add(listener.max_connections)
        });
        match limited.last() {
            Some(last) if alone.is_empty() && sum > allowed => {
                let message = format!(
                    "the listeners cannot have {sum} connections together: {allowed} in all is \
                     what {}",
                    self.limit_and_remedy(sum)
                );
                vec![(KeyPath::ListenerMaxConnections(&last.name), message)]
            }
            _ => alone,
        }
    }

    /// Root itself is exempt from the limit of the whole machine.
    fn of_all_processes(&self) -> Option<Shortage<'c>> {
        let wanted = Wanted::of_process(self.config)?;
        let needed = self.needed(wanted.connections);
        let exempt = self.machine.exceeds_machine && keeps_privileges(self.config);
        let most = self.machine.all_descriptors;
        let most = most.filter(|most| *most < needed && !exempt)?;
        // As many again for everything else that runs here.
        let remedy = needed.saturating_mul(2);
        let message = format!(
            "{} needs {needed} open files, and fs.file-max allows {most} to all processes \
             together; raise it with `sysctl -w fs.file-max={remedy}`",
            wanted.subject
        );
        Some((wanted.key, message))
    }

    fn needed(&self, connections: usize) -> u64 {
        descriptors_for(connections, self.config, self.limits.cores)
    }

    /// The limit that is too low for so many connections, to be read behind "is what".
    fn limit_and_remedy(&self, connections: usize) -> String {
        let (limit, needed) = (self.machine.descriptors, self.needed(connections));
        let first = match self.machine.most_descriptors {
            Some(most) if most < needed => {
                format!("`sysctl -w fs.nr_open={needed}` (now {most}), then with ")
            }
            _ => String::new(),
        };
        format!(
            "the open-file limit of this process allows, {limit}; raise it with {first}\
             `ulimit -n {needed}`, or LimitNOFILE={needed} of systemd"
        )
    }
}

/// Whether the process goes on as the user that started it, with that user's privileges.
pub(super) fn keeps_privileges(config: &Config) -> bool {
    matches!(config.runtime.user.as_str(), "" | "root" | "0")
}
