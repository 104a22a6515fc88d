//! Building one step: from the cache, together with others, or anew.

use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ResultCache;
use super::elsewhere::Elsewhere;
use super::lock::{IdLock, Turn};
use super::meta::{Meta, MetaBase, Surroundings};
use super::running::{Ending, News, Running, Seen, Source};
use crate::cancel::Cancel;
use crate::contracts::{Base, Pending, Snapshot};
use crate::error::{FetchError, SandboxError, StoreError};
use crate::fault;
use crate::id::ResultId;
use crate::index::IndexError;
use crate::interpreter::CopyError;
use crate::log::BuildLog;
use crate::progress::{Event, Observer, Stage, StepEnd};

/// Bytes of a log that are passed on at a time.
const CHUNK: usize = 64 * 1024;

/// The log in a workspace.
const LOG: &str = "log";

/// A step to build.
pub struct StepRequest {
    /// The id its result has.
    pub id: ResultId,
    /// What it stands on; `None` for a base image.
    pub base: Option<ResultId>,
    /// Its heading.
    pub heading: String,
    /// How to do it.
    pub work: Work,
    /// Whether to keep the tree when it fails.
    pub keep_failed: bool,
    /// Whether to do it even if there is a result. When the new one is ready, the old one is retired with all that stands on
    /// it; until then, and when the step fails, the old one stands.
    pub fresh: bool,
    /// What it runs in, to be remembered.
    pub surroundings: Surroundings,
}

/// Fills a workspace. Called on a thread of its own, at most once, and not at all when another client's work served.
pub type Work = Box<dyn FnOnce(&Workspace<'_>) -> Result<Option<MetaBase>, StepFailure> + Send>;

/// Where a step does its work.
pub struct Workspace<'a> {
    /// The directory that becomes the result, with `rootfs` in it.
    pub dir: &'a Path,
    /// The step's log.
    pub log: &'a BuildLog,
    /// Cancelled when nobody wants the step any more.
    pub cancel: &'a Cancel,
    /// Tells the clients what the step waits for.
    pub waiting: &'a dyn Fn(&str),
}

/// Whoever wants a step.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// Cancelled when this client gives up.
    pub cancel: &'a Cancel,
    /// Told what happens.
    pub observer: &'a dyn Observer,
    /// Where in the spec the step stands.
    pub stage: &'a Stage,
}

impl Client<'_> {
    /// Tells the observer.
    pub fn tell(&self, event: Event<'_>) {
        self.observer.event(self.stage, event);
    }
}

/// Why a step gave no result.
#[derive(Debug, thiserror::Error)]
pub enum StepFailure {
    /// The command ended badly: how.
    #[error("{0}")]
    Command(String),
    /// Nobody wants it any more.
    #[error("cancelled")]
    Cancelled,
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// See [`SandboxError`].
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// See [`FetchError`].
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// See [`CopyError`].
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// See [`IndexError`].
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A file of the result cannot be written or read.
    #[error("failed to {action} `{path}`")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// A defect in this program.
    #[error("the step panicked: {0}")]
    Panicked(String),
}

impl ResultCache {
    /// Gives the result of a step, pinned: from the cache, from whoever is building it, or by building it.
    ///
    /// The client's observer is told the step's log from its first byte, and how it ended. When the client is cancelled it
    /// leaves at once; the step itself goes on while it has other clients.
    pub fn build(
        self: &Arc<Self>,
        request: StepRequest,
        client: &Client<'_>,
    ) -> Result<(Arc<Snapshot>, StepEnd), Arc<StepFailure>> {
        let id = request.id.clone();
        client.tell(Event::StepStarted { id: &id });
        let started = Instant::now();
        let built = self.obtain(request, client);
        let end = match &built {
            Ok((_, end)) => *end,
            Err(failure) if matches!(**failure, StepFailure::Cancelled) => StepEnd::Cancelled,
            Err(_) => StepEnd::Failed,
        };
        client.tell(Event::StepFinished { id: &id, end, elapsed: started.elapsed() });
        built
    }

