//! Puts the worker together and runs it until it leaves.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use git_context::{GitContexts, Ssh};
use nix::fcntl::{Flock, FlockArg};
use obuild_worker::agent::{Agent, Control, Leaving};
use obuild_worker::docker::Docker;
use obuild_worker::jobs::Jobs;
use obuild_worker::metrics::Metrics;
use obuild_worker::obuilder::Obuilder;
use obuild_worker::space::Space;
use obuild_worker::text::chain;
use obuild_worker::{endpoint, health};
use obuilder_core::Cancel;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::options::Options;
use crate::settings::Settings;
use crate::{Stop, backend, doctor};

/// How often the store's room is looked at while jobs run.
const LOOK: Duration = Duration::from_secs(60);

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
    let _alone = state_dir(&settings)?;
    if settings.options.require_healthy {
        doctor::gate(&settings.options)?;
    }
    let metrics = Arc::new(Metrics::default());
    let jobs = Arc::new(jobs(&settings, &metrics)?);
    if settings.options.require_healthy
        && let Some(obuilder) = &jobs.obuilder
    {
        health::check(obuilder.builder(), &Cancel::new())
            .map_err(|why| Stop::system(format!("the health check failed: {why}")))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Stop::system(format!("failed to begin: {error}")))?;
    let left = LocalSet::new().block_on(&runtime, work(settings, jobs, metrics));
    // Checks and the like that still run hold nobody up.
    runtime.shutdown_background();
    Ok(match left? {
        Leaving::Stopped => ExitCode::SUCCESS,
        Leaving::Update => ExitCode::from(1),
    })
}

async fn work(settings: Settings, jobs: Arc<Jobs>, metrics: Arc<Metrics>) -> Result<Leaving, Stop> {
    if let Some(address) = &settings.options.metrics_listen {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Stop::usage(format!("--metrics-listen: failed to listen at `{address}`: {error}"))
        })?;
        tokio::task::spawn_local(endpoint::serve(listener, metrics.clone()));
    }
    let (obuilder, space) = (jobs.obuilder.clone(), jobs.space.clone());
    let agent = Agent::new(settings.agent, jobs, metrics.clone());
    let control = agent.control();
    obey_signals(control.clone())?;
    if let (Some(obuilder), Some(period)) = (obuilder, settings.healthcheck) {
        let builder = obuilder.builder().clone();
        tokio::task::spawn_local(health::watch(builder, period, control.clone(), metrics));
    }
    if let Some(space) = space {
        tokio::task::spawn_local(look_after(space, control));
    }
    Ok(agent.run().await)
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

/// The first signal lets the jobs end, the second stops them, and the third is not waited for.
fn obey_signals(control: Control) -> Result<(), Stop> {
    let failed = |error| Stop::system(format!("failed to catch signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::task::spawn_local(async move {
        for count in 1.. {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            match count {
                1 => control.drain(),
                2 => control.stop(),
                _ => signal_hook::low_level::exit(130),
            }
        }
    });
    Ok(())
}

/// Makes the state directory, which one worker at a time may use.
fn state_dir(settings: &Settings) -> Result<Flock<std::fs::File>, Stop> {
    let dir = &settings.state_dir;
    let failed = |error: &dyn std::fmt::Display| {
        Stop::system(format!("failed to prepare the state directory `{}`: {error}", dir.display()))
    };
    make_private(&settings.agent.log_dir).map_err(|error| failed(&error))?;
    let lock = std::fs::File::create(dir.join("worker.lock")).map_err(|error| failed(&error))?;
    Flock::lock(lock, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, _)| failed(&"another obuild-worker is using it"))
}

fn make_private(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

fn jobs(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Jobs, Stop> {
    let options = &settings.options;
    let mut config = git_context::Config::new(&settings.state_dir);
    config.file_roots.clone_from(&options.git_file_root);
    config.ssh = match (&options.git_ssh_key, &options.git_known_hosts) {
        (Some(key), Some(hosts)) => Some(Ssh { key: key.clone(), known_hosts: hosts.clone() }),
        (None, None) => None,
        _ => return Err(Stop::usage("--git-ssh-key and --git-known-hosts go together")),
    };
    let contexts = GitContexts::open(config).map_err(|error| Stop::system(chain(&error)))?;
    let builder = backend::builder(settings, metrics)?;
    let space = builder.as_ref().map(|builder| {
        Space::new(builder.cache.clone(), settings.prune_threshold, metrics.clone())
    });
    let obuilder = builder.map(|builder| Arc::new(Obuilder::new(builder, metrics.clone())));
    let docker = Docker::new("docker", options.allow_push.clone(), metrics.clone());
    Ok(Jobs { contexts, obuilder, space, docker })
}
