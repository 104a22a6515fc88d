//! Many processes on one store: they follow each other's steps, share results, and take over from the dead.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{BOUND, Finished, Running, World, trees};
use nix::sys::signal::Signal;

const RESTARTED: &str = "\n---> whoever was building this step has gone; what it printed is void";

/// A spec whose one step prints `begins`, waits until the returned file is there, and goes on with `rest`.
fn gated(world: &World, begins: &str, rest: &str) -> (String, std::path::PathBuf) {
    let go = world.path("context/go");
    let spec = world.write("context/gated.scm", format!(
        "((from scratch) (run (shell \"printf '{begins}' line; until test -e {}; do sleep 0.02; done; {rest}\")))",
        go.display()
    ));
    (spec.display().to_string(), go)
}

/// How often `text` occurs.
fn count(finished: &Finished, text: &str) -> usize {
    finished.stdout.matches(text).count()
}

#[test]
fn whoever_waits_for_a_step_sees_its_log_live() {
    let world = World::without_views();
    let (spec, go) = gated(&world, "one %s\\\\n", "echo two; echo three > file");
    let args = ["build", &spec];
    world.build_ok("((from scratch))");
    let mut first = world.start(args);
    first.wait_for("one line\n");
    let mut others: Vec<_> = (0..3).map(|_| world.start(args)).collect();
    others.iter_mut().for_each(|other| other.wait_for("one line\n"));
    assert!(first.is_running() && others.iter_mut().all(Running::is_running));
    fs::write(go, "").unwrap();
    let first = first.finish().success();
    for other in others {
        let other = other.finish().success();
        assert_eq!(other.got(), first.got());
        assert_eq!(other.stdout, first.stdout, "not one byte twice, not one missing");
    }
    world.run(["build", &spec]).success().prints("from cache");
    world.assert_clean();
}

