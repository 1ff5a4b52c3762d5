//! The process's file descriptors, divided between connections and the log before either needs them: a crowd of
//! connections must not take the one with which the next segment is opened.

use crate::config::{CUT_MAX, Config, DIALS_MAX, Limits};
use crate::failure::Failure;
use std::io;

/// Of the process: its standard streams, the lock, what libraries open for a moment.
const OF_NODE: u64 = 32;
/// Of each shard: 128 segments kept open, one being made, the superblock, the listener, the rings and their timers.
const OF_SHARD: u64 = 128 + 32;
/// With fewer connections a shard serves nobody.
const CONNECTIONS_LEAST: u32 = 16;

/// How many clients each shard may have: as configured, or as many as there are descriptors for.
pub(super) fn connections_max(config: &Config, shards: u32) -> Result<u32, Failure> {
    let configured = config.limits.connections_max;
    let least = needed(shards, CONNECTIONS_LEAST.min(configured));
    let wanted = needed(shards, configured);
    let system = |source| Failure::System { doing: "asking for file descriptors (RLIMIT_NOFILE)", source };
    let found = raise(wanted).map_err(system)?;
    if found < least {
        let why = format!(
            "RLIMIT_NOFILE is {found}, and {shards} shards need at least {least} file descriptors: raise it \
             (`ulimit -n 65536`, systemd: LimitNOFILE=65536)"
        );
        return Err(system(io::Error::other(why)));
    }
    if found < wanted {
        let fitting = (found - needed(shards, 0)) / u64::from(shards);
        eprintln!(
            "each shard takes {fitting} clients instead of {configured}: RLIMIT_NOFILE is {found}, and {wanted} \
             file descriptors are wanted"
        );
        return Ok(fitting as u32);
    }
    Ok(configured)
}

/// With so many clients a shard. Those whose connection is being cut or dialled have a descriptor and no seat.
fn needed(shards: u32, connections_max: u32) -> u64 {
    let limits = Limits { connections_max, ..Limits::default() };
    let connections = limits.seats_max() + CUT_MAX + DIALS_MAX;
    OF_NODE + u64::from(shards) * (OF_SHARD + u64::from(connections))
}

/// Raises the soft limit as far as is wanted and the hard one allows; answers what it is then.
#[allow(unsafe_code, reason = "the standard library has no words for resource limits")]
fn raise(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live and writable value of the type that the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur >= wanted {
        return Ok(limit.rlim_cur);
    }
    let raised = libc::rlimit { rlim_cur: wanted.min(limit.rlim_max), ..limit };
    // SAFETY: the pointer is to a live value of the type that the call reads.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } {
        0 => Ok(raised.rlim_cur),
        _ => Ok(limit.rlim_cur),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_the_log_are_never_given_to_connections() {
        assert_eq!(needed(2, 0), 32 + 2 * (160 + 28 + 64 + 16 + 14));
        assert_eq!(needed(2, 100), needed(2, 0) + 200);
        let found = raise(64).unwrap();
        assert!(found >= 64);
        assert_eq!(raise(found).unwrap(), found);
    }
}
