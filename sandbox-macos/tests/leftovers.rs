//! What a step, or a killed `obuild`, leaves behind: nothing.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "only tests are here"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::{TestUser, is_root, needs_root, told};
use obuilder_core::error::SandboxError;
use obuilder_core::step::{CacheMount, Outcome, SecretMount, Step};
use obuilder_core::testing::sandbox::step;
use obuilder_core::{BuildLog, Cancel, Sandbox};
use sandbox_macos::{Account, BuildUserSandbox, Config, Isolation};

const LONG: Duration = Duration::from_secs(20);

fn secret(target: &str, value: &str) -> SecretMount {
    SecretMount { id: "s".into(), target: target.into(), value: value.into() }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < LONG, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn secrets_outside_the_home_are_in_their_directory_alone() {
    let user = TestUser::new();
    let fixture = user.fixture();
    let mut step = step(
        "cd $OBUILDER_SECRETS_DIR && stat -c '%a %U' . one && cat one two; [ ! -e /run/secrets/one ]",
    );
    step.secrets = vec![secret("/run/secrets/one", "1\n"), secret("in/the/home/two", "2\n")];
    fixture.sandbox.check(&step).unwrap();
    let tree = fixture.tree("tree");
    let (outcome, text) = fixture.run(&step, &tree);
    let name = if is_root() { user.name() } else { whoami() };
    let mode = if is_root() { 500 } else { 700 };
    let expected = format!("{mode} {name}\n400 {name}\n1\n2\n");
    assert_eq!((outcome, text), (Outcome::Exited(0), expected));
    assert_eq!(fs::read_dir(&tree).unwrap().count(), 0);
    assert_eq!(user.left_behind(), Vec::<String>::new());
    step.secrets.push(secret("/elsewhere/one", "3"));
    let error = fixture.sandbox.check(&step).unwrap_err();
    assert_eq!(error.to_string(), "two secrets have the target `one`");
}

fn whoami() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

#[test]
fn a_cache_outside_the_home_is_refused_with_a_hint() {
    let user = TestUser::new();
    let mut step = step("true");
    step.caches = vec![CacheMount { id: "c".into(), dir: "".into(), target: "/var/cache".into() }];
    let Err(SandboxError::Unsupported { what, hint }) = user.sandbox().check(&step) else {
        panic!("it was not refused");
    };
    let home = user.config.home.display();
    assert_eq!(what, format!("cache target `/var/cache` is outside the home `{home}`"));
    assert!(hint.contains(&format!("below `{home}`")), "{hint}");
    step.caches[0].target = "/usr/local/cache".into();
    user.sandbox().check(&step).unwrap();
}

#[test]
fn planted_symlinks_lead_nobody_out_of_the_tree() {
    let user = TestUser::new();
    let fixture = user.fixture();
    let (tree, outside) = (fixture.tree("tree"), user.dir().join("scratch/outside"));
    fs::create_dir_all(outside.join("c")).unwrap();
    fs::write(outside.join("one"), "not a secret").unwrap();
    std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
    let lease = user.dir().join("scratch/lease");
    fs::create_dir(&lease).unwrap();
    let mut cached = step("true");
    cached.caches =
        vec![CacheMount { id: "c".into(), dir: lease.clone(), target: "link/c".into() }];
    let mut shown = step("true");
    shown.secrets = vec![secret("link/one", "a secret")];
    for step in [&cached, &shown] {
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        let refused = fixture.sandbox.run(step, &tree, &log, &Cancel::new(), &|_| {});
        let error = told(&refused.unwrap_err());
        assert!(error.contains("`link` in the tree is no directory"), "{error}");
    }
    // A link that comes while the step runs: what is outside is neither taken for the cache nor for the secret.
    let plant = format!("mv sub moved && ln -s {} sub", outside.display());
    let mut planted = step(&plant);
    planted.caches = vec![CacheMount { target: "sub/c".into(), ..cached.caches[0].clone() }];
    planted.secrets = vec![secret("sub/one", "a secret")];
    assert_eq!(fixture.run(&planted, &tree).0, Outcome::Exited(0));
    assert_eq!(fs::read_to_string(outside.join("one")).unwrap(), "not a secret");
    assert!(outside.join("c").is_dir() && lease.is_dir() && tree.is_dir());
    assert_eq!(user.left_behind(), Vec::<String>::new());
}

#[test]
fn what_a_cache_or_secret_covers_comes_back() {
    let user = TestUser::without_world();
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    fs::create_dir_all(tree.join("a/cache")).unwrap();
    fs::write(tree.join("a/cache/own"), "own").unwrap();
    fs::write(tree.join("a/one"), "own").unwrap();
    let lease = user.dir().join("scratch/lease");
    fs::create_dir(&lease).unwrap();
    let mut step = step("cat a/one; rm -rf a; mkdir a; echo x > a/one");
    step.caches = vec![CacheMount { id: "c".into(), dir: lease.clone(), target: "a/cache".into() }];
    step.secrets = vec![secret("a/one", "secret\n")];
    assert_eq!(fixture.run(&step, &tree), (Outcome::Exited(0), "secret\n".into()));
    assert_eq!(fs::read_to_string(tree.join("a/cache/own")).unwrap(), "own");
    assert_eq!(fs::read_to_string(tree.join("a/one")).unwrap(), "own");
    assert!(lease.is_dir(), "a lease is there again, though the step has removed the cache");
}

#[test]
fn a_second_step_says_what_it_waits_for_and_can_be_cancelled() {
    let user = TestUser::new();
    let fixture = user.fixture();
    let (first, second) = (fixture.tree("first"), fixture.tree("second"));
    let cancel = Cancel::new();
    let told = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| fixture.run_with(&step("sleep 1000"), &first, &cancel).0);
        until("the first step runs", || user.config.home.exists());
        let impatient = Cancel::new();
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        let waiting = |what: &str| {
            told.lock().unwrap().push(what.to_owned());
            impatient.cancel();
        };
        // Another process would have a sandbox of its own.
        let outcome = user.sandbox().run(&step("true"), &second, &log, &impatient, &waiting);
        assert_eq!(outcome.unwrap(), Outcome::Cancelled);
        cancel.cancel();
        assert_eq!(running.join().unwrap(), Outcome::Cancelled);
    });
    let told = told.into_inner().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("another step"), "{told:?}");
}

