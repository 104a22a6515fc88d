//! What the interpreter does with a spec: contexts, nested builds, images, secrets, caches, failures, plans.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod support;

use std::fs;
use std::sync::{Arc, Mutex};

use obuilder_core::cache::ResultCache;
use obuilder_core::error::SandboxError;
use obuilder_core::interpreter::{BuildError, Kind, Options, PlanState};
use obuilder_core::spec::User;
use obuilder_core::step::{Outcome, Step};
use obuilder_core::testing::strict_sandbox::StrictSandbox;
use obuilder_core::{Cancel, Store};
use support::{World, chain, spec};

/// A sandbox that remembers its steps.
fn recording() -> (StrictSandbox, Arc<Mutex<Vec<Step>>>) {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = steps.clone();
    let sandbox = StrictSandbox::new(move |call| {
        seen.lock().unwrap().push(call.step.clone());
        Ok(Outcome::Exited(0))
    });
    (sandbox, steps)
}

#[test]
fn operations_change_what_later_commands_run_in() {
    let (sandbox, steps) = recording();
    let world = World::new(sandbox);
    let text =
        "((from image) (run (shell first)) (env A 1) (env B 2) (env A 3) (workdir /w) (workdir sub)
        (shell /bin/sh -c) (user (uid 7) (gid 8)) (run (network host) (shell second)))";
    world.build(text).0.unwrap();
    let steps = steps.lock().unwrap();
    let env = |step: &Step| {
        step.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(steps[0].argv, ["/usr/bin/env", "bash", "-c", "first"]);
    assert_eq!(
        (steps[0].workdir.to_string(), env(&steps[0])),
        ("/".into(), "IMAGE=yes PATH=/bin".into())
    );
    assert_eq!(steps[1].argv, ["/bin/sh", "-c", "second"]);
    assert_eq!(
        (steps[1].workdir.to_string(), env(&steps[1])),
        ("/w/sub".into(), "A=3 B=2 IMAGE=yes PATH=/bin".into())
    );
    assert_eq!(
        (steps[1].user.clone(), &steps[1].network[..]),
        (User::Ids { uid: 7, gid: 8 }, &["host".into()][..])
    );
    world.store.assert_nothing_held();
}

#[test]
fn the_callers_environment_comes_before_the_images() {
    let (sandbox, steps) = recording();
    let world = World::new(sandbox);
    let mut context = world.context();
    context.env.push(("IMAGE".into(), "mine".into()));
    world
        .build_with("((from image) (run (shell x)))", &context, &Options::default(), &Cancel::new())
        .0
        .unwrap();
    assert_eq!(steps.lock().unwrap()[0].env[0], ("IMAGE".into(), "mine".into()));
    assert_eq!(steps.lock().unwrap()[0].env.len(), 2, "a name that stands twice is given once");
}

#[test]
fn a_second_build_runs_nothing_and_says_the_same() {
    let world = World::echo();
    let text = "((from image) (run (shell one)) (comment c) (run (shell two)))";
    let (first, said) = world.build(text);
    let begun = world.store.begun().len();
    let (second, again) = world.build(text);
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(world.store.begun().len(), begun);
    assert_eq!(again.text(), said.text().replace("saved", "cached"));
    assert_eq!(again.count("cached"), 3);
}

#[test]
fn a_nested_build_starts_from_the_initial_context() {
    let (sandbox, steps) = recording();
    let world = World::new(sandbox);
    let text = "((build a ((from image) (env X 1) (workdir /a) (run (shell in-a))))
        (build b ((from image) (run (shell in-b)) (copy (from (build a)) (src image) (dst /got))))
        (from image) (copy (from (build b)) (src got) (dst /here/)) (run (shell last)))";
    let (result, said) = world.build(text);
    let tree = world.store.result(&result.unwrap()).unwrap().unwrap().rootfs();
    assert!(tree.join("here/got").is_file());
    let steps = steps.lock().unwrap();
    assert_eq!((steps[1].workdir.to_string(), steps[1].env.len()), ("/".into(), 2));
    assert!(said.text().starts_with("(build \"a\" …)\n(from image)\n"), "{}", said.text());
    assert_eq!(said.count("--> finished"), 2);
}

#[test]
fn a_changed_image_retires_what_stands_on_it() {
    let world = World::echo();
    let text = "((from image) (run (shell one)))";
    world.image.change("old");
    let first = world.build(text).0.unwrap();
    world.image.touch();
    assert_eq!(world.build(text).1.count("cached"), 2, "the same image with a new stamp");

    world.image.change("new");
    let (again, said) = world.build(text);
    assert_eq!(again.unwrap(), first, "ids do not depend on it");
    assert!(said.text().contains("warning: the base image `image` has changed"), "{}", said.text());
    assert_eq!((said.count("cached"), said.count("saved")), (0, 2));
    let tree = world.store.result(&first).unwrap().unwrap().rootfs();
    assert_eq!(fs::read_to_string(tree.join("image")).unwrap(), "new");
    assert_eq!(world.build(text).1.count("cached"), 2);
}

