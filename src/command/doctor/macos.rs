//! Checks that concern macOS alone: asks its tools, and leaves it to `mac_output` to say what their answers mean.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, CloneFlags};
use rustix::io::Errno;

use super::check::Check;
use super::mac_output as output;
use super::subject::Subject;
use super::tool::{Said, ask};

/// The checks of this system.
pub(super) fn checks(subject: &Subject<'_>) -> Vec<Check> {
    let store = subject.on_volume().to_string_lossy();
    let there = |path: &str| Path::new(path).exists();
    let device = |path: &Path| path.metadata().map(|found| found.dev()).ok();
    let same_volume = |path: &str| device(Path::new(path)) == device(subject.on_volume());
    let privacy = "/Library/Application Support/com.apple.TCC/TCC.db";
    let local_network = "com.apple.network.local-network";
    vec![
        output::macfuse(
            &heard("/usr/bin/kmutil", &["showloaded", "--list-only"]),
            there("/Library/Filesystems/macfuse.fs"),
        ),
        output::integrity(&heard("/usr/bin/csrutil", &["status"])),
        output::full_disk_access(File::open(privacy).map(drop)),
        output::spotlight(&heard("/usr/bin/mdutil", &["-s", &store]), &store),
        output::time_machine(&heard("/usr/bin/tmutil", &["isexcluded", &store]), &store),
        output::local_network(
            &heard("/usr/bin/sw_vers", &["-productVersion"]),
            &heard(
                "/usr/bin/defaults",
                &["read", local_network, "AllowedEthernetLocalNetworkAddresses"],
            ),
            subject.root,
        ),
        output::command_line_tools(&heard("/usr/bin/xcode-select", &["-p"])),
        output::rsync(&heard("/usr/bin/env", &["rsync", "--version"])),
        output::homebrew(std::env::consts::ARCH, there, same_volume),
    ]
}

/// What a tool says; what keeps it from speaking stands for its answer.
fn heard(program: &str, arguments: &[&str]) -> Said {
    let failed = |error: io::Error| Said { success: false, text: format!("`{program}`: {error}") };
    ask(program, arguments).unwrap_or_else(failed)
}

/// Whether files in `dir` can share blocks, by trying.
pub(super) fn can_clone(dir: &Path) -> io::Result<bool> {
    let scratch = tempfile::Builder::new().prefix(".obuild-doctor-").tempdir_in(dir)?;
    let from = scratch.path().join("from");
    std::fs::write(&from, [b'x'; 8192])?;
    let from = File::open(&from)?;
    match rustix::fs::fclonefileat(&from, CWD, scratch.path().join("to"), CloneFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP | Errno::OPNOTSUPP | Errno::XDEV) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
