//! From the counts of the running balancer to samples, family by family in the order of their
//! declaration.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Families, Samples};
use crate::admin::process::Usage;
use crate::admin::{Configured, Running};
use crate::listener::Listener;
use crate::log;
use crate::metrics::families::{self, Family};
use crate::metrics::{ConnectFailure, Counter, Failure};
use crate::pool::{Backend, BackendCounters, BackendView, Pool, State};

/// What a scrape shows that must be read once for all families.
#[derive(Debug)]
pub(super) struct Snapshot {
    running: Arc<Running>,
    configured: Arc<Configured>,
    pools: Vec<(Arc<Pool>, Vec<BackendView>)>,
    usage: Usage,
}

impl Snapshot {
    /// Of this moment.
    pub(super) fn of(running: &Arc<Running>) -> Self {
        let configured = running.configured();
        let pools = configured.every_pool();
        Self {
            pools: pools
                .map(|pool| (Arc::clone(pool), pool.overview().backends))
                .collect(),
            usage: Usage::now(&running.process),
            running: Arc::clone(running),
            configured: Arc::clone(&configured),
        }
    }

    /// All families.
    pub(super) fn write(&self, out: &mut Families<'_>) -> fmt::Result {
        out.family(&families::BUILD_INFO, |samples| {
            samples.info(&[env!("CARGO_PKG_VERSION")])
        })?;
        out.family(&families::CONNECTIONS_LIMIT, |samples| {
            samples.gauge(&[], self.running.admission.gate.limit())
        })?;
        self.listeners(out)?;
        self.pools(out)?;
        self.backends(out)?;
        self.histograms(out)?;
        self.isobar(out)?;
        self.config(out)?;
        self.process(out)
    }

    fn listeners(&self, out: &mut Families<'_>) -> fmt::Result {
        self.each_listener(
            out,
            &families::LISTENER_CONNECTIONS_ACTIVE,
            |samples, name, of| samples.gauge(&[name], of.origin.counters.active()),
        )?;
        self.each_listener(out, &families::LISTENER_CONNECTIONS, |samples, name, of| {
            let total = of.origin.counters.sum(|cell| cell.total.value());
            samples.counter(&[name], total)
        })?;
        self.each_listener(out, &families::LISTENER_BYTES, |samples, name, of| {
            let counters = &of.origin.counters;
            let bytes_in = counters.sum(|cell| cell.bytes_in.value());
            let bytes_out = counters.sum(|cell| cell.bytes_out.value());
            samples.counters(&[name], |direction| [bytes_in, bytes_out][direction])
        })?;
        self.listener_outcomes(out)
    }

    fn listener_outcomes(&self, out: &mut Families<'_>) -> fmt::Result {
        self.each_listener(out, &families::REJECTED, |samples, name, of| {
            let count = |why: usize| of.origin.counters.sum(|cell| cell.rejected[why].value());
            samples.counters(&[name], count)
        })?;
        self.each_listener(out, &families::ACCEPT_PAUSED, |samples, name, of| {
            let limit = of.gate.is_paused() || self.running.admission.gate.is_paused();
            let paused = [limit, of.errors.is_paused()];
            samples.gauges(&[name], |why| usize::from(paused[why]))
        })?;
        self.each_listener(out, &families::ACCEPT_ERRORS, |samples, name, of| {
            let mut errors = of.errors.counts();
            errors.try_for_each(|(errno, count)| samples.counter(&[name, errno], count))
        })?;
        self.each_listener(out, &families::ENDED, |samples, name, of| {
            let count = |why: usize| of.origin.counters.sum(|cell| cell.ended[why].value());
            samples.counters(&[name], count)
        })
    }

    fn pools(&self, out: &mut Families<'_>) -> fmt::Result {
        out.family(&families::POOL_BACKENDS, |samples| {
            let mut pools = self.pools.iter();
            pools.try_for_each(|(pool, views)| {
                let count = |state: usize| {
                    let state = State::ALL[state];
                    views.iter().filter(|view| view.state == state).count()
                };
                samples.gauges(&[&pool.name], count)
            })
        })?;
        self.each_pool(out, &families::POOL_BACKENDS_USABLE, |samples, pool| {
            samples.gauge(&[&pool.name], pool.snapshot().usable())
        })?;
        self.each_pool(out, &families::HELD_CONNECTIONS, |samples, pool| {
            samples.gauge(&[&pool.name], pool.held_in_all())
        })?;
        self.each_pool(out, &families::HELD, |samples, pool| {
            let held = pool.counters.sum(|cell| cell.held.value());
            samples.counter(&[&pool.name], held)
        })
    }

