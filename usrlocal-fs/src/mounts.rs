//! Trees being served.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fuser::{Session, SessionACL};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::fs::{Mode, OFlags};

use crate::config::{Config, MountPoint};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::first::{FirstNames, Sweeper};
use crate::fs::Fs;
use crate::meta::Meta;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::opened::Opened;
use crate::os;
use crate::scoreboard::Scoreboard;
use crate::status::{Status, of_mount};
use crate::supervisor::Supervisor;
use crate::view::Views;

/// How long the threads of a mount that was taken away may need to end.
const END: Duration = Duration::from_secs(5);

/// Trees being served, until this is dropped.
///
/// ```no_run
/// use usrlocal_fs::{Config, MountPoint, Mounts};
/// # fn main() -> Result<(), usrlocal_fs::Error> {
/// let config = Config::new("/var/lib/scoreboard", vec![MountPoint::new("/usr/local")]);
/// let mounts = Mounts::serve(&config)?;
/// mounts.switch(705, Some("/Users/mac705".as_ref()))?; // uid 705 sees /Users/mac705/local at /usr/local
/// mounts.switch(705, None)?;                           // and now what everybody else sees
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Mounts {
    served: Vec<Served>,
    scoreboard: Arc<Scoreboard>,
    supervisor: Option<Supervisor>,
}

/// One mount being served.
#[derive(Debug)]
struct Served {
    at: PathBuf,
    core: Arc<Core>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    sweeper: Option<Sweeper>,
}

impl Mounts {
    /// Mounts and begins to serve. What a killed server left at a mount point is cleared away first.
    ///
    /// A small process is forked that takes the mounts away should this one die. This process's limit of open files is
    /// raised as far as it may be.
    pub fn serve(config: &Config) -> Result<Self> {
        config.check()?;
        let scoreboard = Arc::new(Scoreboard::open(&config.scoreboard)?);
        let points = config.mount_points.iter().map(prepare).collect::<Result<Vec<_>>>()?;
        let paths: Vec<PathBuf> = points.iter().map(|(at, _)| at.clone()).collect();
        let keep = raise_limit() / 4 / config.mount_points.len().max(1);
        let supervisor = Supervisor::start(&paths)?;
        let mut mounts = Self { served: Vec::new(), scoreboard, supervisor: Some(supervisor) };
        for ((at, underneath), point) in points.into_iter().zip(&config.mount_points) {
            let views = Views::new(mounts.scoreboard.clone(), point, paths.clone(), underneath)
                .map_err(Error::path("find what is seen without an entry at", &at))?;
            let core = Arc::new(Core {
                views,
                nodes: Nodes::new(keep.clamp(64, 16_384)),
                first_names: FirstNames::default(),
                files: Opened::default(),
                directories: Opened::default(),
                metrics: Metrics::default(),
                remember: config.remember,
                top: point.same_top.then(Meta::everybodys),
                passthrough: AtomicBool::new(config.passthrough),
            });
            mounts.start(at, core, config)?;
        }
        Ok(mounts)
    }

    /// Shows `tree` to `uid` from its next access on, with nothing remembered of an earlier tree; none: what users
    /// without an entry see. Files that are open stay open.
    pub fn switch(&self, uid: u32, tree: Option<&Path>) -> Result<()> {
        self.scoreboard.set(uid, tree)?;
        self.invalidate(uid);
        Ok(())
    }

    /// Forgets what is remembered of the tree of `uid`: call it when the tree was changed other than through the mount.
    pub fn invalidate(&self, uid: u32) {
        self.served.iter().for_each(|served| served.core.views.drop_seat(uid));
    }

    /// The mount points, as they were found to be, in the order of the configuration.
    pub fn mount_points(&self) -> impl Iterator<Item = &Path> {
        self.served.iter().map(|served| served.at.as_path())
    }

    /// What goes on at each mount point.
    pub fn status(&self) -> Vec<(PathBuf, Status)> {
        self.served.iter().map(|served| (served.at.clone(), of_mount(&served.core))).collect()
    }

    /// Whether any of the mounts is still being served; somebody else may unmount them.
    pub fn is_serving(&self) -> bool {
        self.served
            .iter()
            .any(|served| served.thread.as_ref().is_some_and(|thread| !thread.is_finished()))
    }

    /// Unmounts everything and says what could not be. What still uses a mount gets errors from then on.
    pub fn unmount(mut self) -> Result<()> {
        self.end()
    }

