//! Steps in progress that several clients want: shared outcome and log, cancelling, survivors.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod support;

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use obuilder_core::cache::{
    CacheError, Client, GcLimits, ResultCache, StepFailure, StepRequest, Work,
};
use obuilder_core::interpreter::{BuildError, Options};
use obuilder_core::progress::{Event, Observer, Stage, StepEnd};
use obuilder_core::step::Outcome;
use obuilder_core::testing::strict_sandbox::StrictSandbox;
use obuilder_core::{Cancel, ResultId, Store};
use support::{Transcript, World, spec};

const TEXT: &str = "((from image) (run (shell slow)))";

/// A sandbox whose steps print `begun`, then wait for one message (or their cancellation) each.
fn gated() -> (StrictSandbox, Sender<Outcome>, Arc<AtomicU32>) {
    let (sender, gate) = channel::<Outcome>();
    let (gate, runs) = (Mutex::new(gate), Arc::new(AtomicU32::new(0)));
    let counted = runs.clone();
    let sandbox = StrictSandbox::new(move |call| {
        counted.fetch_add(1, Ordering::SeqCst);
        call.log.write(b"begun\n").unwrap();
        let outcome = wait(&gate.lock().unwrap(), call.cancel);
        call.log.write(b"ended\n").unwrap();
        Ok(outcome)
    });
    (sandbox, sender, runs)
}

fn wait(gate: &Receiver<Outcome>, cancel: &Cancel) -> Outcome {
    loop {
        match gate.recv_timeout(Duration::from_millis(5)) {
            Ok(outcome) => return outcome,
            Err(_) if cancel.is_cancelled() => return Outcome::Cancelled,
            Err(_) => {}
        }
    }
}

fn build(world: &World, said: &Transcript, cancel: &Cancel) -> Result<ResultId, BuildError> {
    world.builder.build(&spec(TEXT), &world.context(), &Options::default(), cancel, said)
}

#[test]
fn two_builds_of_one_step_run_it_once_and_both_see_all_of_it() {
    let (sandbox, gate, runs) = gated();
    let world = World::new(sandbox);
    let (first, second) = (Transcript::default(), Transcript::default());
    thread::scope(|scope| {
        let one = scope.spawn(|| build(&world, &first, &Cancel::new()));
        first.wait_for("begun");
        let two = scope.spawn(|| build(&world, &second, &Cancel::new()));
        second.wait_for("begun");
        gate.send(Outcome::Exited(0)).unwrap();
        assert_eq!(one.join().unwrap().unwrap(), two.join().unwrap().unwrap());
    });
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert!(first.text().ends_with("begun\nended\nsaved\n"));
    assert!(second.text().ends_with("begun\nended\nsaved\n"));
    world.store.assert_nothing_held();
}

#[test]
fn a_failure_is_shared_too() {
    let (sandbox, gate, runs) = gated();
    let world = World::new(sandbox);
    let (first, second) = (Transcript::default(), Transcript::default());
    thread::scope(|scope| {
        let one = scope.spawn(|| build(&world, &first, &Cancel::new()));
        first.wait_for("begun");
        let two = scope.spawn(|| build(&world, &second, &Cancel::new()));
        second.wait_for("begun");
        gate.send(Outcome::Exited(4)).unwrap();
        for failed in [one.join().unwrap(), two.join().unwrap()] {
            assert!(support::chain(&failed.unwrap_err()).ends_with("exit status 4"));
        }
    });
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert_eq!(world.store.results().unwrap().len(), 1, "the image alone");
    world.store.assert_nothing_held();
}

#[test]
fn a_client_that_gives_up_leaves_the_others_their_step() {
    let (sandbox, gate, _) = gated();
    let world = World::new(sandbox);
    let (first, second, cancel) = (Transcript::default(), Transcript::default(), Cancel::new());
    thread::scope(|scope| {
        let one = scope.spawn(|| build(&world, &first, &cancel));
        first.wait_for("begun");
        let two = scope.spawn(|| build(&world, &second, &Cancel::new()));
        second.wait_for("begun");
        cancel.cancel();
        assert!(matches!(one.join().unwrap(), Err(BuildError::Cancelled)), "it leaves at once");
        gate.send(Outcome::Exited(0)).unwrap();
        two.join().unwrap().unwrap();
    });
    assert!(second.text().ends_with("begun\nended\nsaved\n"));
    world.store.assert_nothing_held();
}