    fn backends(&self, out: &mut Families<'_>) -> fmt::Result {
        self.each_backend(out, &families::BACKEND_STATE, |samples, names, of| {
            samples.gauges(names, |state| usize::from(State::ALL[state] == of.state))
        })?;
        self.each_backend(out, &families::BACKEND_WEIGHT, |samples, names, of| {
            samples.gauge(names, of.settings.weight)
        })?;
        self.each_backend(
            out,
            &families::BACKEND_CONNECTIONS_ACTIVE,
            |samples, names, of| samples.gauge(names, of.backend.active()),
        )?;
        self.each_backend(out, &families::BACKEND_CONNECTIONS, |samples, names, of| {
            samples.counter(names, sum(&of.backend, |cell| &cell.total))
        })?;
        self.backend_failures(out)?;
        self.backend_traffic(out)?;
        self.ejections(out)
    }

    fn backend_failures(&self, out: &mut Families<'_>) -> fmt::Result {
        self.each_backend(
            out,
            &families::BACKEND_CONNECT_FAILURES,
            |samples, names, of| samples.counters(names, |why| connect_failures(&of.backend, why)),
        )?;
        self.each_backend(out, &families::BACKEND_FAILURES, |samples, names, of| {
            samples.counters(names, |why| failures(&of.backend, Failure::ALL[why]))
        })
    }

    fn backend_traffic(&self, out: &mut Families<'_>) -> fmt::Result {
        self.each_backend(out, &families::BACKEND_BYTES, |samples, names, of| {
            let both = [
                sum(&of.backend, |cell| &cell.bytes_in),
                sum(&of.backend, |cell| &cell.bytes_out),
            ];
            samples.counters(names, |direction| both[direction])
        })?;
        let checks = &families::BACKEND_HEALTH_CHECKS;
        self.each_backend(out, checks, |samples, names, of| {
            let both = [
                sum(&of.backend, |cell| &cell.checks_passed),
                sum(&of.backend, |cell| &cell.checks_failed),
            ];
            samples.counters(names, |result| both[result])
        })
    }

    fn ejections(&self, out: &mut Families<'_>) -> fmt::Result {
        self.each_pool(out, &families::EJECTIONS, |samples, pool| {
            let ejections = pool.counters.sum(|cell| cell.ejections.value());
            samples.counter(&[&pool.name], ejections)
        })?;
        self.each_pool(out, &families::REPLAYS, |samples, pool| {
            let count = |outcome: usize| pool.counters.sum(|cell| cell.replays[outcome].value());
            samples.counters(&[&pool.name], count)
        })
    }

    fn histograms(&self, out: &mut Families<'_>) -> fmt::Result {
        self.each_backend(
            out,
            &families::BACKEND_CONNECT_SECONDS,
            |samples, names, of| samples.histogram(names, &of.backend.connect_seconds),
        )?;
        self.quality(out)?;
        self.each_pool(out, &families::FIRST_BYTE_SECONDS, |samples, pool| {
            samples.histogram(&[&pool.name], &pool.first_byte_seconds)
        })?;
        let duration = &families::CONNECTION_DURATION_SECONDS;
        self.each_pool(out, duration, |samples, pool| {
            samples.histogram(&[&pool.name], &pool.duration_seconds)
        })?;
        self.each_pool(out, &families::HOLD_SECONDS, |samples, pool| {
            samples.histogram(&[&pool.name], &pool.hold_seconds)
        })
    }

    /// What the kernel knows of connections; nothing where it knows nothing.
    fn quality(&self, out: &mut Families<'_>) -> fmt::Result {
        let rtt = &families::BACKEND_RTT_SECONDS;
        self.each_backend(out, rtt, |samples, names, of| {
            let quality = &of.backend.quality;
            known(quality.rtt(), |rtt| samples.histogram(names, rtt))
        })?;
        let rates = &families::BACKEND_DELIVERY_RATE;
        self.each_backend(out, rates, |samples, names, of| {
            let quality = &of.backend.quality;
            known(quality.delivery_rate(), |rates| {
                samples.histogram(names, rates)
            })
        })?;
        let sent = &families::BACKEND_TCP_SENT_BYTES;
        self.each_backend(out, sent, |samples, names, of| {
            known(of.backend.sent(), |sent| samples.counter(names, sent.bytes))
        })?;
        let retransmitted = &families::BACKEND_TCP_RETRANSMITTED_BYTES;
        self.each_backend(out, retransmitted, |samples, names, of| {
            known(of.backend.sent(), |sent| {
                samples.counter(names, sent.retransmitted)
            })
        })
    }

    fn isobar(&self, out: &mut Families<'_>) -> fmt::Result {
        let process = &self.running.process;
        out.family(&families::DNS_LOOKUPS, |samples| {
            let mut names = process.lookups.all().into_iter();
            names.try_for_each(|(name, counts)| samples.counters(&[&name], |i| counts[i]))
        })?;
        out.family(&families::SPLICED_BYTES, |samples| {
            samples.counter(&[], process.spliced.sum(Counter::value))
        })?;
        out.family(&families::PIPES_IN_USE, |samples| {
            samples.gauge(&[], process.pipes_in_use())
        })?;
        out.family(&families::LOG_LINES_DROPPED, |samples| {
            let dropped = self.running.log.dropped();
            samples.counters(&[], |sink| [dropped.stderr, dropped.access][sink])
        })?;
        out.family(&families::PANICS, |samples| {
            samples.counter(&[], log::panics())
        })?;
        out.family(&families::CORE_BUSY_SECONDS, |samples| {
            let mut cores = self.usage.cores.iter();
            cores.try_for_each(|(core, busy)| {
                samples.counter(&[&core.to_string()], busy.as_secs_f64())
            })
        })
    }