/// Where the process that is to be killed finds its settings.
const VICTIM: &str = "OBUILD_TEST_VICTIM";

/// No test, but what [`a_killed_run_is_cleared_by_the_next`] runs in a process of its own.
#[test]
fn victim() {
    let Ok(settings) = std::env::var(VICTIM) else { return };
    let [dir, uid] = settings.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let sandbox =
        BuildUserSandbox::new(victims_config(Path::new(dir), uid.parse().unwrap())).unwrap();
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    let step = victims_step(Path::new(dir));
    sandbox
        .run(&step, &Path::new(dir).join("scratch/tree/rootfs"), &log, &Cancel::new(), &|_| {})
        .unwrap();
}

fn victims_config(dir: &Path, uid: u32) -> Config {
    let mut config = Config::new(dir.join("home"));
    (config.users, config.lock_dir) = (Account::several("obt", uid, 1), dir.join("locks"));
    config
}

fn victims_step(dir: &Path) -> Step {
    let mut step = step(
        "trap '' TERM HUP; mkfifo alive; exec 3<>alive; (setsid sleep 1000 &); echo x > ready; sleep 1000",
    );
    step.secrets = vec![secret("one", "1")];
    let lease = dir.join("scratch/lease");
    fs::create_dir_all(&lease).unwrap();
    step.caches = vec![CacheMount { id: "c".into(), dir: lease, target: "cache".into() }];
    step
}

#[test]
fn a_killed_run_is_cleared_by_the_next() {
    let user = TestUser::new();
    let fixture = user.fixture();
    fixture.tree("tree");
    let home = &user.config.home;
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args(["--exact", "victim", "--nocapture"]).stdout(Stdio::null()).stderr(Stdio::null());
    victim.env(VICTIM, format!("{} {}", user.dir().display(), user.uid()));
    let mut victim = victim.spawn().unwrap();
    until("the victim's step runs", || home.join("ready").exists());
    // Held open, the pipe is still there to ask when the tree has been removed.
    let alive = fs::File::options().read(true).write(true).open(home.join("alive")).unwrap();
    drop(alive);
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(home.join("ready").exists());
    let next = fixture.run(&step("ls -A; ps -o pid= -u $(id -u) | wc -l"), &fixture.tree("next"));
    assert_eq!(next.0, Outcome::Exited(0));
    if is_root() {
        // The shell, ps and wc; zombies may stay for as long as nobody reaps them.
        let alive = sleepers(user.uid());
        assert_eq!(alive, 0, "a sleeper of the killed step lives");
    }
    assert!(!next.1.contains("ready"), "{}", next.1);
    assert_eq!(user.left_behind(), Vec::<String>::new());
}