/// Does not read on until it is told to, and has given up by then.
struct Slow {
    begun: Sender<()>,
    ended: Mutex<Receiver<()>>,
    cancel: Cancel,
}

impl Observer for Slow {
    fn event(&self, _: &Stage, event: Event<'_>) {
        if matches!(event, Event::Output { bytes: b"begun\n" }) {
            self.begun.send(()).unwrap();
            self.ended.lock().unwrap().recv().unwrap();
            self.cancel.cancel();
        }
    }
}

#[test]
fn whoever_gives_up_in_the_middle_of_the_log_is_cancelled_however_the_step_has_ended() {
    for outcome in [Outcome::Exited(4), Outcome::Exited(0)] {
        let (sandbox, gate, _) = gated();
        let world = World::new(sandbox);
        let ((begun, has_begun), (end, ended)) = (channel(), channel());
        let slow = Slow { begun, ended: Mutex::new(ended), cancel: Cancel::new() };
        let second = Transcript::default();
        thread::scope(|scope| {
            let (text, context, options) = (spec(TEXT), world.context(), Options::default());
            let builder = &world.builder;
            let slow = &slow;
            let one =
                scope.spawn(move || builder.build(&text, &context, &options, &slow.cancel, slow));
            has_begun.recv().unwrap();
            let two = scope.spawn(|| build(&world, &second, &Cancel::new()));
            second.wait_for("begun");
            gate.send(outcome).unwrap();
            assert_eq!(two.join().unwrap().is_ok(), outcome == Outcome::Exited(0));
            end.send(()).unwrap();
            let one = one.join().unwrap();
            assert!(matches!(one, Err(BuildError::Cancelled)), "{outcome:?}: {one:?}");
        });
        world.store.assert_nothing_held();
    }
}