    fn config(&self, out: &mut Families<'_>) -> fmt::Result {
        out.family(&families::CONFIG_LAST_RELOAD_SUCCESSFUL, |samples| {
            let refused = self.running.last_reload().error.is_some();
            samples.gauge(&[], usize::from(!refused))
        })?;
        out.family(
            &families::CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP_SECONDS,
            |samples| samples.gauge(&[], unix(self.running.last_reload().succeeded_at)),
        )?;
        out.family(&families::CONFIG_GENERATION, |samples| {
            samples.gauge(&[], self.configured.generation)
        })
    }

    fn process(&self, out: &mut Families<'_>) -> fmt::Result {
        let usage = &self.usage;
        out.family(&families::PROCESS_CPU_SECONDS, |samples| match usage.cpu {
            Some(cpu) => samples.counter(&[], cpu.as_secs_f64()),
            None => Ok(()),
        })?;
        let gauges = [
            (&families::PROCESS_OPEN_FDS, usage.open_fds),
            (&families::PROCESS_MAX_FDS, usage.max_fds),
            (&families::PROCESS_VIRTUAL_MEMORY_BYTES, usage.virtual_bytes),
            (
                &families::PROCESS_RESIDENT_MEMORY_BYTES,
                usage.resident_bytes,
            ),
        ];
        for (family, value) in gauges {
            out.family(family, |samples| {
                known(value, |value| samples.gauge(&[], value))
            })?;
        }
        out.family(&families::PROCESS_START_TIME_SECONDS, |samples| {
            samples.gauge(&[], unix(self.running.started_at))
        })?;
        out.family(&families::PROCESS_THREADS, |samples| {
            known(usage.threads, |threads| samples.gauge(&[], threads))
        })
    }

    fn each_listener(
        &self,
        out: &mut Families<'_>,
        family: &'static Family,
        write: impl Fn(&mut Samples<'_>, &str, &Listener) -> fmt::Result,
    ) -> fmt::Result {
        out.family(family, |samples| {
            let mut listeners = self.configured.every_listener();
            listeners.try_for_each(|of| write(samples, &of.origin.name, of))
        })
    }

    fn each_pool(
        &self,
        out: &mut Families<'_>,
        family: &'static Family,
        write: impl Fn(&mut Samples<'_>, &Pool) -> fmt::Result,
    ) -> fmt::Result {
        out.family(family, |samples| {
            let mut pools = self.pools.iter();
            pools.try_for_each(|(pool, _)| write(samples, pool))
        })
    }

    fn each_backend(
        &self,
        out: &mut Families<'_>,
        family: &'static Family,
        write: impl Fn(&mut Samples<'_>, &[&str], &BackendView) -> fmt::Result,
    ) -> fmt::Result {
        out.family(family, |samples| {
            let mut pools = self.pools.iter();
            pools.try_for_each(|(pool, views)| {
                let mut views = views.iter();
                views.try_for_each(|of| write(samples, &[&pool.name, &of.backend.name], of))
            })
        })
    }
}

/// What the kernel says; nothing where it does not.
fn known<T>(value: Option<T>, write: impl FnOnce(T) -> fmt::Result) -> fmt::Result {
    value.map_or(Ok(()), write)
}

fn sum(backend: &Backend, count: fn(&BackendCounters) -> &Counter) -> u64 {
    backend.counters.sum(|cell| count(cell).value())
}

fn connect_failures(backend: &Backend, why: usize) -> u64 {
    let counters = &backend.counters;
    counters.sum(|cell| cell.connect_failures[why].value())
}

/// What live connections hold against it.
fn failures(backend: &Backend, why: Failure) -> u64 {
    use ConnectFailure::{Other, Refused, Reset, Timeout, Unreachable};
    let reasons: &[ConnectFailure] = match why {
        Failure::Connect => &[Refused, Unreachable, Reset, Other],
        Failure::ConnectTimeout => &[Timeout],
        Failure::EarlyClose => return ended_early(backend, 0),
        Failure::EarlyReset => return ended_early(backend, 1),
    };
    let reasons = reasons.iter();
    reasons
        .map(|why| connect_failures(backend, *why as usize))
        .sum()
}

fn ended_early(backend: &Backend, how: usize) -> u64 {
    backend.counters.sum(|cell| cell.ended_early[how].value())
}

fn unix(at: SystemTime) -> f64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_states_are_those_of_backends_in_their_order() {
        let declared = families::BACKEND_STATE.labels.last().expect("a state");
        let words = State::ALL.map(State::as_str);
        assert_eq!(declared.values, words);
    }
}
