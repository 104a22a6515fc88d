//! Puts the worker together and runs it until it leaves.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use git_context::{GitContexts, Ssh};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use obuild_worker::agent::{Agent, Control, Leaving};
use obuild_worker::docker::Docker;
use obuild_worker::docker_space::DOCKER_ROOT;
use obuild_worker::image_roots::ImageRoots;
use obuild_worker::jobs::Jobs;
use obuild_worker::metrics::Metrics;
use obuild_worker::obuilder::{Bounds, Obuilder};
use obuild_worker::space::Space;
use obuild_worker::{endpoint, health};
use obuilder_core::Cancel;
use obuilder_core::error::chain;
use obuilder_core::order::Spool;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::LocalSet;

use crate::options::Options;
use crate::settings::Settings;
use crate::{Stop, backend, doctor};

/// How often the store's room is looked at while jobs run.
const LOOK: Duration = Duration::from_secs(60);
/// Descriptors for a thousand jobs; macOS refuses more than these (`OPEN_MAX`) even where its limit says that there is none.
const DESCRIPTORS: u64 = 10_240;
/// What Git is told of this worker's environment: how the network is reached, and whom to trust there.
const GIT_VARIABLES: [&str; 10] = [
    "https_proxy",
    "http_proxy",
    "all_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "GIT_SSL_CAINFO",
];
/// Longest wait for the lock of a worker that was killed, and how often it is tried meanwhile.
const LINGERING: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(50);
/// Longest wait for preparations that were called off.
const PREPARING: Duration = Duration::from_secs(10);

/// Works until told to leave. The exit code says whether it was the operator (0) or the scheduler (1), in which case whoever
/// has started this worker is to start it again.
pub(crate) fn run(options: Options) -> Result<ExitCode, Stop> {
    let options = options.with_file()?;
    crate::trace(Settings::level(&options), Settings::log_file(&options)?);
    let settings = Settings::new(options)?;
    let accepted = settings.options.accepted.given();
    if !accepted.is_empty() {
        tracing::warn!("without effect in this version: {}", accepted.join(", "));
    }
    want_descriptors();
    // Each job takes a thread, and so do checks, looks at the volume and names of hosts.
    let threads = settings.agent.capacity as usize + 64;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(threads).build();
    let runtime = runtime.map_err(|error| Stop::system(format!("failed to begin: {error}")))?;
    let left = LocalSet::new().block_on(&runtime, serve(settings));
    // Checks and the like that still run hold nobody up.
    runtime.shutdown_background();
    Ok(match left? {
        Leaving::Stopped => ExitCode::SUCCESS,
        Leaving::Update => ExitCode::from(1),
    })
}

/// Raises the number of descriptors that this worker may have as far as it may be raised: launchd gives few, and a job takes some.
fn want_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .map(|(soft, hard)| (soft, hard, hard.min(DESCRIPTORS)))
        .and_then(|(soft, hard, wanted)| match wanted > soft {
            true => setrlimit(Resource::RLIMIT_NOFILE, wanted, hard),
            false => Ok(()),
        });
    if let Err(error) = raised {
        tracing::warn!("failed to allow this worker more open files: {error}");
    }
}

/// A worker that can begin.
struct Prepared {
    settings: Settings,
    jobs: Arc<Jobs>,
    metrics: Arc<Metrics>,
    /// Nobody else uses the state directory.
    alone: Flock<std::fs::File>,
}

/// Prepares and works; whoever signals before there are jobs does not wait long.
async fn serve(settings: Settings) -> Result<Leaving, Stop> {
    let mut signals = Signals::new()?;
    let cancel = Cancel::new();
    let told = cancel.clone();
    let mut preparing = tokio::task::spawn_blocking(move || prepare(settings, &told));
    let prepared = tokio::select! {
        prepared = &mut preparing => prepared,
        () = signals.next() => {
            cancel.cancel();
            // What is not done by then the next start puts in order.
            tokio::select! {
                _ = tokio::time::timeout(PREPARING, preparing) => {}
                () = signals.next() => {}
            }
            return Ok(Leaving::Stopped);
        }
    };
    let prepared = prepared.map_err(|error| Stop::system(format!("failed to begin: {error}")))?;
    work(prepared?, signals).await
}

/// Puts in order what a killed worker has left, and looks whether this one can build.
fn prepare(settings: Settings, cancel: &Cancel) -> Result<Prepared, Stop> {
    let alone = state_dir(&settings, cancel)?;
    if settings.options.require_healthy {
        doctor::gate(&settings.options)?;
    }
    let metrics = Arc::new(Metrics::default());
    let jobs = Arc::new(jobs(&settings, &metrics)?);
    if settings.options.require_healthy
        && let Some(obuilder) = &jobs.obuilder
    {
        health::check(obuilder.builder(), cancel)
            .map_err(|why| Stop::system(format!("the health check failed: {why}")))?;
    }
    Ok(Prepared { settings, jobs, metrics, alone })
}

async fn work(prepared: Prepared, signals: Signals) -> Result<Leaving, Stop> {
    let Prepared { settings, jobs, metrics, alone: _alone } = prepared;
    if let Some(address) = &settings.options.metrics_listen {
        let listener = listen(address).await?;
        tokio::task::spawn_local(endpoint::serve(listener, metrics.clone()));
    }
    let (obuilder, space) = (jobs.obuilder.clone(), jobs.space.clone());
    let agent = Agent::new(settings.agent, jobs, metrics.clone());
    let control = agent.control();
    tokio::task::spawn_local(obey(signals, control.clone()));
    if let (Some(obuilder), Some(period)) = (obuilder, settings.healthcheck) {
        let builder = obuilder.builder().clone();
        tokio::task::spawn_local(health::watch(builder, period, control.clone(), metrics));
    }
    if let Some(space) = space {
        tokio::task::spawn_local(look_after(space, control));
    }
    Ok(agent.run().await)
}