fn sleepers(uid: u32) -> usize {
    let ps =
        Command::new("ps").args(["-o", "stat=,comm=", "-u", &uid.to_string()]).output().unwrap();
    let text = String::from_utf8(ps.stdout).unwrap();
    text.lines().filter(|line| line.contains("sleep") && !line.starts_with('Z')).count()
}

#[test]
fn a_killed_run_takes_its_step_with_it_when_not_root() {
    if is_root() {
        return eprintln!("SKIP: only without root does a keeper stand by");
    }
    let user = TestUser::new();
    let fixture = user.fixture();
    fixture.tree("tree");
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args(["--exact", "victim", "--nocapture"]).stdout(Stdio::null()).stderr(Stdio::null());
    victim.env(VICTIM, format!("{} {}", user.dir().display(), user.uid()));
    let mut victim = victim.spawn().unwrap();
    let alive = user.config.home.join("alive");
    until("the victim's step runs", || user.config.home.join("ready").exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
    let nobody = || rustix::fs::open(&alive, flags, rustix::fs::Mode::empty()).is_err();
    until("the keeper has killed the step", nobody);
}

#[test]
fn a_step_that_kills_its_keeper_is_an_error() {
    if is_root() {
        return eprintln!("SKIP: only without root does a keeper stand by");
    }
    // One that is kept to its policy cannot.
    let user = TestUser::without_world();
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    let murder = step("kill -9 $PPID");
    let refused = fixture.sandbox.run(&murder, &tree, &log, &Cancel::new(), &|_| {});
    assert!(told(&refused.unwrap_err()).contains("their keeper was killed"));
    assert_eq!(
        fixture.run(&step("ls -A"), &fixture.tree("next")),
        (Outcome::Exited(0), String::new())
    );
}

#[test]
fn a_fork_bomb_ends_with_its_step() {
    if !needs_root() {
        return;
    }
    let user = TestUser::new();
    let fixture = user.fixture();
    // Only where the limit is in force; without one, this would take the machine down.
    let mut bomb = step("");
    let limited = "ulimit -u 150 && [ \"$(ulimit -u)\" = 150 ] || exit 9";
    let explode = "f() { while :; do f & done; }; f 2>/dev/null; wait";
    bomb.argv = ["/bin/bash", "-c"].map(Into::into).to_vec();
    bomb.argv.push(format!("{limited}; {explode}").into());
    bomb.timeout = Some(Duration::from_millis(300));
    let started = Instant::now();
    let (outcome, _) = fixture.run(&bomb, &fixture.tree("tree"));
    assert_eq!(outcome, Outcome::TimedOut(Duration::from_millis(300)));
    assert!(started.elapsed() < LONG);
}

#[test]
fn a_step_cannot_stop_who_kills_it() {
    if !needs_root() {
        return;
    }
    if !Path::new("/usr/bin/perl").exists() {
        return eprintln!("SKIP: there is no perl to send signals fast");
    }
    let user = TestUser::new();
    let fixture = user.fixture();
    // In a session of its own, and for 20 seconds at most.
    let stop =
        "setsid perl -e '$end = time + 20; while (time < $end) { kill \"STOP\", -1 }' & sleep 20";
    let mut stopper = step(stop);
    stopper.timeout = Some(Duration::from_millis(200));
    for round in 0..5 {
        let started = Instant::now();
        let (outcome, text) = fixture.run(&stopper, &fixture.tree(&format!("tree{round}")));
        assert_eq!(outcome, Outcome::TimedOut(Duration::from_millis(200)), "{text}");
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
}

#[test]
fn what_was_started_between_steps_does_not_run_beside_the_next() {
    if !needs_root() {
        return;
    }
    let user = TestUser::new();
    let fixture = user.fixture();
    assert_eq!(fixture.sh("true").0, Outcome::Exited(0));
    // As cron would.
    let mut job = Command::new("sleep");
    std::os::unix::process::CommandExt::uid(&mut job, user.uid());
    let mut job = job.arg("20").spawn().unwrap();
    let (outcome, text) = fixture.sh("ps -o stat=,comm= -u $(id -u)");
    assert_eq!(outcome, Outcome::Exited(0));
    let alive = text.lines().filter(|line| line.contains("sleep") && !line.starts_with('Z'));
    assert_eq!(alive.count(), 0, "{text}");
    assert!(!job.wait().unwrap().success());
}

#[test]
fn a_user_is_not_removed_while_its_step_runs() {
    if !needs_root() {
        return;
    }
    let user = TestUser::new();
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| fixture.run(&step("sleep 0.5; echo done"), &tree));
        until("the step runs", || user.config.home.exists());
        assert_eq!(user.sandbox().remove_users(&|_| {}).unwrap(), [user.name()]);
        assert_eq!(running.join().unwrap(), (Outcome::Exited(0), "done\n".to_owned()));
    });
}

