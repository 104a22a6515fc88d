//! What a step leaves outside its home, and steps that will not end: both go, on every path.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "only tests are here"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{TestUser, is_root, needs_root};
use obuilder_core::step::{Outcome, Step};
use obuilder_core::testing::sandbox::step;
use obuilder_core::{BuildLog, Cancel, Sandbox};
use sandbox_macos::{Account, BuildUserSandbox, Config, Isolation, Limits};

const LONG: Duration = Duration::from_secs(20);
/// What cancelling may take.
const SOON: Duration = Duration::from_secs(1);

fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < LONG, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Processes of `uid` that are more than zombies, by name.
fn processes(uid: u32) -> Vec<String> {
    let mut ps = Command::new("ps");
    let output = ps.args(["-o", "stat=,comm=", "-u", &uid.to_string()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.starts_with('Z')).map(str::to_owned).collect()
}

/// System V objects of `uid`.
fn ipc_objects(uid: u32) -> Vec<String> {
    let tables = ["shm", "msg", "sem"].map(|kind| {
        let text = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        let uid = uid.to_string();
        let theirs = |line: &&str| line.split_whitespace().any(|field| field == uid);
        text.lines().filter(theirs).map(|line| format!("{kind} {line}")).collect::<Vec<_>>()
    });
    tables.concat()
}

/// Files of `uid` where everybody may make some.
fn files(uid: u32) -> Vec<PathBuf> {
    let dirs = ["/tmp", "/var/tmp", "/dev/shm", "/run/lock"];
    let entries = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let theirs = |entry: &fs::DirEntry| {
        entry
            .path()
            .symlink_metadata()
            .is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == uid)
    };
    entries.filter(theirs).map(|entry| entry.path()).collect()
}

/// Control groups of `uid`.
fn groups(uid: u32) -> Vec<PathBuf> {
    let mut find = Command::new("find");
    find.args(["/sys/fs/cgroup", "-name", &format!("obuild-{uid}")]).stderr(Stdio::null());
    let found = String::from_utf8(find.output().unwrap().stdout).unwrap();
    found.lines().map(PathBuf::from).collect()
}

fn assert_nothing_left(user: &TestUser) {
    let uid = user.uid();
    assert_eq!(processes(uid), Vec::<String>::new());
    assert_eq!(ipc_objects(uid), Vec::<String>::new());
    assert_eq!(files(uid), Vec::<PathBuf>::new());
    assert_eq!(groups(uid), Vec::<PathBuf>::new());
    assert_eq!(user.left_behind(), Vec::<String>::new());
}

/// Leaves one of everything; `$1` makes names its own.
const LITTER: &str = "ipcmk -M 4096 -Q -S 2 >/dev/null
    for dir in /tmp /var/tmp /dev/shm; do
        touch $dir/obuild-litter-$$ && mkdir -p $dir/obuild-litter-dir-$$/a/b && chmod 0 $dir/obuild-litter-dir-$$/a
        ln -s /etc $dir/obuild-litter-link-$$
    done 2>/dev/null
    (setsid sh -c 'setsid sleep 1000 &' &)";

#[test]
fn nothing_of_a_step_is_left_outside_its_home() {
    if !needs_root() {
        return;
    }
    let mut user = TestUser::new();
    for isolation in [Isolation::Full, Isolation::Users] {
        user.config.isolation = isolation;
        leave_litter(&user);
    }
}

fn leave_litter(user: &TestUser) {
    let fixture = user.fixture();
    for end in ["true", "exit 3", "kill -9 $$"] {
        let (_, text) = fixture.run(&step(&format!("{LITTER}; {end}")), &fixture.tree("tree"));
        assert_eq!(text, "");
        assert_nothing_left(user);
        fs::remove_dir_all(user.dir().join("scratch/tree")).unwrap();
    }
    let mut slow = step(&format!("{LITTER}; sleep 1000"));
    slow.timeout = Some(Duration::from_millis(300));
    assert!(matches!(fixture.run(&slow, &fixture.tree("tree")).0, Outcome::TimedOut(_)));
    assert_nothing_left(user);
    fs::remove_dir_all(user.dir().join("scratch/tree")).unwrap();
}

/// Where the process that is to be killed finds its settings.
const VICTIM: &str = "OBUILD_TEST_REMAINS";

fn config(dir: &Path, uid: u32) -> Config {
    let limits = Limits { memory: Some(1 << 30), ..Limits::default() };
    let users = Account::several("obt", uid, 1);
    // With a world of its own, a step could leave less.
    let isolation = Isolation::Users;
    let lock_dir = dir.join("locks");
    Config { users, lock_dir, limits, isolation, ..Config::new(dir.join("home")) }
}

