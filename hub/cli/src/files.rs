//! The limit of open files: a connection is a file.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. Shells set 1,024, which is fewer than the connections that a hub is
/// configured to take. A limit that cannot be raised is logged and stays.
pub(crate) fn raise_limit() {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => return tracing::warn!(%error, "the limit of open files is not known"),
    };
    if soft >= hard {
        return tracing::info!(limit = soft, "open files");
    }
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => tracing::info!(before = soft, limit = hard, "the limit of open files was raised"),
        Err(error) => tracing::warn!(%error, limit = soft, "the limit of open files stays as it is"),
    }
}
