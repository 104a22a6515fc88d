//! Trees shown at the canonical home by a FUSE filesystem, to each build user its own.
//!
//! The mounts are served by a process of its own, which the first step that needs them starts and which goes on when obuild
//! ends, as steps of other processes use them too. A step's tree is shown for as long as the slot's entry stands in the scoreboard;
//! an entry that is made anew shows the tree afresh, so what was changed behind the mount is seen.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use obuilder_core::Cancel;
use usrlocal_fs::{MountPoint, Mounts};

use crate::config::{Config, Fuse, beside};
use crate::error::{Error, Result};
use crate::lock::Lock;
use crate::slot::Slot;

/// How long the server may take to mount.
const PATIENCE: Duration = Duration::from_secs(20);

/// A slot's place, shown to its user at the canonical home. Dropping it shows it no more.
#[derive(Debug)]
pub(crate) struct Shown {
    scoreboard: PathBuf,
    uid: u32,
    /// The mounts, and which process serves each.
    served: Vec<(PathBuf, u32)>,
}

impl Shown {
    /// Shows the place of `slot`, once the filesystem is mounted.
    pub(crate) fn new(fuse: &Fuse, config: &Config, slot: &Slot) -> Result<Self> {
        let served = ensure_mounted(fuse, config)?;
        let (scoreboard, uid) = (beside(&fuse.mount, ".scoreboard"), slot.user.uid);
        let tree = beside(&fuse.mount, ".slots").join(uid.to_string());
        usrlocal_fs::link(&scoreboard, uid, Some(&tree))
            .map_err(failed("show the step its tree"))?;
        Ok(Self { scoreboard, uid, served })
    }

    /// An error when not everything was served all the time: the step cannot be trusted to have noticed.
    pub(crate) fn check(&self) -> Result<()> {
        let same = |(at, server): &(PathBuf, u32)| server_of(at) == Some(*server);
        if self.served.iter().all(same) { Ok(()) } else { Err(Error::ServerEnded) }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Err(error) = usrlocal_fs::link(&self.scoreboard, self.uid, None) {
            tracing::error!(%error, uid = self.uid, "a step's tree is still shown");
        }
    }
}

/// Serves the trees of the scoreboard `scoreboard` at `shows`, each a path and which part of a tree is seen there, until a signal
/// asks to end or somebody unmounts them: what [`Fuse::server`] is to do.
pub fn serve_trees(
    scoreboard: &Path,
    shows: &[(PathBuf, PathBuf)],
) -> std::result::Result<(), usrlocal_fs::Error> {
    let points = shows.iter().map(|(at, part)| MountPoint::new(at).showing(part)).collect();
    let mut signals = signal_hook::iterator::Signals::new([libc::SIGTERM, libc::SIGINT]).ok();
    let mounts = Mounts::serve(&usrlocal_fs::Config::new(scoreboard, points))?;
    let mut asked = || signals.as_mut().is_some_and(|signals| signals.pending().next().is_some());
    while mounts.is_serving() && !asked() {
        std::thread::sleep(Duration::from_millis(50));
    }
    mounts.unmount()
}

/// Unmounts everything; nobody may use it.
pub(crate) fn unmount(fuse: &Fuse, config: &Config) -> Result<()> {
    let mounted = |at: &Path| server_of(at).is_some() || is_dead(at);
    for (at, _) in mounts(fuse, config).into_iter().rev().filter(|(at, _)| mounted(at)) {
        let action = format!("unmount `{}`", at.display());
        usrlocal_fs::unmount(&at, false).map_err(failed(&action))?;
    }
    Ok(())
}

/// Says what is wrong with where the home is.
pub(crate) fn check(fuse: &Fuse, home: &Path) -> std::result::Result<(), String> {
    match home.strip_prefix(&fuse.mount) {
        Ok(below) if below.components().count() >= 2 => Ok(()),
        _ => {
            let (home, mount) = (home.display(), fuse.mount.display());
            Err(format!("the home `{home}` does not lie two levels below the mount `{mount}`"))
        }
    }
}

/// What is mounted where: the path, and which part of a slot's tree it shows.
fn mounts(fuse: &Fuse, config: &Config) -> Vec<(PathBuf, PathBuf)> {
    let home = config.home.strip_prefix(&fuse.mount).unwrap_or(&config.home);
    let prefixes = config.prefixes.iter().filter(|(prefix, _)| prefix.is_dir() || is_dead(prefix));
    let prefixes = prefixes.map(|(prefix, part)| (prefix.clone(), home.join(part)));
    [(fuse.mount.clone(), PathBuf::from("."))].into_iter().chain(prefixes).collect()
}