    fn obtain(
        self: &Arc<Self>,
        mut request: StepRequest,
        client: &Client<'_>,
    ) -> Result<(Arc<Snapshot>, StepEnd), Arc<StepFailure>> {
        loop {
            if client.cancel.is_cancelled() {
                return Err(Arc::new(StepFailure::Cancelled));
            }
            let there = self.store.result(&request.id).map_err(StepFailure::from)?;
            if let Some(snapshot) = there.filter(|_| !request.fresh) {
                replay(&snapshot, client)?;
                self.touch(&request.id);
                return Ok((Arc::new(snapshot), StepEnd::Cached));
            }
            match self.join(request) {
                Ok((running, number)) => return follow(&running, number, client),
                Err((running, returned)) => {
                    client.tell(Event::Waiting {
                        reason: "the step is being cancelled; it starts afresh after that",
                    });
                    running.wait_ended(client.cancel);
                    request = *returned;
                }
            }
        }
    }

    /// Joins the step if it is in progress, else begins it. Comes back with the request when the step is being cancelled.
    fn join(self: &Arc<Self>, request: StepRequest) -> Result<(Arc<Running>, u64), Refused> {
        let mut in_progress = self.in_progress();
        let StepRequest { id, base, heading, work, keep_failed, fresh, surroundings } = request;
        match in_progress.entry(id.clone()) {
            Entry::Occupied(entry) => {
                let running = entry.get().clone();
                match running.attach(work) {
                    Ok(number) => Ok((running, number)),
                    Err(work) => {
                        let request = StepRequest {
                            id,
                            base,
                            heading,
                            work,
                            keep_failed,
                            fresh,
                            surroundings,
                        };
                        Err((running, Box::new(request)))
                    }
                }
            }
            Entry::Vacant(entry) => {
                let running = entry.insert(Running::new()).clone();
                let Ok(number) = running.attach(work) else {
                    unreachable!("nobody can have cancelled a new step")
                };
                drop(in_progress);
                let (cache, executed) = (self.clone(), running.clone());
                let plan = Plan { id, base, heading, keep_failed, fresh, surroundings };
                let thread = std::thread::Builder::new().name(format!("step {}", plan.id.short()));
                let id = plan.id.clone();
                let work = move || {
                    let ending = cache.run_to_end(&plan, &executed);
                    // Before anybody hears of it: who lets go of the cache last waits for the store to clear up.
                    drop(cache);
                    executed.publish_ending(ending);
                };
                if let Err(source) = thread.spawn(work) {
                    let path = self.store.state_dir().to_owned();
                    let failure =
                        StepFailure::File { action: "start a thread for a step in", path, source };
                    self.in_progress().remove(&id);
                    running.publish_ending(Err(Arc::new(failure)));
                }
                Ok((running, number))
            }
        }
    }

    fn in_progress(&self) -> MutexGuard<'_, std::collections::HashMap<ResultId, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread of a step: builds it, and says how that ended.
    fn run_to_end(&self, plan: &Plan, running: &Arc<Running>) -> Ending {
        let built = catch_unwind(AssertUnwindSafe(|| self.execute(plan, running)));
        // Out of the table before it has ended: whoever comes now looks at the store again.
        self.in_progress().remove(&plan.id);
        match built {
            Ok(Ok((snapshot, source))) => Ok((Arc::new(snapshot), source)),
            Ok(Err(failure)) => Err(Arc::new(failure)),
            Err(panic) => Err(Arc::new(StepFailure::Panicked(panic_text(&*panic)))),
        }
    }

