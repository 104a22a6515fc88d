//! Slots whose trees are shown by a FUSE filesystem.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "only tests are here")]

mod common;

use std::fs;

use common::{TestUser, has_fuse, needs_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use obuilder_core::log::BuildLog;
use obuilder_core::step::Outcome;
use obuilder_core::testing::sandbox::step;
use obuilder_core::{Cancel, Sandbox};

/// No test, but the server of the filesystem when this program is started as one.
#[test]
fn serve() {
    common::serve();
}

mod conformance {
    obuilder_core::sandbox_conformance!(crate::common::fixture_by_fuse);
}

#[test]
fn each_step_sees_its_own_tree_at_home_and_prefix() {
    if !needs_root() || !has_fuse() {
        return;
    }
    let user = TestUser::by_fuse(2);
    let fixture = user.fixture();
    let prefix = user.dir().join("prefix");
    let script = format!(
        "mkdir -p local; echo NAME > local/own; n=0; while [ $n -lt 50 ]; do n=$((n+1)); \
         read a < {0}/own; [ $a = NAME ] || exit 3; echo $n > file; read b < $HOME/file; [ $b = $n ] || exit 4; \
         done; pwd; /bin/pwd",
        prefix.display()
    );
    let home = user.config.home.display();
    std::thread::scope(|scope| {
        let running = ["one", "two"].map(|name| {
            let tree = fixture.tree(name);
            let mut step = step(&script.replace("NAME", name));
            step.workdir = user.config.home.to_str().unwrap().into();
            let fixture = &fixture;
            scope.spawn(move || fixture.run(&step, &tree))
        });
        for running in running {
            let expected = format!("{home}\n{home}\n");
            assert_eq!(running.join().unwrap(), (Outcome::Exited(0), expected));
        }
    });
}

#[test]
fn what_changed_between_steps_is_seen() {
    if !needs_root() || !has_fuse() {
        return;
    }
    let user = TestUser::by_fuse(1);
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    fs::write(tree.join("file"), "a").unwrap();
    assert_eq!(fixture.run(&step("cat $HOME/file; echo longer > $HOME/own"), &tree).1, "a");
    fs::write(tree.join("file"), "another").unwrap();
    fs::rename(tree.join("own"), tree.join("moved")).unwrap();
    let (outcome, text) = fixture.run(&step("cat $HOME/file $HOME/moved; ls $HOME"), &tree);
    assert_eq!((outcome, text.as_str()), (Outcome::Exited(0), "anotherlonger\nfile\nmoved\n"));
    let other = fixture.tree("other");
    assert_eq!(fixture.run(&step("ls -A $HOME"), &other), (Outcome::Exited(0), String::new()));
}

#[test]
fn a_step_whose_server_was_killed_has_no_result() {
    if !needs_root() || !has_fuse() {
        return;
    }
    let user = TestUser::by_fuse(1);
    let fixture = user.fixture();
    assert_eq!(fixture.sh("echo one").0, Outcome::Exited(0));
    let server = usrlocal_fs::status(&user.dir().join("homes")).unwrap().server;
    let tree = fixture.tree("slow");
    let log = BuildLog::create(&tree.with_file_name("log")).unwrap();
    let ended = std::thread::scope(|scope| {
        // It does not mind that its files are gone.
        let slow =
            step("echo begun | tee $HOME/begun; while [ -e $HOME/begun ]; do :; done; exit 0");
        let sandbox = user.sandbox();
        let (tree, log) = (&tree, &log);
        let run = scope.spawn(move || sandbox.run(&slow, tree, log, &Cancel::new(), &|_| {}));
        let begun = std::time::Instant::now();
        let printed = || fs::read(tree.with_file_name("log")).unwrap();
        while printed().is_empty() && begun.elapsed().as_secs() < 60 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        kill(Pid::from_raw(server.cast_signed()), Signal::SIGKILL).unwrap();
        run.join().unwrap()
    });
    let error = ended.unwrap_err();
    let told = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
    assert!(told.map(ToString::to_string).any(|text| text.contains("ended while the step ran")));
    assert_eq!(fixture.sh("echo two"), (Outcome::Exited(0), "two\n".to_owned()));
}

#[test]
fn a_server_that_was_killed_is_started_again() {
    if !needs_root() || !has_fuse() {
        return;
    }
    let user = TestUser::by_fuse(1);
    let fixture = user.fixture();
    assert_eq!(fixture.sh("echo one"), (Outcome::Exited(0), "one\n".to_owned()));
    let mount = user.dir().join("homes");
    let server = usrlocal_fs::status(&mount).unwrap().server;
    kill(Pid::from_raw(server.cast_signed()), Signal::SIGKILL).unwrap();
    let begun = std::time::Instant::now();
    while usrlocal_fs::status(&mount).is_ok() {
        assert!(begun.elapsed().as_secs() < 10, "it serves on");
    }
    // Nothing of it stays, as it is a child of this process.
    while std::path::Path::new(&format!("/proc/{server}")).exists() {
        assert!(begun.elapsed().as_secs() < 10, "it is still there");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(fixture.sh("echo two"), (Outcome::Exited(0), "two\n".to_owned()));
    assert_ne!(usrlocal_fs::status(&mount).unwrap().server, server);
    assert!(user.sandbox().remove_users(&|_| {}).is_ok());
    assert!(usrlocal_fs::status(&mount).is_err(), "it is unmounted");
}