#[test]
fn an_image_that_cannot_be_seen_fails_the_builds_that_insist() {
    let world = World::echo();
    let text = "((from image) (run (shell one)))";
    world.build(text).0.unwrap();
    world.image.lose(false);
    assert_eq!(world.build(text).1.count("cached"), 2);
    world.image.lose(true);
    let error = world.build(text).0.unwrap_err();
    assert_eq!(error.kind(), Kind::System);
    assert!(chain(&error).contains("failed to ask the registry: no answer"), "{}", chain(&error));
}

#[test]
fn a_changed_image_waits_for_builds_that_still_use_the_old_one() {
    let world = World::echo();
    let text = "((from image) (run (shell one)))";
    let id = world.build(text).0.unwrap();
    let pin = world.store.result(&id).unwrap().unwrap();
    world.image.change("new");
    let said = support::Transcript::default();
    std::thread::scope(|scope| {
        let build = scope.spawn(|| {
            world.builder.build(
                &spec(text),
                &world.context(),
                &Options::default(),
                &Cancel::new(),
                &said,
            )
        });
        said.wait_for("another build still uses it");
        drop(pin);
        build.join().unwrap().unwrap();
    });
    assert_eq!(said.count("saved"), 2);
}

/// A step that was under way on the old image must not come back as a result of the new one.
#[test]
fn a_changed_image_retires_what_is_built_on_it_meanwhile() {
    let (sender, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let world = World::new(StrictSandbox::new(move |call| {
        call.log.write(b"begun ").unwrap();
        gate.lock().unwrap().recv().unwrap();
        call.log.write(&fs::read(call.tree.join("image")).unwrap()).unwrap();
        Ok(Outcome::Exited(0))
    }));
    world.image.change("old");
    let text = "((from image) (run (shell slow)))";
    let (first, second) = (support::Transcript::default(), support::Transcript::default());
    let build = |said| {
        world.builder.build(
            &spec(text),
            &world.context(),
            &Options::default(),
            &Cancel::new(),
            said,
        )
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(|| build(&first));
        first.wait_for("begun");
        world.image.change("new");
        let two = scope.spawn(|| build(&second));
        second.wait_for("another build still uses it");
        sender.send(()).unwrap();
        one.join().unwrap().unwrap();
        sender.send(()).unwrap();
        two.join().unwrap().unwrap();
    });
    assert!(first.text().ends_with("begun oldsaved\n"), "{}", first.text());
    assert!(second.text().ends_with("begun newsaved\n"), "{}", second.text());
}

#[test]
fn the_image_is_known_again_after_the_index_was_lost() {
    let world = World::echo();
    let text = "((from image) (run (shell one)))";
    world.image.change("old");
    let id = world.build(text).0.unwrap();
    let entry = world.cache.entry(&id).unwrap().unwrap();
    let World { dir, store, image, mut builder, cache } = world;
    drop((cache, builder.cache));
    fs::remove_dir_all(dir.path().join("store/state/db")).unwrap();
    let (cache, _) = ResultCache::open(store.clone()).unwrap();
    let rebuilt = cache.entry(&id).unwrap().unwrap();
    assert_eq!(
        (rebuilt.parent, rebuilt.heading, rebuilt.elapsed),
        (entry.parent, entry.heading, entry.elapsed)
    );
    builder.cache = cache.clone();
    let world = World { dir, store, image, builder, cache };
    world.image.change("new");
    assert_eq!(world.build(text).1.count("saved"), 2, "the old import was recognised and retired");
}

#[test]
fn no_cache_builds_every_step_once_more() {
    let world = World::echo();
    let text = "((build a ((from image) (run (shell one)))) (from image) (run (shell one)) (run (shell two)))";
    world.build(text).0.unwrap();
    let options = Options { no_cache: true, ..Options::default() };
    let (result, said) = world.build_with(text, &world.context(), &options, &Cancel::new());
    result.unwrap();
    assert_eq!(
        (said.count("saved"), said.count("cached")),
        (2, 3),
        "the images stay, and the nested build's step is shared\n{}",
        said.text()
    );
    world.store.assert_nothing_held();
}