/// No test, but what others run in a process of its own.
#[test]
fn victim() {
    let Ok(settings) = std::env::var(VICTIM) else { return };
    let [dir, uid, how] = settings.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let dir = Path::new(dir);
    let sandbox = BuildUserSandbox::new(config(dir, uid.parse().unwrap())).unwrap();
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    if how == "panic" {
        // What is to run when the log is begun, runs in the middle of a step.
        log.on_begin(|| panic!("an observer of the log panics"));
    }
    let tree = dir.join("scratch/tree/rootfs");
    let litter = format!("{LITTER}; echo x > ready; echo begun; exec sleep 1000");
    let run = || sandbox.run(&step(&litter), &tree, &log, &Cancel::new(), &|_| {});
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    assert!(how == "panic" && ended.is_err());
}

fn start_victim(user: &TestUser, how: &str) -> std::process::Child {
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args(["--exact", "victim", "--nocapture"]).stdout(Stdio::null()).stderr(Stdio::null());
    victim.env(VICTIM, format!("{} {} {how}", user.dir().display(), user.uid()));
    victim.spawn().unwrap()
}

#[test]
fn what_a_killed_run_leaves_goes_with_the_next() {
    if !needs_root() {
        return;
    }
    let mut user = TestUser::new();
    user.config = config(user.dir(), user.uid());
    let fixture = user.fixture();
    fixture.tree("tree");
    let mut victim = start_victim(&user, "wait");
    until("the victim's step runs", || user.config.home.join("ready").exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    let uid = user.uid();
    assert!(!processes(uid).is_empty() && ipc_objects(uid).len() == 3 && files(uid).len() >= 6);
    assert_eq!(fixture.run(&step("true"), &fixture.tree("next")).0, Outcome::Exited(0));
    assert_nothing_left(&user);
}

#[test]
fn a_panic_kills_the_step_and_the_next_clears_the_rest() {
    if !needs_root() {
        return;
    }
    let mut user = TestUser::new();
    user.config = config(user.dir(), user.uid());
    let fixture = user.fixture();
    fixture.tree("tree");
    let mut victim = start_victim(&user, "panic");
    assert!(victim.wait().unwrap().success());
    assert_eq!(processes(user.uid()), Vec::<String>::new());
    assert_eq!(groups(user.uid()), Vec::<PathBuf>::new());
    assert_eq!(fixture.run(&step("true"), &fixture.tree("next")).0, Outcome::Exited(0));
    assert_nothing_left(&user);
}

/// Cancels the step once it has made `ready`; gives how long that took.
fn cancelled(user: &TestUser, step: &Step) -> Duration {
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| fixture.run_with(step, &tree, &cancel).0);
        until("the step runs", || user.config.home.join("ready").exists());
        let started = Instant::now();
        cancel.cancel();
        assert_eq!(running.join().unwrap(), Outcome::Cancelled);
        started.elapsed()
    })
}

#[test]
fn whatever_a_step_does_cancelling_it_is_quick() {
    for script in [
        // A gigabyte, or as much of it as there is time for.
        "echo x > ready; head -c 1G /dev/zero; sleep 1000",
        // Reads nothing, and hears nothing.
        "trap '' HUP INT QUIT TERM USR1 USR2 PIPE ALRM CHLD TSTP TTIN TTOU; echo x > ready; while :; do sleep 1000; done",
        // Daemons that hold the log open, in sessions of their own, and one that is stopped.
        "for n in 1 2 3; do (setsid sh -c 'trap \"\" HUP TERM; (setsid sleep 1000 &) ; sleep 1000' &); done
         sleep 1000 & kill -STOP $!; echo x > ready; wait",
        // Stops itself.
        "echo x > ready; kill -STOP $$; sleep 1000",
    ] {
        let user = TestUser::new();
        let took = cancelled(&user, &step(script));
        assert!(took < SOON, "{took:?}: {script}");
        if is_root() {
            assert_nothing_left(&user);
        }
    }
}

#[test]
fn a_fork_bomb_within_its_limit_is_cancelled_quickly() {
    if !needs_root() {
        return;
    }
    let mut user = TestUser::new();
    user.config.limits = Limits { processes: 150, ..Limits::default() };
    // Without a limit this would take the machine down, so it has one of its own besides.
    let mut bomb = step("");
    let limited = "ulimit -u 150 || exit 9";
    let explode = "f() { while :; do f & done; }; echo x > ready; f 2>/dev/null; wait";
    bomb.argv = ["/bin/bash", "-c"].map(Into::into).to_vec();
    bomb.argv.push(format!("{limited}; {explode}").into());
    bomb.timeout = Some(LONG);
    let took = cancelled(&user, &bomb);
    assert!(took < SOON * 3, "{took:?}");
    assert_nothing_left(&user);
}

#[test]
fn who_holds_the_log_open_does_not_hold_the_step_up() {
    let user = TestUser::new();
    let fixture = user.fixture();
    let started = Instant::now();
    let holder = step(
        "(setsid sh -c 'setsid sleep 1000 & sleep 1000' &); sleep 1000 & kill -STOP $!; echo done",
    );
    let ran = fixture.run(&holder, &fixture.tree("tree"));
    assert_eq!(ran, (Outcome::Exited(0), "done\n".to_owned()));
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    if is_root() {
        assert_nothing_left(&user);
    }
}
