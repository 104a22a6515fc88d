//! Several slots: steps of several build users at once, all in one canonical home.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "only tests are here")]

mod common;

mod two_slots {
    obuilder_core::sandbox_conformance!(crate::common::fixture_of_two);
}

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use common::{TestUser, needs_root};
use obuilder_core::step::{Outcome, SecretMount, Step};
use obuilder_core::testing::sandbox::{Fixture, step};
use obuilder_core::{BuildLog, Cancel, Sandbox};

/// Runs `first` until it has printed something, then hands over to `meanwhile`, and cancels it.
fn beside<T>(fixture: &Fixture, first: &Step, tree: &Path, meanwhile: impl FnOnce() -> T) -> T {
    let log = BuildLog::create(&tree.with_file_name("log")).unwrap();
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| fixture.sandbox.run(first, tree, &log, &cancel, &|_| {}));
        assert_eq!(log.reader().read(&mut [0; 1], &Cancel::new()).unwrap(), 1);
        let done = meanwhile();
        cancel.cancel();
        assert_eq!(running.join().unwrap().unwrap(), Outcome::Cancelled);
        done
    })
}

fn owner(tree: &Path) -> u32 {
    tree.symlink_metadata().unwrap().uid()
}

#[test]
fn two_steps_see_their_own_trees_at_one_home() {
    if !needs_root() {
        return;
    }
    let user = TestUser::several(2);
    let fixture = user.fixture();
    let (first, second) = (fixture.tree("first"), fixture.tree("second"));
    fs::write(first.join("file"), "of the first").unwrap();
    fs::write(second.join("file"), "of the second").unwrap();
    let home = user.config.home.display().to_string();
    let seen = "pwd; cat $HOME/file; echo; echo $USER $LOGNAME; ls -A $TMPDIR; echo x > $TMPDIR/x";
    let tell = step(seen);
    let wait = step(&format!("{seen}; sleep 1000"));
    let (outcome, text) = beside(&fixture, &wait, &first, || fixture.run(&tell, &second));
    let name = user.name();
    let expected = |whose: &str| format!("{home}\nof the {whose}\n{name} {name}\n");
    assert_eq!((outcome, text), (Outcome::Exited(0), expected("second")));
    let log = fs::read_to_string(first.with_file_name("log")).unwrap();
    assert_eq!(log, expected("first"));
    assert_ne!(owner(&first), owner(&second));
    let mut left = user.left_behind();
    left.sort();
    assert_eq!(left, ["home", "home.secrets", "home.tmp"], "the places at which trees are shown");
}

#[test]
fn a_step_sees_nothing_of_another_slot() {
    if !needs_root() {
        return;
    }
    let user = TestUser::several(2);
    let fixture = user.fixture();
    let (first, second) = (fixture.tree("first"), fixture.tree("second"));
    let mut wait = step("echo $$ > pid; echo ready; sleep 1000");
    wait.secrets = vec![SecretMount {
        id: "s".into(),
        target: "/run/secrets/token".into(),
        value: "a secret value".into(),
    }];
    let places = user.dir().join("home.slots");
    let spy = step(&format!(
        "ls {}; ps -eo uid= | sort -u | wc -l; cat /proc/*/environ 2>/dev/null | grep -c SECRETS_DIR; \
         ls $HOME.secrets",
        places.display()
    ));
    let (_, text) = beside(&fixture, &wait, &first, || {
        let pid = fs::read_to_string(places.join(format!("{}/home/pid", user.uid()))).unwrap();
        let kill = format!("kill -9 {}; ls -d /proc/{0}", pid.trim());
        let (outcome, text) = fixture.run(&step(&kill), &second);
        assert_ne!(outcome, Outcome::Exited(0), "{text}");
        assert!(text.contains("No such"), "{text}");
        fixture.run(&spy, &second)
    });
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].contains("home.slots"), "{text}");
    assert_eq!(lines[1].trim(), "1", "processes of others are seen: {text}");
    assert_eq!(lines[2], "0", "{text}");
    assert!(lines[3].contains("No such file"), "{text}");
}

