//! Where everybody may leave files.

use std::path::PathBuf;

use obuilder_core::step::Owner;

/// Directories in which anybody may make files. `/dev/shm` and `/dev/mqueue` have shared memory and message queues.
const DIRS: [&str; 5] = ["/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock"];

/// Directories that may hold files of `owner`, outside its home.
pub(crate) fn dirs(_owner: Owner) -> Vec<PathBuf> {
    DIRS.map(PathBuf::from).to_vec()
}