#[test]
fn no_cache_leaves_the_old_result_until_there_is_a_new_one() {
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let failing = fails.clone();
    let world = World::new(StrictSandbox::new(move |_| {
        Ok(Outcome::Exited(i32::from(failing.load(std::sync::atomic::Ordering::SeqCst))))
    }));
    let text = "((from image) (run (shell one)))";
    let other = world.build("((from image) (run (shell other)))").0.unwrap();
    let id = world.build(text).0.unwrap();
    fails.store(true, std::sync::atomic::Ordering::SeqCst);
    let options = Options { no_cache: true, ..Options::default() };
    world.build_with(text, &world.context(), &options, &Cancel::new()).0.unwrap_err();
    assert!(world.store.result(&id).unwrap().is_some());
    fails.store(false, std::sync::atomic::Ordering::SeqCst);
    world.build_with(text, &world.context(), &options, &Cancel::new()).0.unwrap();
    assert!(world.store.result(&other).unwrap().is_some(), "other builds keep what is theirs");
}

#[test]
fn a_result_remembers_what_its_step_ran_in() {
    let world = World::echo();
    let text = "((from image) (env A b) (workdir /w) (run (network host) (shell one)))";
    let id = world.build(text).0.unwrap();
    let surroundings = world.cache.surroundings(&id).unwrap();
    assert_eq!(
        (surroundings.workdir.as_str(), &surroundings.network[..]),
        ("/w", &["host".to_owned()][..])
    );
    assert_eq!(surroundings.env[0], ("A".into(), "b".into()));
    assert_eq!(surroundings.env.len(), 3, "with the image's");
}

#[test]
fn secrets_reach_the_step_and_a_missing_one_is_an_error_before_anything_runs() {
    let (sandbox, steps) = recording();
    let world = World::new(sandbox);
    let text =
        "((from image) (run (shell one)) (run (secrets (key (target /run/key))) (shell two)))";
    let error = world.build(text).0.unwrap_err();
    assert_eq!(error.kind(), Kind::Spec);
    assert_eq!(
        chain(&error),
        "step `/: (run (secrets (key (target /run/key)))\n        (shell two))` asks for the secret `key`, which was not given"
    );
    assert_eq!(error.hint().unwrap(), "give it with `--secret key:FILE`");
    assert_eq!(world.store.begun(), []);

    let mut context = world.context();
    context.secrets.push(("key".into(), "value".into()));
    let first = world.build_with(text, &context, &Options::default(), &Cancel::new()).0.unwrap();
    assert_eq!(steps.lock().unwrap()[1].secrets[0].value, "value");
    assert!(
        !format!("{:?}", steps.lock().unwrap()[1]).contains("\"value\""),
        "a secret is never shown"
    );
    context.secrets[0].1 = "other".into();
    let second = world.build_with(text, &context, &Options::default(), &Cancel::new()).0.unwrap();
    assert_ne!(first, second, "the value is part of the id, as in OBuilder");
}

#[test]
fn a_cache_outlives_its_step_also_when_that_fails() {
    let world = World::new(StrictSandbox::new(|call| {
        let file = call.step.caches[0].dir.join("n");
        let seen = fs::read_to_string(&file).unwrap_or_default();
        fs::write(&file, format!("{seen}x")).unwrap();
        call.log.write(format!("seen {seen}.\n").as_bytes()).unwrap();
        Ok(Outcome::Exited(i32::from(call.command() == "bad")))
    }));
    let text =
        |command: &str| format!("((from image) (run (cache (c (target /c))) (shell {command})))");
    assert!(world.build(&text("one")).1.text().contains("seen .\n"));
    assert!(world.build(&text("bad")).1.text().contains("seen x.\n"));
    assert!(world.build(&text("two")).1.text().contains("seen xx.\n"));
    world.store.assert_nothing_held();
}