#[test]
fn a_tree_changes_owner_only_when_its_slot_is_taken() {
    if !needs_root() {
        return;
    }
    let user = TestUser::several(2);
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    assert_eq!(fixture.run(&step("mkdir a; echo x > a/b"), &tree).0, Outcome::Exited(0));
    let first = owner(&tree);
    assert_eq!(fixture.run(&step("true"), &tree).0, Outcome::Exited(0));
    assert_eq!(owner(&tree), first, "its own slot was free");
    let other = fixture.tree("other");
    std::os::unix::fs::chown(&other, Some(first), None).unwrap();
    let wait = step("echo ready; sleep 1000");
    beside(&fixture, &wait, &other, || {
        assert_eq!(fixture.run(&step("echo more >> a/b"), &tree).0, Outcome::Exited(0));
    });
    let second = owner(&tree);
    assert_ne!(second, first);
    assert_eq!([owner(&tree.join("a")), owner(&tree.join("a/b"))], [second; 2]);
    assert_eq!(fs::read_to_string(tree.join("a/b")).unwrap(), "x\nmore\n");
}

#[test]
fn a_slot_whose_processes_cannot_be_killed_is_put_aside() {
    if !needs_root() {
        return;
    }
    let user = TestUser::several(2);
    let fixture = user.fixture();
    assert_eq!(fixture.sh("true").0, Outcome::Exited(0));
    // Nothing survives SIGKILL here, so a process that does is only claimed, as a run that met it would have left it.
    let lock = user.config.lock_dir.join(format!("uid-{}.lock", user.uid()));
    fs::write(&lock, "put aside: 1 (somebody)").unwrap();
    let mut unkillable = Command::new("sleep").arg("1000").uid(user.uid()).spawn().unwrap();
    let tree = fixture.tree("tree");
    assert_eq!(fixture.run(&step("true"), &tree).0, Outcome::Exited(0));
    assert_eq!(owner(&tree), user.uid() + 1, "the other slot goes on");
    assert!(unkillable.try_wait().unwrap().is_none());
    unkillable.kill().unwrap();
    unkillable.wait().unwrap();
    let tree = fixture.tree("again");
    assert_eq!(fixture.run(&step("true"), &tree).0, Outcome::Exited(0));
    assert_eq!(owner(&tree), user.uid(), "it is well again");
}

#[test]
fn one_slot_and_several_take_turns_at_a_home() {
    if !needs_root() {
        return;
    }
    let user = TestUser::several(2);
    let fixture = user.fixture();
    let mut alone = user.config.clone();
    alone.users.truncate(1);
    let alone = sandbox_macos::BuildUserSandbox::new(alone).unwrap();
    for round in 0..2 {
        let tree = fixture.tree(&format!("several{round}"));
        assert_eq!(fixture.run(&step("echo x > file"), &tree).0, Outcome::Exited(0));
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        let cat = alone.run(&step("cat file; test -O file"), &tree, &log, &Cancel::new(), &|_| {});
        assert_eq!(cat.unwrap(), Outcome::Exited(0));
    }
}