/// A sandbox whose build user may write beside its home, and so may move it.
fn loose(user: &TestUser) -> (BuildUserSandbox, Config) {
    let open = user.dir().join("scratch/open");
    fs::create_dir_all(&open).unwrap();
    fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    // With a view of its own, the step could not.
    let isolation = Isolation::Users;
    let config = Config { home: open.join("home"), isolation, ..user.config.clone() };
    (BuildUserSandbox::new(config.clone()).unwrap(), config)
}

#[test]
fn a_step_that_moves_its_home_leaves_no_secret_and_no_cache() {
    let user = TestUser::new();
    let tree = user.fixture().tree("tree");
    let (sandbox, config) = loose(&user);
    let lease = user.dir().join("scratch/lease");
    fs::create_dir(&lease).unwrap();
    let mut swap = step("test -s sub/one && mv ../home ../away && mkdir ../home");
    swap.secrets = vec![secret("sub/one", "a secret")];
    swap.caches = vec![CacheMount { id: "c".into(), dir: lease.clone(), target: "cache".into() }];
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    let error = told(&sandbox.run(&swap, &tree, &log, &Cancel::new(), &|_| {}).unwrap_err());
    assert!(error.contains("has been moved away by its step"), "{error}");
    let away = config.home.with_file_name("away");
    assert_eq!(fs::read_dir(&away).unwrap().count(), 0, "the tree is as it was");
    assert!(lease.is_dir());
    let beside = fs::read_dir(config.home.parent().unwrap()).unwrap();
    let mut names: Vec<_> = beside.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["away", "home", "home.lock"]);
}

#[test]
fn a_closed_directory_keeps_no_secret_and_no_cache_in_the_tree() {
    let user = TestUser::new();
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    fs::create_dir_all(tree.join("d/e")).unwrap();
    fs::write(tree.join("d/covered"), "own").unwrap();
    let lease = user.dir().join("scratch/lease");
    fs::create_dir(&lease).unwrap();
    let mut close = step("touch d/cache/x; chmod 555 d/cache; chmod 0 d/e; chmod 444 d");
    close.secrets = vec![
        secret("d/token", "a secret"),
        secret("d/e/two", "another"),
        secret("d/covered", "a third"),
    ];
    close.caches =
        vec![CacheMount { id: "c".into(), dir: lease.clone(), target: "d/cache".into() }];
    assert_eq!(fixture.run(&close, &tree), (Outcome::Exited(0), String::new()));
    let (outcome, text) = fixture.run(&step("stat -c %a d; chmod 755 d; stat -c %a d/e; chmod 755 d/e; find d | sort; cat d/covered"), &tree);
    assert_eq!((outcome, text.as_str()), (Outcome::Exited(0), "444\n0\nd\nd/covered\nd/e\nown"));
    assert!(lease.join("x").exists());
}

#[test]
fn what_comes_back_into_the_tree_is_its_owners() {
    let user = TestUser::without_world();
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/one"), "own").unwrap();
    let mut remove = step("rm -rf a");
    remove.secrets = vec![secret("a/b/one", "a secret")];
    assert_eq!(fixture.run(&remove, &tree).0, Outcome::Exited(0));
    assert_eq!(fs::read_to_string(tree.join("a/b/one")).unwrap(), "own");
    let uid =
        |path: &str| std::os::unix::fs::MetadataExt::uid(&tree.join(path).metadata().unwrap());
    let expected = if is_root() { user.uid() } else { nix::unistd::geteuid().as_raw() };
    assert_eq!([uid("a"), uid("a/b")], [expected; 2]);
}

#[test]
fn what_stands_beside_the_home_and_is_not_ours_is_not_touched() {
    let user = TestUser::new();
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    let refused = |taken: &str| {
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        let refused = fixture.sandbox.run(&step("true"), &tree, &log, &Cancel::new(), &|_| {});
        let error = told(&refused.unwrap_err());
        assert!(error.contains(&format!("`{taken}` exists and is not a tree")), "{error}");
        assert!(tree.is_dir());
    };
    let (home, tmp) = (user.config.home.clone(), user.config.home.with_file_name("home.tmp"));
    fs::create_dir(&tmp).unwrap();
    fs::write(tmp.join("precious"), "data").unwrap();
    refused(tmp.to_str().unwrap());
    fs::create_dir(&home).unwrap();
    fs::write(home.join("precious"), "data").unwrap();
    refused(home.to_str().unwrap());
    for dir in [&home, &tmp] {
        assert_eq!(fs::read_to_string(dir.join("precious")).unwrap(), "data");
        fs::remove_dir_all(dir).unwrap();
    }
    assert_eq!(fixture.run(&step("true"), &tree).0, Outcome::Exited(0));
}