#[test]
fn a_failed_step_says_how_and_leaves_its_log_and_on_demand_its_tree() {
    let world = World::new(StrictSandbox::new(|call| {
        call.log.write(b"what it said\n").unwrap();
        fs::write(call.tree.join("left"), "here").unwrap();
        Ok(if call.command() == "kill" { Outcome::Signalled(9) } else { Outcome::Exited(3) })
    }));
    let (result, said) = world.build("((from image) (run (shell fail)))");
    let error = result.unwrap_err();
    assert_eq!(
        chain(&error),
        "step `/: (run (shell fail))` failed: the command ended with exit status 3"
    );
    assert_eq!(error.kind(), Kind::Step);
    assert!(said.text().ends_with("what it said\nfailed\n"));
    let BuildError::Step { id, kept: false, .. } = error else { panic!("{error:?}") };
    let mut log = world.cache.log(&id).unwrap();
    assert!(log.failed);
    assert_eq!(std::io::read_to_string(&mut log.file).unwrap(), "what it said\n");
    assert_eq!(world.cache.find(&id.as_str()[..8]).unwrap(), id);
    assert_eq!(world.store.kept_ids().unwrap(), []);

    let options = Options { keep_failed: true, ..Options::default() };
    let (result, _) = world.build_with(
        "((from image) (run (shell kill)))",
        &world.context(),
        &options,
        &Cancel::new(),
    );
    let error = result.unwrap_err();
    assert!(
        chain(&error).ends_with("the command was killed by signal 9 (SIGKILL)"),
        "{}",
        chain(&error)
    );
    assert!(error.hint().unwrap().starts_with("`obuild shell "));
    let BuildError::Step { id, kept: true, .. } = error else { panic!("{error:?}") };
    let tree = world.store.kept(&id).unwrap().unwrap();
    assert_eq!(fs::read_to_string(tree.rootfs().join("left")).unwrap(), "here");
    drop(tree);
    assert!(world.cache.delete(&id).unwrap());
    assert_eq!(world.store.kept_ids().unwrap(), []);
    world.store.assert_nothing_held();
}

#[test]
fn what_the_sandbox_cannot_do_is_an_error_before_anything_runs() {
    let world = World::new(StrictSandbox::echo());
    let (result, said) =
        world.build("((from image) (run (shell one)) (user (name somebody)) (run (shell two)))");
    let error = result.unwrap_err();
    assert!(
        matches!(error, BuildError::Unsupported { source: SandboxError::Unsupported { .. }, .. }),
        "{error:?}"
    );
    assert_eq!(said.text(), "");
}

#[test]
fn an_unknown_image_is_named_with_those_there_are() {
    let world = World::echo();
    let error = world.build("((from nowhere) (run (shell one)))").0.unwrap_err();
    assert!(chain(&error).ends_with("there is no base image `nowhere`"), "{}", chain(&error));
    assert_eq!((error.kind(), error.hint().as_deref()), (Kind::Spec, Some("known is `image`")));
    world.store.assert_nothing_held();
}

#[test]
fn a_cancelled_build_stops_its_step_and_leaves_nothing() {
    let world = World::new(StrictSandbox::new(|call| {
        call.log.write(b"begun\n").unwrap();
        call.cancel.wait_timeout(std::time::Duration::from_secs(60));
        Ok(Outcome::Cancelled)
    }));
    let (cancel, said) = (Cancel::new(), support::Transcript::default());
    std::thread::scope(|scope| {
        let build = scope.spawn(|| {
            let text = "((from image) (run (shell endless)) (run (shell never)))";
            world.builder.build(&spec(text), &world.context(), &Options::default(), &cancel, &said)
        });
        said.wait_for("begun");
        cancel.cancel();
        assert!(matches!(build.join().unwrap(), Err(BuildError::Cancelled)));
    });
    assert!(said.text().ends_with("cancelled\n"), "{}", said.text());
    world.store.assert_nothing_held();
    assert_eq!(world.cache.failures().unwrap(), []);
}

#[test]
fn a_plan_names_what_a_build_then_does() {
    let world = World::echo();
    world.write("file", "text");
    let text = "((build a ((from image) (run (shell one)))) (from image) (env X y) (copy (src file) (dst /f))
        (copy (from (build a)) (src image) (dst /i)) (run (shell two)))";
    let plan = |world: &World| world.builder.plan(&spec(text), &world.context()).unwrap().steps;
    let states = |world: &World| plan(world).into_iter().map(|step| step.state).collect::<Vec<_>>();
    let before = states(&world);
    assert_eq!(world.store.begun(), [], "a plan builds nothing");
    assert!(
        matches!(
            &before[..],
            [
                PlanState::Miss(_),
                PlanState::Miss(_), // a
                PlanState::Miss(_),
                PlanState::Context,
                PlanState::Miss(_),
                PlanState::Unknown(_),
                PlanState::Unknown(_),
            ]
        ),
        "{before:?}"
    );
    let got = world.build(text).0.unwrap();
    let after = states(&world);
    assert!(
        after.iter().all(|state| matches!(state, PlanState::Hit(_) | PlanState::Context)),
        "{after:?}"
    );
    assert_eq!(after.last(), Some(&PlanState::Hit(got)));
    for (before, after) in before.iter().zip(&after) {
        if let (PlanState::Miss(expected), PlanState::Hit(built)) = (before, after) {
            assert_eq!(expected, built);
        }
    }
    world.image.change("new");
    assert!(
        states(&world).iter().all(|state| !matches!(state, PlanState::Hit(_))),
        "all of it would go"
    );
    assert_eq!(plan(&world)[0].stage.0, ["a"]);
}