    fn execute(
        &self,
        plan: &Plan,
        running: &Arc<Running>,
    ) -> Result<(Snapshot, Source), StepFailure> {
        let state = self.store.state_dir();
        let mut elsewhere = Elsewhere::new(running, plan);
        let turn = IdLock::acquire(state, &plan.id, &running.cancel, &mut elsewhere).map_err(
            |source| StepFailure::File {
                action: "lock the step in",
                path: state.join("locks"),
                source,
            },
        )?;
        let lock = match turn {
            Turn::Ours(lock) => lock,
            Turn::Failed(reason) => return Err(StepFailure::Command(reason)),
            Turn::Cancelled => return Err(StepFailure::Cancelled),
        };
        let there = self.store.result(&plan.id)?;
        if let Some(snapshot) = there.filter(|_| !plan.fresh) {
            self.touch(&plan.id);
            let source = elsewhere.ended_with(&snapshot);
            return Ok((snapshot, source));
        }
        drop(elsewhere);
        // Held until the result is in the index: whoever deletes the base then finds what stands on it.
        let _base = plan.base.as_ref().map(|base| self.store.held_result(base)).transpose()?;
        self.execute_alone(plan, running, &lock)
    }

    /// Does the work of whichever client's way succeeds, while nobody else builds the step.
    fn execute_alone(
        &self,
        plan: &Plan,
        running: &Arc<Running>,
        lock: &IdLock,
    ) -> Result<(Snapshot, Source), StepFailure> {
        loop {
            let Some((client, work)) = running.next_work() else {
                return Err(StepFailure::Cancelled);
            };
            let base = plan.base.as_ref().map_or(Base::Empty, Base::Result);
            let pending = self.store.begin(&plan.id, base)?;
            lock.tell_log(&pending.dir().join(LOG));
            fault::point("step-begun");
            let attempted = attempt(&*pending, running, work);
            fault::point("step-worked");
            match attempted {
                Ok((base, elapsed)) => return self.save(plan, running, pending, base, elapsed),
                Err(failure) if running.may_retry_without(client) => {
                    tracing::info!(
                        "the work of a client that left failed ({failure}); trying another client's"
                    );
                    pending.discard()?;
                }
                Err(failure) => {
                    let failure = self.bury(plan, pending, failure);
                    if let StepFailure::Command(reason) = &failure {
                        lock.tell_failure(reason, plan.keep_failed);
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// Makes a finished workspace a result.
    fn save(
        &self,
        plan: &Plan,
        running: &Running,
        pending: Box<dyn Pending>,
        base: Option<MetaBase>,
        elapsed: Duration,
    ) -> Result<(Snapshot, Source), StepFailure> {
        let meta = plan.meta(base, elapsed);
        let dir = pending.dir().to_owned();
        meta.write(&dir)
            .map_err(|source| StoreError::io(format!("write `{}`", dir.display()), source))?;
        fault::point("step-described");
        if plan.fresh {
            self.retire(&plan.id, &running.cancel, &|reason| running.publish_waiting(reason))?;
        }
        pending.commit()?;
        fault::point("step-committed");
        match self.index.add(&plan.id, &meta) {
            // The result is safe, and the next start finds it; a full disk must not fail a step that succeeded.
            Err(error) if error.is_full() => {
                tracing::warn!("{error}; the next start will make up for it")
            }
            added => added?,
        }
        fault::point("step-indexed");
        self.remove_failed_log(&plan.id);
        let snapshot = self.store.held_result(&plan.id)?;
        let snapshot = snapshot.ok_or_else(|| StoreError::Missing(plan.id.clone()))?;
        Ok((snapshot, Source::Built))
    }
}

/// A step that is being cancelled, and the request that must wait for that.
type Refused = (Arc<Running>, Box<StepRequest>);

/// What a step's thread needs to know.
pub(super) struct Plan {
    pub(super) id: ResultId,
    base: Option<ResultId>,
    heading: String,
    pub(super) keep_failed: bool,
    pub(super) fresh: bool,
    surroundings: Surroundings,
}

impl Plan {
    pub(super) fn heading(&self) -> &str {
        &self.heading
    }

    /// What the result will know of itself.
    pub(super) fn meta(&self, base: Option<MetaBase>, elapsed: Duration) -> Meta {
        Meta {
            parent: self.base.clone(),
            heading: self.heading.clone(),
            elapsed_ms: elapsed.as_millis().try_into().unwrap_or(u32::MAX),
            base,
            surroundings: self.surroundings.clone(),
        }
    }
}

/// Does the work once in a fresh tree.
fn attempt(
    pending: &dyn Pending,
    running: &Arc<Running>,
    work: Work,
) -> Result<(Option<MetaBase>, Duration), StepFailure> {
    let path = pending.dir().join(LOG);
    let log = BuildLog::create(&path)
        .map_err(|source| StoreError::io(format!("create the log `{}`", path.display()), source))?;
    // Until there is something to read, clients hear what the step waits for.
    let (published, clients) = (log.clone(), running.clone());
    log.on_begin(move || clients.publish_log(published));
    let started = Instant::now();
    let waiting = |reason: &str| running.publish_waiting(reason);
    let workspace =
        Workspace { dir: pending.dir(), log: &log, cancel: &running.cancel, waiting: &waiting };
    let done = catch_unwind(AssertUnwindSafe(|| work(&workspace)))
        .unwrap_or_else(|panic| Err(StepFailure::Panicked(panic_text(&*panic))));
    log.finish();
    if running.cancel.is_cancelled() {
        return Err(StepFailure::Cancelled);
    }
    Ok((done?, started.elapsed()))
}

/// Waits for a step with the others, passing its log on.
fn follow(
    running: &Arc<Running>,
    number: u64,
    client: &Client<'_>,
) -> Result<(Arc<Snapshot>, StepEnd), Arc<StepFailure>> {
    let (mut seen, mut cut_off) = (Seen::default(), false);
    loop {
        match running.news(&mut seen, client.cancel) {
            News::Waiting(reason) => client.tell(Event::Waiting { reason: &reason }),
            News::Log(log, again) => {
                if again {
                    client.tell(Event::StepRestarted);
                }
                match pass_on(&log, client) {
                    Ok(whole) => cut_off = !whole,
                    Err(error) => tracing::warn!("failed to follow the log of a step: {error}"),
                }
            }
            News::Ended => {
                let ending = running.take_ending(number);
                if cut_off {
                    // It has given up before it heard all; to be told of an end that it has not seen coming would confuse.
                    return Err(Arc::new(StepFailure::Cancelled));
                }
                let (snapshot, source) = ending?;
                if source == Source::Built {
                    return Ok((snapshot, StepEnd::Saved));
                }
                if seen.any_log() {
                    client.tell(Event::StepRestarted);
                }
                replay(&snapshot, client)?;
                return Ok((snapshot, StepEnd::Cached));
            }
            News::Cancelled => {
                running.detach(number);
                if running.cancel.is_cancelled() {
                    // Nobody else wants it. Whoever gave up may go on only when nothing of it is left.
                    running.wait_ended(&Cancel::new());
                }
                return Err(Arc::new(StepFailure::Cancelled));
            }
        }
    }
}

/// Gives the client the log while it is written; says whether it had all of it, or gave up before.
fn pass_on(log: &BuildLog, client: &Client<'_>) -> io::Result<bool> {
    let mut reader = log.reader();
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer, client.cancel)? {
            0 => return Ok(!client.cancel.is_cancelled()),
            read => client.tell(Event::Output { bytes: &buffer[..read] }),
        }
    }
}

/// Passes on the saved log of a result.
fn replay(snapshot: &Snapshot, client: &Client<'_>) -> Result<(), StepFailure> {
    let path = snapshot.log();
    let fail =
        |source| StepFailure::File { action: "read the saved log", path: path.clone(), source };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    let mut buffer = [0; 8192];
    loop {
        if client.cancel.is_cancelled() {
            return Err(StepFailure::Cancelled);
        }
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(()),
            read => client.tell(Event::Output { bytes: &buffer[..read] }),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