#[test]
fn a_step_that_fails_elsewhere_is_not_tried_by_all() {
    let world = World::without_views();
    let tries = world.path("context/tries");
    fs::write(&tries, "").unwrap();
    fs::set_permissions(&tries, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let (spec, go) =
        gated(&world, "one %s\\\\n", &format!("echo try >> {}; exit 7", tries.display()));
    let mut first = world.start(["build", &spec]);
    first.wait_for("one line\n");
    let mut second = world.start(["build", &spec]);
    let mut keeper = world.start(["build", "--keep-failed", &spec]);
    second.wait_for("one line\n");
    keeper.wait_for("one line\n");
    fs::write(go, "").unwrap();
    for build in [first, second] {
        let failed = build.finish().code(1).says("exit status 7");
        assert_eq!(count(&failed, "one line\n"), 1, "{failed:#?}");
    }
    // Who wants the tree must make it.
    let kept = keeper.finish().code(1).prints(RESTARTED);
    assert_eq!(count(&kept, "one line\n"), 2, "{kept:#?}");
    assert_eq!(fs::read_to_string(tries).unwrap(), "try\ntry\n");
    world.assert_clean();
}

#[test]
fn secrets_are_hidden_from_whoever_follows() {
    let world = World::without_views();
    let token = world.write("token", "a very secret word\n");
    let go = world.path("context/go");
    let spec = world.spec(&format!(
        "((from scratch) (run (secrets (token (target /run/token)))
           (shell \"echo it is $(cat $OBUILDER_SECRETS_DIR/token), yes; until test -e {}; do sleep 0.02; done\")))",
        go.display()
    ));
    let secret = format!("--secret=token:{}", token.display());
    let args = ["build", spec.to_str().unwrap(), &secret];
    let mut first = world.start([&args[..], &["--no-redact"]].concat());
    first.wait_for("it is a very secret word, yes");
    let mut second = world.start(args);
    second.wait_for("it is ***, yes\n");
    fs::write(go, "").unwrap();
    first.finish().success();
    second.finish().success().prints_not("secret word");
}

#[test]
fn another_takes_over_from_a_builder_that_is_killed() {
    let world = World::without_views();
    let (spec, go) = gated(&world, "half a %s", "echo; echo done > file");
    let args = ["build", &spec];
    let mut first = world.start(args);
    first.wait_for("half a line");
    let mut others: Vec<_> = (0..3).map(|_| world.start(args)).collect();
    others.iter_mut().for_each(|other| other.wait_for("half a line"));
    first.signal(Signal::SIGKILL);
    drop(first.finish().killed_by(Signal::SIGKILL));
    let again = format!("half a line{RESTARTED}, and the step begins afresh\nhalf a line");
    others.iter_mut().for_each(|other| other.wait_for(&again));
    fs::write(go, "").unwrap();
    for other in others {
        let other = other.finish().success();
        assert_eq!(count(&other, "half a line"), 2, "{other:#?}");
        assert_eq!(other.saved().len(), 1, "{other:#?}");
    }
    world.run(["ls"]).success();
    world.assert_clean();
}

/// Numbers that are different in every run, or the same ones for the same `OBUILD_TEST_SEED`.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let given = std::env::var("OBUILD_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()) * 0x9e37_79b9 + 1);
        common::tell(&format!("OBUILD_TEST_SEED={seed}"));
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Three specs with what they begin with in common.
fn overlapping(world: &World) -> Vec<String> {
    let ends = [
        "(run (shell \"cat a b > c; echo end 1\"))",
        "(run (cache (c (target c))) (shell \"echo x >> c/f; mkdir d; ln a d/l; ln -s a s\")) (copy (src data) (dst data))",
        "(copy (src data) (dst data)) (run (shell \"cat data/* > all; rm -r data\")) (run (shell \"echo end 3\"))",
    ];
    let one = |(n, end): (usize, &&str)| {
        let text = format!(
            "((from scratch) (run (shell \"for n in $(seq 300); do echo $n > $n; done; seq 1 2000 > a; seq 1 200\")) (run (shell \"cp a b; echo two\")) {end})"
        );
        world.write(&format!("context/spec-{n}.scm"), text).display().to_string()
    };
    ends.iter().enumerate().map(one).collect()
}

/// Eight builds at once, some of which are killed; those that are not must succeed.
fn round(
    world: &World,
    specs: &[String],
    expected: &[String],
    random: &mut Random,
    whole: Duration,
) {
    let pick: Vec<_> = (0..8).map(|_| random.below(specs.len() as u64) as usize).collect();
    let start = |which: &usize| Some(world.start(["build", &specs[*which]]));
    let mut builds: Vec<_> = pick.iter().map(start).collect();
    let begun = Instant::now();
    let span = u64::try_from(whole.as_millis()).unwrap().max(1) * 3;
    let mut kills: Vec<_> = (0..4)
        .map(|_| (Duration::from_millis(random.below(span)), random.below(8) as usize))
        .collect();
    kills.sort();
    for (moment, victim) in kills {
        std::thread::sleep(moment.saturating_sub(begun.elapsed()));
        if let Some(build) = builds[victim].take() {
            build.signal(Signal::SIGKILL);
            drop(build);
        }
    }
    for (build, which) in builds.into_iter().zip(pick) {
        if let Some(build) = build {
            assert_eq!(build.finish().success().got(), expected[which]);
        }
    }
}

#[test]
fn eight_processes_killed_at_random() {
    let rounds = std::env::var("OBUILD_TEST_ROUNDS").map_or(4, |text| text.parse().unwrap());
    let world = World::with_slots(if common::root_or_skip("two slots") { 2 } else { 1 });
    for n in 0..5 {
        world.write(&format!("context/data/{n}"), format!("{n}\n"));
    }
    let specs = overlapping(&world);
    let begun = Instant::now();
    let built: Vec<_> =
        specs.iter().map(|spec| world.run(["build", spec]).success().got()).collect();
    let whole = begun.elapsed();
    let undisturbed = trees::results(&world.store());
    let mut random = Random::new();
    for _ in 0..rounds {
        world.run(["clean"]).success();
        round(&world, &specs, &built, &mut random, whole);
        for (id, held) in trees::results(&world.store()) {
            assert_eq!(Some(&held), undisturbed.get(&id), "{id}");
        }
        let results = trees::inodes(&world.store().join("result"));
        for place in ["warm", "home"] {
            let shared = trees::inodes(&world.store().join(place)).intersection(&results).count();
            assert_eq!(shared, 0, "files of results in `{place}`, where steps write");
        }
    }
    for (spec, id) in specs.iter().zip(&built) {
        assert_eq!(&world.run(["build", spec]).success().got(), id);
    }
    assert_eq!(trees::results(&world.store()), undisturbed);
    let deadline = Instant::now() + BOUND;
    while !world.processes().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", world.processes());
    }
    world.assert_clean();
}
