//! Nested builds: which of them wait for which, and running the others at once.
//!
//! Every thread that comes to the nested builds of a spec takes the first one that can begin, runs it, and looks for the
//! next. A thread that finds more than it can take starts a helper, as long as there may be more; so the number of threads is
//! bounded whatever the spec, nobody waits for a thread that cannot be had, and with one slot all is done in order.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use bstr::{BStr, BString, ByteSlice};

use super::{Build, BuildError, Kind, Scope};
use crate::contracts::Snapshot;
use crate::progress::{Event, Stage};
use crate::spec::{CopySource, Op, Spec, build_heading};

/// Threads that one build may start besides the caller's, whatever the sandbox says.
const MOST_HELPERS: usize = 64;

/// How many more threads a build may start.
pub(super) struct Helpers(AtomicUsize);

impl Helpers {
    /// For a sandbox that runs so many steps at once: twice as many builds go on, so that the tree of the next step can be
    /// made while others run; but one slot means one after the other.
    pub(super) fn new(slots: usize) -> Self {
        let builds = if slots <= 1 { 1 } else { slots.saturating_mul(2).min(MOST_HELPERS + 1) };
        Self(AtomicUsize::new(builds - 1))
    }

    fn take(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give_back(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Build<'_> {
    /// Builds all of `builds` and gives the scope for the operations that come after them.
    ///
    /// When one fails, the others are cancelled.
    pub(super) fn nested(
        &self,
        builds: &[(BString, Spec)],
        stage: &Stage,
        outer: &Scope,
    ) -> Result<Scope, BuildError> {
        if builds.is_empty() {
            return Ok(outer.clone());
        }
        let (cancel, _guard) = self.cancel.child();
        let group = Group {
            build: Build { cancel: &cancel, ..*self },
            builds,
            needs: (0..builds.len()).map(|at| needs(builds, at)).collect(),
            stage,
            outer,
            state: Mutex::new(State::new(builds.len())),
            changed: Condvar::new(),
        };
        thread::scope(|scope| group.work(scope));
        group.finish()
    }
}

/// The nested builds of one spec, under way.
struct Group<'a> {
    build: Build<'a>,
    builds: &'a [(BString, Spec)],
    /// For each, those before it that it copies from.
    needs: Vec<Vec<usize>>,
    stage: &'a Stage,
    outer: &'a Scope,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Those that nobody has begun yet, in order.
    waiting: Vec<usize>,
    ended: Vec<Option<Result<Arc<Snapshot>, BuildError>>>,
    /// One of them has failed: no other begins.
    stopped: bool,
}

impl State {
    fn new(count: usize) -> Self {
        let ended = (0..count).map(|_| None).collect();
        Self { waiting: (0..count).collect(), ended, stopped: false }
    }

    fn result(&self, at: usize) -> Option<&Arc<Snapshot>> {
        self.ended[at].as_ref()?.as_ref().ok()
    }
}

impl<'a> Group<'a> {
    /// Runs builds until each has been begun by somebody, waiting for those that others must wait for.
    fn work<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        let _stop = StopOnPanic(self);
        loop {
            match self.begin(scope) {
                Found::Build(at, inner) => self.run(at, &inner),
                Found::Later(state) => {
                    drop(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
                }
                Found::Nothing => return,
            }
        }
    }

    /// The same for a helper, which goes when it finds nothing to do at once.
    fn help<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        let _stop = StopOnPanic(self);
        while let Found::Build(at, inner) = self.begin(scope) {
            self.run(at, &inner);
        }
        self.build.shared.helpers.give_back();
    }

