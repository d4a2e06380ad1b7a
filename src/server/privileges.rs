//! `runtime.user`: from root to a user that may do nothing but bind low ports.
//!
//! The order is that of every daemon: groups first, as they need privileges, then the group,
//! then the user. Changing from uid 0 to another one clears all capabilities unless the thread
//! asked to keep them, see capabilities(7); of what is kept everything but
//! `CAP_NET_BIND_SERVICE` is given up, so that a reload can bind port 443 later. It is not
//! inherited by programs that isobar might execute.
//!
//! The sets belong to a thread: they are set while there is only one, and later threads start
//! with what their parent has.

use std::ffi::CString;
use std::io;

use nix::unistd::{Uid, User, geteuid, initgroups, setgid, setuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities};

/// Why the process cannot become `runtime.user`.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is no such user on this machine.
    #[error("runtime.user: there is no user {0:?} on this machine")]
    Unknown(String),
    /// The users of this machine cannot be looked up.
    #[error("runtime.user: cannot look up {user:?}: {source}")]
    LookUp {
        /// As configured.
        user: String,
        /// What the kernel or the user database says.
        source: io::Error,
    },
    /// Only root may become another user.
    #[error(
        "runtime.user: only root can become {user:?}, isobar was started by uid {started_by}; \
         start it as root, or as {user:?} without runtime.user"
    )]
    NotRoot {
        /// As configured.
        user: String,
        /// The effective user id of the process.
        started_by: u32,
    },
    /// The kernel refused a step of the change.
    #[error("runtime.user: cannot become {user:?}: {step}: {source}")]
    Refused {
        /// As configured.
        user: String,
        /// The system call.
        step: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

impl UserError {
    /// Whether the file names what this machine does not have.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// The user that `runtime.user` names, by name or by number.
///
/// # Errors
/// There is none, or the user database cannot be read.
pub fn look_up(name: &str) -> Result<User, UserError> {
    let found = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    match found {
        Ok(user) => user.ok_or_else(|| UserError::Unknown(name.to_owned())),
        Err(errno) => Err(UserError::LookUp {
            user: name.to_owned(),
            source: errno.into(),
        }),
    }
}

/// Becomes `runtime.user` with its groups, for good, and keeps `CAP_NET_BIND_SERVICE` alone.
///
/// Nothing happens where `name` is empty or the process is that user already. To be called
/// while the process has one thread. What is opened later (the access file, files of checks,
/// Unix sockets) is opened with the rights of that user.
///
/// # Errors
/// [`UserError`]; where the kernel refuses a step the process must end, as it may have changed
/// half way.
pub fn drop_to(name: &str) -> Result<(), UserError> {
    if name.is_empty() {
        return Ok(());
    }
    let user = look_up(name)?;
    let current = geteuid();
    if current == user.uid {
        return Ok(());
    }
    if !current.is_root() {
        return Err(UserError::NotRoot {
            user: name.to_owned(),
            started_by: current.as_raw(),
        });
    }
    become_user(&user).map_err(|(step, source)| UserError::Refused {
        user: name.to_owned(),
        step,
        source,
    })
}

fn become_user(user: &User) -> Result<(), (&'static str, io::Error)> {
    let name = CString::new(user.name.as_str()).map_err(|error| ("name", error.into()))?;
    initgroups(&name, user.gid).map_err(|error| ("setgroups", error.into()))?;
    setgid(user.gid).map_err(|error| ("setgid", error.into()))?;
    set_keep_capabilities(true).map_err(|error| ("prctl", error.into()))?;
    setuid(user.uid).map_err(|error| ("setuid", error.into()))?;
    set_keep_capabilities(false).map_err(|error| ("prctl", error.into()))?;
    keep_only_binding().map_err(|error| ("capset", error))
}

/// Root in a container may not have the capability itself: then there is none to keep.
fn keep_only_binding() -> io::Result<()> {
    let kept = rustix::thread::capabilities(None)?.permitted & CapabilitySet::NET_BIND_SERVICE;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let by_name = look_up("root").expect("every machine has root");
        let by_number = look_up("0").expect("every machine has root");
        assert_eq!(by_name.uid, by_number.uid);
    }

    #[test]
    fn an_unknown_user_is_named() {
        let error = look_up("no-such-user-here").expect_err("nobody has this name");
        assert!(error.is_unknown());
        assert_eq!(
            error.to_string(),
            "runtime.user: there is no user \"no-such-user-here\" on this machine"
        );
    }

    #[test]
    fn no_user_and_the_user_of_the_process_change_nothing() {
        drop_to("").expect("nothing to do");
        let me = geteuid();
        if let Ok(Some(user)) = User::from_uid(me) {
            drop_to(&user.name).expect("nothing to do");
        }
        assert_eq!(geteuid(), me);
    }
}