/// The process that serves the mount `at`, if one does.
fn server_of(at: &Path) -> Option<u32> {
    usrlocal_fs::status(at).ok().map(|status| status.server)
}

/// The same for all of `mounts`, if all are served.
fn servers(mounts: &[(PathBuf, PathBuf)]) -> Option<Vec<(PathBuf, u32)>> {
    mounts.iter().map(|(at, _)| Some((at.clone(), server_of(at)?))).collect()
}

/// Whether a server that was killed has left its mount there, which nobody can look at.
fn is_dead(at: &Path) -> bool {
    at.metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotConnected)
}

/// Mounts what is not served yet; gives the mounts, and which process serves each.
fn ensure_mounted(fuse: &Fuse, config: &Config) -> Result<Vec<(PathBuf, u32)>> {
    let mounts = mounts(fuse, config);
    if let Some(served) = servers(&mounts) {
        return Ok(served);
    }
    // One process at a time begins to serve.
    let _lock = Lock::acquire(&beside(&fuse.mount, ".lock"), &Cancel::new(), || {})?;
    if let Some(served) = servers(&mounts) {
        return Ok(served);
    }
    make_dir(&beside(&fuse.mount, ".scoreboard"), 0o700)?;
    make_dir(&beside(&fuse.mount, ".slots"), 0o700)?;
    // What a killed server has left there cannot be looked at, and it clears that itself.
    if fuse.mount.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        make_dir(&fuse.mount, 0o755)?;
    }
    tracing::info!(mount = %fuse.mount.display(), "starting the filesystem of build users");
    let log = beside(&fuse.mount, ".log");
    let server = start(fuse, &mounts, &log)?;
    wait_until_served(server, &mounts, &log)
}

fn start(fuse: &Fuse, mounts: &[(PathBuf, PathBuf)], log: &Path) -> Result<Child> {
    let action = || format!("write `{}`", log.display());
    let told = File::options().write(true).create(true).truncate(true).mode(0o600).open(log);
    let told = told.map_err(Error::io(action()))?;
    let (program, arguments) = fuse.server.split_first().ok_or_else(|| {
        Error::io("start the filesystem of build users")(io::ErrorKind::InvalidInput)
    })?;
    let mut command = Command::new(program);
    command.args(arguments).arg("--scoreboard").arg(beside(&fuse.mount, ".scoreboard"));
    for (at, part) in mounts {
        command.arg("--show").arg(at).arg(part);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(told);
    // SAFETY: plain system calls; a signal for our terminal's group is none of its business.
    unsafe { command.pre_exec(leave_session) };
    command.spawn().map_err(Error::io(format!("start `{}`", program.display())))
}

fn leave_session() -> io::Result<()> {
    // SAFETY: plain system calls of a process with one thread.
    match unsafe { libc::setsid() } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn wait_until_served(
    mut server: Child,
    mounts: &[(PathBuf, PathBuf)],
    log: &Path,
) -> Result<Vec<(PathBuf, u32)>> {
    let begun = Instant::now();
    loop {
        if let Some(served) = servers(mounts) {
            return reap(server).map(|()| served);
        }
        let ended = server.try_wait().map_err(Error::io("wait for the filesystem"))?;
        if ended.is_some() || begun.elapsed() > PATIENCE {
            let told = fs::read_to_string(log).unwrap_or_default().trim().replace('\n', "; ");
            let _ = server.kill();
            reap(server)?;
            return Err(Error::NotServed(told));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for the end of the server aside: it may outlive us, and when it ends first nothing of it is to stay.
fn reap(mut server: Child) -> Result<()> {
    let wait = move || {
        if let Err(error) = server.wait() {
            tracing::warn!(%error, "the end of the filesystem of build users was not seen");
        }
    };
    let thread = std::thread::Builder::new().name("filesystem".into()).spawn(wait);
    thread.map(drop).map_err(Error::io("start a thread"))
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(Error::io(format!("make `{}`", path.display())))
}

fn failed(action: &str) -> impl FnOnce(usrlocal_fs::Error) -> Error {
    let action = action.to_owned();
    move |error| Error::Io { action, source: io::Error::other(error) }
}