#[test]
fn the_last_client_that_gives_up_takes_the_step_along_and_the_next_starts_afresh() {
    let (sandbox, gate, runs) = gated();
    let world = World::new(sandbox);
    let (first, second, cancel) = (Transcript::default(), Transcript::default(), Cancel::new());
    thread::scope(|scope| {
        let one = scope.spawn(|| build(&world, &first, &cancel));
        let two = scope.spawn(|| build(&world, &second, &cancel));
        first.wait_for("begun");
        second.wait_for("begun");
        cancel.cancel();
        for left in [one.join().unwrap(), two.join().unwrap()] {
            assert!(matches!(left, Err(BuildError::Cancelled)));
        }
    });
    world.store.assert_nothing_held();
    gate.send(Outcome::Exited(0)).unwrap();
    build(&world, &Transcript::default(), &Cancel::new()).unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

fn request(id: &ResultId, work: Work) -> StepRequest {
    let heading = "a step".to_owned();
    let surroundings = Default::default();
    StepRequest {
        id: id.clone(),
        base: None,
        heading,
        work,
        keep_failed: false,
        fresh: false,
        surroundings,
    }
}

fn obtain(
    cache: &Arc<ResultCache>,
    request: StepRequest,
    cancel: &Cancel,
    said: &Transcript,
) -> Result<StepEnd, Arc<StepFailure>> {
    let stage = Stage::default();
    cache.build(request, &Client { cancel, observer: said, stage: &stage }).map(|(_, end)| end)
}

#[test]
fn a_request_for_a_step_that_is_being_cancelled_waits_and_starts_afresh() {
    let world = World::echo();
    let id = ResultId::of(b"a step");
    let (release, released) = channel::<()>();
    let (stopping, told_to_stop) = channel::<bool>();
    let stubborn: Work = Box::new(move |workspace| {
        workspace.log.write(b"begun\n").unwrap();
        stopping.send(workspace.cancel.wait_timeout(Duration::from_secs(60))).unwrap();
        released.recv().unwrap();
        Err(StepFailure::Cancelled)
    });
    let (first, second, cancel) = (Transcript::default(), Transcript::default(), Cancel::new());
    thread::scope(|scope| {
        let one = scope.spawn(|| obtain(&world.cache, request(&id, stubborn), &cancel, &first));
        first.wait_for("begun");
        cancel.cancel();
        assert!(told_to_stop.recv().unwrap());
        let two = scope.spawn(|| {
            let work: Work = Box::new(|workspace| {
                workspace.log.write(b"afresh\n").map(|()| None).map_err(unreachable)
            });
            obtain(&world.cache, request(&id, work), &Cancel::new(), &second)
        });
        second.wait_for("waiting: the step is being cancelled");
        release.send(()).unwrap();
        assert!(matches!(*one.join().unwrap().unwrap_err(), StepFailure::Cancelled));
        assert_eq!(two.join().unwrap().unwrap(), StepEnd::Saved);
    });
    assert!(second.text().ends_with("afresh\nsaved\n"), "{}", second.text());
}

fn unreachable(error: std::io::Error) -> StepFailure {
    StepFailure::Command(error.to_string())
}

/// Fault 7 of the original: the survivor's copy failed with the context of the one who had left.
#[test]
fn a_survivor_does_the_work_its_own_way_when_that_of_one_who_left_fails() {
    let world = World::echo();
    let id = ResultId::of(b"a step");
    let (release, released) = channel::<()>();
    let theirs: Work = Box::new(move |workspace| {
        workspace.log.write(b"theirs\n").unwrap();
        released.recv().unwrap();
        Err(StepFailure::Command("the context has gone".into()))
    });
    let ours: Work = Box::new(|workspace| {
        workspace.log.write(b"ours\n").unwrap();
        fs::write(workspace.dir.join("rootfs/done"), "").unwrap();
        Ok(None)
    });
    let (first, second, cancel) = (Transcript::default(), Transcript::default(), Cancel::new());
    thread::scope(|scope| {
        let one = scope.spawn(|| obtain(&world.cache, request(&id, theirs), &cancel, &first));
        first.wait_for("theirs");
        let two = scope.spawn(|| obtain(&world.cache, request(&id, ours), &Cancel::new(), &second));
        second.wait_for("theirs");
        cancel.cancel();
        assert!(one.join().unwrap().is_err());
        release.send(()).unwrap();
        assert_eq!(two.join().unwrap().unwrap(), StepEnd::Saved);
    });
    assert_eq!(second.text(), "theirs\nrestarted\nours\nsaved\n");
    assert!(world.store.result(&id).unwrap().unwrap().rootfs().join("done").exists());
    assert_eq!(
        fs::read_to_string(world.store.result(&id).unwrap().unwrap().log()).unwrap(),
        "ours\n"
    );
    world.store.assert_nothing_held();
}

#[test]
fn a_panic_in_a_step_is_an_error_and_leaves_nothing() {
    let world = World::echo();
    let id = ResultId::of(b"a step");
    let said = Transcript::default();
    let work: Work = Box::new(|_| panic!("on purpose"));
    let failure = obtain(&world.cache, request(&id, work), &Cancel::new(), &said).unwrap_err();
    assert_eq!(failure.to_string(), "the step panicked: on purpose");
    world.store.assert_nothing_held();
}

/// As two processes would: each has a cache of its own on one store.
#[test]
fn of_two_processes_one_builds_and_the_other_waits() {
    let world = World::echo();
    let (other, _) = ResultCache::open(world.store.clone()).unwrap();
    let id = ResultId::of(b"a step");
    let (release, released) = channel::<()>();
    let work: Work = Box::new(move |workspace| {
        workspace.log.write(b"built once\n").unwrap();
        released.recv().unwrap();
        Ok(None)
    });
    let (first, second) = (Transcript::default(), Transcript::default());
    thread::scope(|scope| {
        let one = scope.spawn(|| obtain(&world.cache, request(&id, work), &Cancel::new(), &first));
        first.wait_for("built once");
        let never: Work = Box::new(|_| panic!("built twice"));
        let two = scope.spawn(|| obtain(&other, request(&id, never), &Cancel::new(), &second));
        second.wait_for("waiting: another process is building this step");
        second.wait_for("built once");
        release.send(()).unwrap();
        assert_eq!(one.join().unwrap().unwrap(), StepEnd::Saved);
        assert_eq!(two.join().unwrap().unwrap(), StepEnd::Saved);
    });
    assert!(second.text().ends_with("built once\nsaved\n"), "{}", second.text());
    assert_eq!(fs::read_dir(world.store.state_dir().join("locks")).unwrap().count(), 0);
}

#[test]
fn a_client_hears_what_its_step_waits_for_before_it_begins() {
    let world = World::echo();
    let id = ResultId::of(b"a step");
    let (release, released) = channel::<()>();
    let work: Work = Box::new(move |workspace| {
        (workspace.waiting)("a slot");
        released.recv().unwrap();
        workspace.log.write(b"begun\n").map(|()| None).map_err(unreachable)
    });
    let said = Transcript::default();
    thread::scope(|scope| {
        let build = scope.spawn(|| obtain(&world.cache, request(&id, work), &Cancel::new(), &said));
        said.wait_for("waiting: a slot");
        release.send(()).unwrap();
        build.join().unwrap().unwrap();
    });
    assert_eq!(said.text(), "waiting: a slot\nbegun\nsaved\n");
}

/// The original let a slow terminal hold a cancelled step; so did we.
#[test]
fn a_client_leaves_at_once_though_its_step_prints_faster_than_it_reads() {
    let world = World::echo();
    let id = ResultId::of(b"a step");
    let work: Work = Box::new(|workspace| {
        while !workspace.cancel.is_cancelled() {
            workspace.log.write(&[b'x'; 4096]).map_err(unreachable)?;
            workspace.cancel.wait_timeout(Duration::from_micros(50));
        }
        Err(StepFailure::Cancelled)
    });
    let (said, cancel) = (Transcript::default(), Cancel::new());
    thread::scope(|scope| {
        let build = scope.spawn(|| obtain(&world.cache, request(&id, work), &cancel, &said));
        said.wait_for("xxxx");
        cancel.cancel();
        assert!(matches!(*build.join().unwrap().unwrap_err(), StepFailure::Cancelled));
    });
    world.store.assert_nothing_held();
}

#[test]
fn what_is_left_of_failed_steps_is_collected_too() {
    let world = World::new(StrictSandbox::new(|call| {
        call.log.write(b"what it said\n").unwrap();
        Ok(Outcome::Exited(1))
    }));
    let options = Options { keep_failed: true, ..Options::default() };
    let (result, _) = world.build_with(TEXT, &world.context(), &options, &Cancel::new());
    let Err(BuildError::Step { id, kept: true, .. }) = result else { panic!("{result:?}") };
    let (result, _) = world.build(TEXT);
    assert!(
        matches!(result, Err(BuildError::Step { kept: false, .. })),
        "the older tree does not fit the new log"
    );
    let failure = world.cache.failures().unwrap().remove(0);
    assert_eq!((failure.id, failure.kept), (id.clone(), false));
    let limits = GcLimits { older_than: Some(Duration::ZERO), ..GcLimits::default() };
    let report = world.cache.gc(&limits, false).unwrap();
    assert_eq!(report.deleted[0], (id, "what it said\n".len() as u64));
    assert_eq!(world.cache.failures().unwrap(), []);
    assert_eq!(fs::read_dir(world.store.state_dir().join("failed-logs")).unwrap().count(), 0);
}

#[test]
fn many_builds_at_once_end_alike_whoever_is_cancelled() {
    let world = World::echo();
    let text = "((build a ((from image) (run (shell one)) (run (shell two)))) (from image) (run (shell one))
        (copy (from (build a)) (src image) (dst /x)) (run (shell three)))";
    let results: Vec<_> = thread::scope(|scope| {
        let builds: Vec<_> = (0..16)
            .map(|n| {
                let world = &world;
                scope.spawn(move || {
                    let cancel = Cancel::new();
                    if n % 3 == 0 {
                        cancel.cancel();
                    }
                    world.build_with(text, &world.context(), &Options::default(), &cancel).0.ok()
                })
            })
            .collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    let done: Vec<_> = results.into_iter().flatten().collect();
    assert_eq!(done.len(), 10);
    assert!(done.iter().all(|id| *id == done[0]));
    world.store.assert_nothing_held();
    let mut begun = world.store.begun();
    begun.sort();
    begun.dedup();
    assert_eq!(begun.len(), world.store.results().unwrap().len());
}

#[test]
fn collection_goes_by_last_use_and_says_why_it_keeps() {
    let world = World::echo();
    let old = world.build("((from image) (run (shell old)))").0.unwrap();
    let new = world.build("((from image) (run (shell new)))").0.unwrap();
    let pin = world.store.result(&old).unwrap();
    let all = GcLimits { max_size: Some(0), ..GcLimits::default() };
    let dry = world.cache.gc(&all, true).unwrap();
    assert_eq!(dry.deleted.len(), 3, "{dry:?}");
    assert_eq!(world.store.results().unwrap().len(), 3);

    let report = world.cache.gc(&all, false).unwrap();
    assert_eq!(report.deleted.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&new]);
    let why = |id: &ResultId| report.kept.iter().find(|(kept, _)| kept == id).unwrap().1.clone();
    assert_eq!(why(&old), "a build uses it");
    let image = world.cache.entry(&old).unwrap().unwrap().parent.unwrap();
    assert_eq!(why(&image), format!("{} stands on it", old.short()));
    drop(pin);
    assert_eq!(world.cache.gc(&GcLimits::default(), false).unwrap().deleted, []);
    assert_eq!(world.cache.clean().unwrap().deleted.len(), 2);
    assert_eq!(world.cache.entries().unwrap(), []);
}

#[test]
fn what_was_used_lately_can_be_spared() {
    let world = World::echo();
    let id = world.build("((from image) (run (shell one)))").0.unwrap();
    let all = GcLimits { max_size: Some(0), ..GcLimits::default() };
    let hour = Some(Duration::from_secs(3600));
    let report = world.cache.gc(&GcLimits { spare: hour, ..all }, false).unwrap();
    assert_eq!(report.deleted, []);
    assert!(report.kept.iter().any(|(kept, why)| *kept == id && why.contains("which is lately")));
    let none = Some(Duration::ZERO);
    assert_eq!(world.cache.gc(&GcLimits { spare: none, ..all }, false).unwrap().deleted.len(), 2);
}

#[test]
fn results_are_deleted_leaf_first_and_found_by_their_beginning() {
    let world = World::echo();
    let id = world.build("((from image) (run (shell one)))").0.unwrap();
    let image = world.cache.entry(&id).unwrap().unwrap().parent.unwrap();
    assert!(
        matches!(world.cache.delete(&image), Err(CacheError::HasChildren { children, .. }) if children == [id.clone()])
    );
    assert_eq!(world.cache.find(&id.as_str()[..6]).unwrap(), id);
    assert!(matches!(world.cache.find("xyz"), Err(CacheError::NotAnId(_))));
    assert!(matches!(world.cache.find(""), Err(CacheError::NotAnId(_))));
    let wrong = format!("{}0123456789", &id.as_str()[..4]);
    assert!(
        matches!(world.cache.find(&wrong), Err(CacheError::UnknownId { nearest: Some(near), .. }) if near == id)
    );
    assert_eq!(world.cache.delete_tree(&image).unwrap(), [id.clone(), image]);
    assert!(!world.cache.delete(&id).unwrap(), "there is nothing left to delete");
}