/// Listens at an address of this machine's own: whoever reaches it needs no password.
async fn listen(address: &str) -> Result<TcpListener, Stop> {
    let wrong = |why: &dyn std::fmt::Display| {
        Stop::usage(format!("--metrics-listen: failed to listen at `{address}`: {why}"))
    };
    let found = tokio::net::lookup_host(address).await.map_err(|error| wrong(&error))?;
    let own: Vec<_> = found.filter(|address| address.ip().is_loopback()).collect();
    if own.is_empty() {
        return Err(wrong(&"others could reach it; write an address such as `127.0.0.1:9101`"));
    }
    TcpListener::bind(&own[..]).await.map_err(|error| wrong(&error))
}

/// Has room made while jobs run.
async fn look_after(space: Arc<Space>, control: Control) {
    loop {
        control.until_busy().await;
        tokio::time::sleep(LOOK).await;
        let space = space.clone();
        // It looks at the volume, which may be slow; a panic in it has been printed.
        let _ = tokio::task::spawn_blocking(move || space.look()).await;
    }
}

/// Requests to end.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> Result<Self, Stop> {
        let failed = |error| Stop::system(format!("failed to catch signals: {error}"));
        let term = signal(SignalKind::terminate()).map_err(failed)?;
        Ok(Self { term, int: signal(SignalKind::interrupt()).map_err(failed)? })
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// The first signal lets the jobs end, the second stops them, and the third is not waited for.
async fn obey(mut signals: Signals, control: Control) {
    signals.next().await;
    control.drain();
    signals.next().await;
    control.stop();
    signals.next().await;
    signal_hook::low_level::exit(130)
}

/// Makes the state directory, which one worker at a time may use. What a killed one has just started may hold its lock for a moment.
fn state_dir(settings: &Settings, cancel: &Cancel) -> Result<Flock<std::fs::File>, Stop> {
    let dir = &settings.state_dir;
    let failed = |error: &dyn std::fmt::Display| {
        Stop::system(format!("failed to prepare the state directory `{}`: {error}", dir.display()))
    };
    make_private(&settings.agent.log_dir).map_err(|error| failed(&error))?;
    let lock = std::fs::File::create(dir.join("worker.lock")).map_err(|error| failed(&error))?;
    let end = Instant::now() + LINGERING;
    let mut lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock);
    if matches!(lock, Err((_, Errno::EWOULDBLOCK))) {
        tracing::warn!("another obuild-worker is using `{}`; waiting for it", dir.display());
    }
    while let Err((file, Errno::EWOULDBLOCK)) = lock {
        if Instant::now() >= end || cancel.wait_timeout(RETRY) {
            return Err(failed(&"another obuild-worker is using it"));
        }
        lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    }
    lock.map_err(|(_, error)| failed(&error))
}

fn make_private(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

/// What Git is given of `environment`. It does not read `HTTP_PROXY`, which means the same to everybody else.
fn git_environment(mut environment: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let value = |name: &str| {
        environment.iter().find(|(given, _)| given == name).map(|(_, value)| value.clone())
    };
    if let (None, Some(proxy)) = (value("http_proxy"), value("HTTP_PROXY")) {
        environment.push(("http_proxy".into(), proxy));
    }
    environment
}

fn jobs(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Jobs, Stop> {
    let options = &settings.options;
    let mut config = git_context::Config::new(&settings.state_dir);
    config.file_roots.clone_from(&options.git_file_root);
    config.environment = git_environment(crate::given(&GIT_VARIABLES));
    config.ssh = match (&options.git_ssh_key, &options.git_known_hosts) {
        (Some(key), Some(hosts)) => Some(Ssh { key: key.clone(), known_hosts: hosts.clone() }),
        _ => None,
    };
    let contexts = GitContexts::open(config).map_err(|error| Stop::system(chain(&error)))?;
    let builder = backend::builder(settings, metrics)?;
    let space = builder.as_ref().map(|builder| {
        let layers = fetch_oci::Cache::new(options.steps.layers(&settings.state_dir));
        Space::new(builder.cache.clone(), layers, settings.prune_threshold, metrics.clone())
    });
    let bounds = Bounds {
        timeout: options.steps.timeout()?,
        spool: Spool { dir: settings.agent.log_dir.clone(), most: settings.agent.log_cap },
        images: ImageRoots::new(options.image_file_root.clone()),
    };
    let obuilder = builder.map(|builder| Arc::new(Obuilder::new(builder, metrics.clone(), bounds)));
    let dir = settings.state_dir.join("docker");
    let docker = Docker::open("docker", options.allow_push.clone(), metrics.clone(), dir.clone());
    let docker = docker.map_err(|error| {
        Stop::system(format!("failed to prepare the directory `{}`: {error}", dir.display()))
    })?;
    let docker = match options.prune_threshold {
        Some(percent) => docker.keep_free(Path::new(DOCKER_ROOT), percent),
        None => docker,
    };
    Ok(Jobs { contexts, obuilder, space, docker })
}
