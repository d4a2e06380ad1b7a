//! Pipes of splice(2) that are smaller than they are worth having.
//!
//! Nothing stops without them: a small pipe moves less at a time, and what finds none is
//! copied. It costs CPU time on bulk, nothing else.

use super::Limits;
use super::descriptors::keeps_privileges;
use super::machine::Machine;
use super::shortages::Shortage;
use crate::config::{Config, KeyPath, Pool, RelayEngine};
use crate::conn::relay::PIPE_SIZE;

/// Bytes that the relay asks for, for each pipe.
const SIZE: u64 = PIPE_SIZE as u64;
/// Pipes of that size that `auto` wants at least: it takes what there is. `splice` asks for as
/// many as isobar makes.
const FEW: u64 = 16;

/// A pool that asks to splice, or else one that may.
pub(super) fn shortages<'c>(
    config: &'c Config,
    machine: &Machine,
    limits: Limits,
) -> Vec<Shortage<'c>> {
    let with = |engine: RelayEngine| config.pools.iter().find(|pool| pool.relay == engine);
    let Some(pool) = with(RelayEngine::Splice).or_else(|| with(RelayEngine::Auto)) else {
        return Vec::new();
    };
    let privileged = keeps_privileges(config);
    // See pipe(7): the first limit needs the one capability, the second either.
    let large = privileged && machine.exceeds_resources;
    let many = large || privileged && machine.exceeds_machine;
    let size = too_small(pool, machine).filter(|_| !large);
    let count = too_few(pool, machine, limits).filter(|_| !many);
    size.into_iter().chain(count).collect()
}

fn too_small<'c>(pool: &'c Pool, machine: &Machine) -> Option<Shortage<'c>> {
    let most = machine.pipe_size.filter(|most| *most < SIZE)?;
    let message = format!(
        "{} asks for pipes of {SIZE} bytes, and fs.pipe-max-size is {most}: bulk costs more CPU \
         time; raise it with `sysctl -w fs.pipe-max-size={SIZE}`",
        subject(pool)
    );
    Some((KeyPath::Relay(&pool.name), message))
}

fn too_few<'c>(pool: &'c Pool, machine: &Machine, limits: Limits) -> Option<Shortage<'c>> {
    let all = (limits.pipes_per_core * limits.cores) as u64;
    let pipes = match pool.relay {
        RelayEngine::Splice => all,
        _ => all.min(FEW),
    };
    let needed = pipes * (SIZE / machine.page_size).max(1);
    let most = machine.pipe_pages.filter(|most| *most < needed)?;
    let message = format!(
        "{} asks for {pipes} pipes, {needed} pages in all, and fs.pipe-user-pages-soft gives a \
         user {most}: beyond that bulk is copied; raise it with \
         `sysctl -w fs.pipe-user-pages-soft={needed}`",
        subject(pool)
    );
    Some((KeyPath::Relay(&pool.name), message))
}

fn subject(pool: &Pool) -> String {
    let word = match pool.relay {
        RelayEngine::Auto => "auto",
        RelayEngine::Copy => "copy",
        RelayEngine::Splice => "splice",
    };
    format!("pool.{}.relay = \"{word}\"", pool.name)
}