#[test]
fn the_number_of_somebody_else_is_never_cleared() {
    if !needs_root() {
        return;
    }
    let (person, user) = (TestUser::new(), TestUser::several(2));
    // Somebody whom the system knows by that number, with a process and a file.
    person.sandbox().ensure_users().unwrap();
    let mut process = Command::new("sleep").arg("1000").uid(person.uid()).spawn().unwrap();
    let file = tempfile::Builder::new().prefix("obuild-person-").tempfile_in("/tmp").unwrap();
    std::os::unix::fs::chown(file.path(), Some(person.uid()), None).unwrap();
    let mut wrong = user.config.clone();
    wrong.users = sandbox_macos::Account::several("obwrong", person.uid(), 1);
    let tree = user.fixture().tree("tree");
    for _ in 0..3 {
        // As a new process would.
        let sandbox = sandbox_macos::BuildUserSandbox::new(wrong.clone()).unwrap();
        sandbox.recover().unwrap();
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        let run = sandbox.run(&step("true"), &tree, &log, &Cancel::new(), &|_| {});
        let error = common::told(&run.unwrap_err());
        assert!(error.contains("choose another with `--uid`"), "{error}");
    }
    assert!(process.try_wait().unwrap().is_none(), "it was killed");
    assert!(file.path().exists(), "it was removed");
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn one_bad_slot_does_not_spoil_the_others() {
    if !needs_root() {
        return;
    }
    let user = TestUser::several(2);
    let mut config = user.config.clone();
    config.users[0].uid = 1;
    let sandbox = sandbox_macos::BuildUserSandbox::new(config).unwrap();
    let tree = user.fixture().tree("tree");
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    let run = sandbox.run(&step("true"), &tree, &log, &Cancel::new(), &|_| {});
    assert_eq!(run.unwrap(), Outcome::Exited(0));
    assert_eq!(owner(&tree), user.uid() + 1);
}

#[test]
fn what_stands_at_the_shared_home_is_not_touched_and_named() {
    if !needs_root() {
        return;
    }
    let user = TestUser::several(2);
    let fixture = user.fixture();
    let secrets = user.dir().join("home.secrets");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("precious"), "data").unwrap();
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    let tree = fixture.tree("tree");
    let run = fixture.sandbox.run(&step("true"), &tree, &log, &Cancel::new(), &|_| {});
    let error = common::told(&run.unwrap_err());
    assert!(error.contains("home.secrets` exists and is not"), "{error}");
    assert_eq!(fs::read_to_string(secrets.join("precious")).unwrap(), "data");
}

#[test]
fn a_slot_that_is_configured_no_more_is_cleared_and_removed() {
    if !needs_root() {
        return;
    }
    let user = TestUser::several(2);
    let fixture = user.fixture();
    let (first, second) = (fixture.tree("first"), fixture.tree("second"));
    let wait = step("echo ready; sleep 1000");
    beside(&fixture, &wait, &first, || {
        assert_eq!(fixture.run(&step("true"), &second).0, Outcome::Exited(0))
    });
    let other = user.uid() + 1;
    // As a killed run would have left it.
    let lock = user.config.lock_dir.join(format!("uid-{other}.lock"));
    fs::write(&lock, "a step runs").unwrap();
    let mut left = Command::new("sleep").arg("1000").uid(other).spawn().unwrap();
    let place = user.dir().join(format!("home.slots/{other}"));
    fs::create_dir(place.join("home.tmp")).unwrap();
    fs::write(place.join("home.lock"), "1 1").unwrap();
    let mut fewer = user.config.clone();
    fewer.users.truncate(1);
    let fewer = sandbox_macos::BuildUserSandbox::new(fewer).unwrap();
    fewer.recover().unwrap();
    assert!(!left.wait().unwrap().success(), "it was killed");
    assert!(!place.join("home.tmp").exists());
    let removed = fewer.remove_users(&|_| {}).unwrap();
    assert_eq!(removed.len(), 2, "{removed:?}");
}

#[test]
fn what_runs_under_another_number_is_ended_and_every_user_of_the_home_removed() {
    if !needs_root() {
        return;
    }
    let user = TestUser::several(3);
    user.sandbox().ensure_users().unwrap();
    let third = user.uid() + 2;
    fs::create_dir_all(&user.config.lock_dir).unwrap();
    fs::write(user.config.lock_dir.join(format!("uid-{third}.lock")), "a step runs").unwrap();
    let mut left = Command::new("sleep").arg("1000").uid(third).spawn().unwrap();
    let mut fewer = user.config.clone();
    fewer.users.truncate(1);
    let fewer = sandbox_macos::BuildUserSandbox::new(fewer).unwrap();
    fewer.recover().unwrap();
    assert!(!left.wait().unwrap().success(), "it was killed");
    assert_eq!(fewer.remove_users(&|_| {}).unwrap().len(), 3);
}

#[test]
fn a_secret_below_a_prefix_is_shown_there_too() {
    if !needs_root() {
        return;
    }
    let user = TestUser::new();
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    fs::create_dir_all(tree.join("local/etc")).unwrap();
    let mut read = step("cat /usr/local/etc/token $HOME/local/etc/token");
    read.secrets = vec![SecretMount {
        id: "s".into(),
        target: "/usr/local/etc/token".into(),
        value: "value\n".into(),
    }];
    assert_eq!(fixture.run(&read, &tree), (Outcome::Exited(0), "value\nvalue\n".to_owned()));
}