/// Something mounted, for as long as a test takes.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(point: &Path) -> Option<Self> {
        let status = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(point).status();
        status.unwrap().success().then(|| Self(point.to_owned()))
    }

    fn is_mounted(&self) -> bool {
        let text = fs::read_to_string("/proc/self/mounts").unwrap();
        text.contains(&format!(" {} ", self.0.display()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mounted() {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}

#[test]
fn what_a_step_mounts_is_unmounted() {
    if !needs_root() || !cfg!(target_os = "linux") {
        return;
    }
    let user = TestUser::without_world();
    let fixture = user.fixture();
    let (home, tree) = (&user.config.home, fixture.tree("tree"));
    let wait =
        step("mkdir $TMPDIR/m sub; touch ready; while [ ! -e $TMPDIR/m/go ]; do sleep 0.01; done");
    let mounts = std::thread::scope(|scope| {
        let running = scope.spawn(|| fixture.run(&wait, &tree).0);
        until("the step runs", || home.join("ready").exists());
        let tmp = home.with_file_name("home.tmp/m");
        let mounts = [home.join("sub"), tmp.clone()].map(|point| Mounted::tmpfs(&point));
        fs::write(tmp.join("go"), "").unwrap();
        assert_eq!(running.join().unwrap(), Outcome::Exited(0));
        mounts
    });
    let Some(mounts) = mounts.into_iter().collect::<Option<Vec<_>>>() else {
        return eprintln!("SKIP: nothing can be mounted here");
    };
    assert!(!mounts.iter().any(Mounted::is_mounted));
    assert!(!Mounted(tree.join("sub")).is_mounted());
    assert_eq!(user.left_behind(), Vec::<String>::new());
    assert_eq!(fixture.run(&step("ls"), &tree), (Outcome::Exited(0), "ready\nsub\n".to_owned()));
}

#[test]
fn what_cannot_be_removed_is_in_nobodys_way() {
    if !needs_root() {
        return;
    }
    let user = TestUser::new();
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    let wait = step(
        "mkdir $TMPDIR/d; touch $TMPDIR/d/stuck ready; while [ -e ready ]; do sleep 0.01; done",
    );
    let stuck = user.config.home.with_file_name("home.tmp/d/stuck");
    let chattr = |flag: &str, path: &Path| {
        Command::new("chattr")
            .arg(flag)
            .arg(path)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let made = std::thread::scope(|scope| {
        let running = scope.spawn(|| fixture.run(&wait, &tree).0);
        until("the step runs", || user.config.home.join("ready").exists());
        let made = chattr("+i", &stuck);
        fs::remove_file(user.config.home.join("ready")).unwrap();
        assert_eq!(running.join().unwrap(), Outcome::Exited(0));
        made
    });
    if !made {
        return eprintln!("SKIP: no file can be made immutable here");
    }
    let aside = user.config.home.with_file_name("home.stuck-1");
    let next = fixture.run(&step("ls -A $TMPDIR"), &tree);
    assert!(chattr("-i", &aside.join("d/stuck")), "it is where it was set aside");
    assert_eq!(next, (Outcome::Exited(0), String::new()));
    assert_eq!(user.left_behind(), ["home.stuck-1"]);
}

/// As root, the suite again as somebody who has no build user.
#[test]
fn all_this_holds_for_an_ordinary_user() {
    if !needs_root() {
        return;
    }
    // Somebody else may not reach the directory of the test's own program.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let own = std::env::current_exe().unwrap();
    let deps = own.parent().unwrap();
    for program in
        ["leftovers", "build_user", "conformance", "terminal", "limits", "remains", "world"]
    {
        let Some(built) = newest(deps, program) else { continue };
        let copy = dir.path().join(program);
        // By another process: a test that forks meanwhile would keep our copy open, and busy.
        assert!(Command::new("cp").args([&built, &copy]).status().unwrap().success());
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&copy);
        let output = command.current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// The newest build of a test program of this crate.
fn newest(deps: &Path, program: &str) -> Option<std::path::PathBuf> {
    let entries = fs::read_dir(deps).unwrap().flatten().map(|entry| entry.path());
    let builds = entries.filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        let hash = name.strip_prefix(program).and_then(|rest| rest.strip_prefix('-'));
        hash.is_some_and(|hash| !hash.contains('.'))
    });
    builds.max_by_key(|path| path.metadata().unwrap().modified().unwrap())
}