    /// Takes the first build that can begin, and calls for help if there is another.
    fn begin<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) -> Found<'scope> {
        let mut state = self.lock();
        if state.stopped || state.waiting.is_empty() {
            return Found::Nothing;
        }
        let Some(place) = self.first_ready(&state) else { return Found::Later(state) };
        let at = state.waiting.remove(place);
        let mut inner = self.outer.clone();
        for &need in &self.needs[at] {
            let result = state.result(need).expect("it can begin, so what it needs is there");
            inner.insert(self.builds[need].0.clone(), result.clone());
        }
        let more = self.first_ready(&state).is_some();
        let (name, heading) = (self.builds[at].0.to_str_lossy(), build_heading(&self.builds[at].0));
        // Told under the lock, so that builds are told of in the order in which they begin.
        self.tell(Event::BuildStarted { name: &name, heading: &heading });
        drop(state);
        if more && self.build.shared.helpers.take() {
            let helper = thread::Builder::new().name(format!("build {name}"));
            if let Err(error) = helper.spawn_scoped(scope, move || self.help(scope)) {
                self.build.shared.helpers.give_back();
                tracing::debug!("builds go on with fewer threads: {error}");
            }
        }
        Found::Build(at, inner)
    }

    fn first_ready(&self, state: &State) -> Option<usize> {
        let ready = |at: &usize| self.needs[*at].iter().all(|need| state.result(*need).is_some());
        state.waiting.iter().position(ready)
    }

    fn run(&self, at: usize, inner: &Scope) {
        let (name, spec) = &self.builds[at];
        let name = name.to_str_lossy();
        let mut stage = self.stage.clone();
        stage.0.push(name.clone().into_owned());
        let result = self.build.spec(spec, &stage, inner);
        match &result {
            Ok(result) => self.tell(Event::BuildFinished { name: &name, id: result.id() }),
            Err(_) => self.stop(),
        }
        self.lock().ended[at] = Some(result);
        self.changed.notify_all();
    }

    /// Cancels what runs and lets nothing else begin.
    fn stop(&self) {
        self.lock().stopped = true;
        self.build.cancel.cancel();
        self.changed.notify_all();
    }

    /// The scope with all results, or the error of the first that failed and was not merely cancelled.
    fn finish(self) -> Result<Scope, BuildError> {
        let ended = self.state.into_inner().unwrap_or_else(PoisonError::into_inner).ended;
        let mut scope = self.outer.clone();
        let mut cancelled = None;
        for ((name, _), ended) in self.builds.iter().zip(ended) {
            match ended {
                Some(Ok(result)) => drop(scope.insert(name.clone(), result)),
                Some(Err(error)) if error.kind() == Kind::Cancelled => cancelled = Some(error),
                Some(Err(error)) => return Err(error),
                // It has not begun, because another one failed.
                None => {}
            }
        }
        cancelled.map_or(Ok(scope), Err)
    }

    fn tell(&self, event: Event<'_>) {
        self.build.observer.event(self.stage, event);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is to do.
enum Found<'a> {
    /// This build, with what it may copy from.
    Build(usize, Scope),
    /// Nothing before another build has ended.
    Later(MutexGuard<'a, State>),
    /// Nothing more.
    Nothing,
}

/// Stops the others when its thread panics, so that they do not wait for what it had begun; the panic itself goes on to
/// whoever waits for the thread.
struct StopOnPanic<'a, 'b>(&'a Group<'b>);

impl Drop for StopOnPanic<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// The builds before the one at `at` that it copies from.
fn needs(builds: &[(BString, Spec)], at: usize) -> Vec<usize> {
    let names = names_from_outside(&builds[at].1);
    let last = |name: &BStr| builds[..at].iter().rposition(|(other, _)| other == name);
    names.into_iter().filter_map(last).collect()
}

/// Names of builds that `spec` copies from and does not have itself.
fn names_from_outside(spec: &Spec) -> HashSet<&BStr> {
    let mut names = HashSet::new();
    for op in &spec.ops {
        if let Op::Copy(copy) = op
            && let CopySource::Build(name) = &copy.from
        {
            names.insert(name.as_bstr());
        }
    }
    // A name stands for the build before it, so what comes before that means another one.
    for (name, nested) in spec.builds.iter().rev() {
        names.remove(name.as_bstr());
        names.extend(names_from_outside(nested));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_needs_what_it_copies_from_unless_it_has_that_itself() {
        let text = "((build a ((from x)))
            (build b ((from x) (copy (from (build a)) (src f) (dst f))))
            (build c ((build d ((from x) (copy (from (build a)) (src f) (dst f)))) (from x)))
            (build e ((build a ((from x))) (from x) (copy (from (build a)) (src f) (dst f))))
            (build f ((build g ((from x) (copy (from (build b)) (src f) (dst f))))
                      (build b ((from x))) (from x) (copy (from (build b)) (src f) (dst f))))
            (from x) (copy (from (build a)) (src f) (dst f)))";
        let spec = Spec::parse(text.as_bytes()).unwrap();
        let needs: Vec<_> = (0..spec.builds.len()).map(|at| needs(&spec.builds, at)).collect();
        assert_eq!(needs, [vec![], vec![0], vec![0], vec![], vec![1]]);
        assert!(names_from_outside(&spec).is_empty());
    }

    #[test]
    fn one_slot_means_one_after_the_other() {
        for (slots, helpers) in [(0, 0), (1, 0), (2, 3), (usize::MAX, MOST_HELPERS)] {
            assert_eq!(Helpers::new(slots).0.into_inner(), helpers, "{slots} slots");
        }
    }
}