    fn start(&mut self, at: PathBuf, core: Arc<Core>, config: &Config) -> Result<()> {
        let device = os::mount::mount(&at)?;
        // From here on the mount is taken away again whatever fails.
        let place = self.served.len();
        self.served.push(Served {
            at: at.clone(),
            core: core.clone(),
            thread: None,
            sweeper: None,
        });
        let mut options = fuser::Config::default();
        let (threads, cloned) = os::mount::threads(config.workers);
        options.n_threads = Some(threads);
        options.clone_fd = cloned;
        options.acl = SessionACL::All;
        let session = Session::from_fd(Fs(core.clone()), device, SessionACL::All, options)
            .map_err(Error::path("agree with the kernel on the mount at", &at))?;
        let notifier = session.notifier();
        let thread = thread::Builder::new().name("usrlocal-fs".into()).spawn(move || session.run());
        self.served[place].thread = Some(thread.map_err(Error::io("start a thread"))?);
        let sweeper = Sweeper::start(core, notifier).map_err(Error::io("start a thread"))?;
        self.served[place].sweeper = Some(sweeper);
        let shown = os::special::device_without_asking(&c_path(&at))
            .map_err(Error::path("look at the mount at", &at))?;
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.mounted(place, shown)?;
        }
        tracing::info!(at = %at.display(), "mounted");
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let mut result = Ok(());
        for served in self.served.drain(..).rev() {
            let ended = served.end();
            result = result.and(ended);
        }
        if let Some(supervisor) = self.supervisor.take() {
            if result.is_ok() { supervisor.dismiss() } else { drop(supervisor) }
        }
        result
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a mount could not be taken away"
            );
        }
    }
}

impl Served {
    fn end(self) -> Result<()> {
        if let Some(sweeper) = self.sweeper {
            sweeper.end();
        }
        let finished = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
        if !finished {
            os::mount::unmount(&self.at)?;
        }
        let Some(thread) = self.thread else { return Ok(()) };
        let begun = Instant::now();
        while !thread.is_finished() && begun.elapsed() < END {
            thread::sleep(Duration::from_millis(2));
        }
        if !thread.is_finished() {
            tracing::warn!(at = %self.at.display(), "requests are still being answered after the unmount");
        } else if let Ok(Err(error)) = thread.join() {
            tracing::warn!(at = %self.at.display(), %error, "serving ended with an error");
        }
        tracing::info!(at = %self.at.display(), "unmounted");
        Ok(())
    }
}

/// Clears what a killed server left at the mount point, and opens the directory there.
fn prepare(point: &MountPoint) -> Result<(PathBuf, OwnedFd)> {
    let at = real_path(&point.at)?;
    clear_stale(&at)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let underneath =
        rustix::fs::open(&at, flags, Mode::empty()).map_err(Error::path("open", &at))?;
    rustix::fs::fstat(underneath.as_fd()).map_err(Error::path("look at", &at))?;
    Ok((at, underneath))
}

/// The path without symlinks; it may end in a mount whose server is gone, which nothing can look at.
pub(crate) fn real_path(at: &Path) -> Result<PathBuf> {
    match (at.canonicalize(), at.parent(), at.file_name()) {
        (Ok(path), ..) => Ok(path),
        (Err(error), Some(parent), Some(name)) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            Ok(parent.canonicalize().map_err(Error::path("find", parent))?.join(name))
        }
        (Err(error), ..) => Err(Error::path("find", at)(error)),
    }
}

/// Takes away mounts of servers that are gone.
fn clear_stale(at: &Path) -> Result<()> {
    // A server that is killed over and over may leave several; more than these are somebody's intention.
    for _ in 0..16 {
        if os::mount::mounts_at(at)? == 0 {
            return Ok(());
        }
        if !os::mount::is_dead(at) {
            break;
        }
        tracing::info!(at = %at.display(), "clearing the mount of a server that is gone");
        os::mount::detach(&c_path(at));
    }
    Err(Error::Mounted(at.to_owned()))
}

fn c_path(at: &Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(at.as_os_str().as_bytes()).expect("a path that was found holds no NUL")
}

/// Raises this process's limit of open files as far as it may; says how many there may be.
fn raise_limit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 256 };
    let wanted = hard.min(1 << 20);
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() {
        return wanted as usize;
    }
    soft.min(1 << 20) as usize
}

/// Takes away a mount that another process serves, or served. Unless `force` is set, only when nobody uses it.
pub fn unmount(at: &Path, force: bool) -> Result<()> {
    let at = real_path(at)?;
    if os::mount::mounts_at(&at)? == 0 {
        return Err(Error::NotServed(at));
    }
    if force || os::mount::is_dead(&at) {
        os::mount::unmount(&at)
    } else {
        os::mount::unmount_idle(&at)
    }
}
