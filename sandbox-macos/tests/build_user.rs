//! The build user: who it is, what it may see, and what is in its way.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "only tests are here"
)]

mod common;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;

use common::{TestUser, is_root, needs_root, told};
use obuilder_core::step::Outcome;
use obuilder_core::testing::sandbox::step;
use obuilder_core::{BuildLog, Cancel, Sandbox};
use sandbox_macos::{Account, BuildUserSandbox, Config, Isolation};

/// Why a step does not run.
fn refusal(config: &Config, tree: &std::path::Path) -> String {
    let sandbox = BuildUserSandbox::new(config.clone()).unwrap();
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    let refused = sandbox.run(&step("true"), tree, &log, &Cancel::new(), &|_| {});
    told(&refused.unwrap_err())
}

#[test]
fn a_step_is_the_build_user_in_a_world_of_its_own() {
    if !needs_root() {
        return;
    }
    let user = TestUser::new();
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    fs::write(tree.join("given"), "by root").unwrap();
    let step = step(
        "id -u; id -g; id -G; echo >> given; ps -o sid= -o pgid= -p $$ | xargs; echo $$; env | sort",
    );
    let (outcome, text) = fixture.run(&step, &tree);
    assert_eq!(outcome, Outcome::Exited(0), "{text}");
    let lines: Vec<_> = text.lines().collect();
    let uid = user.uid().to_string();
    assert_eq!(&lines[..3], [&uid, &uid, &uid]);
    assert_eq!(lines[3], format!("{0} {0}", lines[4]), "its own session and group");
    let (home, name) = (user.config.home.display(), user.name());
    for expected in [
        format!("HOME={home}"),
        format!("TMPDIR={home}.tmp"),
        format!("USER={name}"),
        format!("LOGNAME={name}"),
        "SHELL=/bin/bash".to_owned(),
        format!("PWD={home}"),
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
    ] {
        assert!(lines.contains(&expected.as_str()), "no {expected} in {text}");
    }
    let set =
        lines[5..].iter().filter(|line| !line.starts_with("_=") && !line.starts_with("SHLVL="));
    assert_eq!(set.count(), 7, "nothing else is set: {text}");
    for path in [&tree, &tree.join("given")] {
        assert_eq!(fs::metadata(path).unwrap().uid(), user.uid());
    }
}

#[test]
fn a_step_leaves_no_core() {
    let ran = TestUser::new().fixture().sh("ulimit -c");
    assert_eq!(ran, (Outcome::Exited(0), "0\n".to_owned()));
}

#[test]
fn a_step_has_a_private_temporary_directory() {
    let user = TestUser::new();
    let fixture = user.fixture();
    let (outcome, mode) =
        fixture.sh("stat -c %a $TMPDIR; mkdir -m 0 $TMPDIR/closed; touch $TMPDIR/x");
    assert_eq!((outcome, mode.as_str()), (Outcome::Exited(0), "700\n"));
    assert_eq!(user.left_behind(), Vec::<String>::new());
}

#[test]
fn a_step_inherits_no_descriptor() {
    let user = TestUser::new();
    let file = tempfile::tempfile().unwrap();
    let open = rustix::io::fcntl_dupfd_cloexec(&file, 50).unwrap();
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
    let listed = user
        .fixture()
        .sh(&format!("ls /dev/fd/ | tr '\\n' ' '; [ -e /dev/fd/{} ]", open.as_raw_fd()));
    assert_eq!(listed, (Outcome::Exited(1), "0 1 2 3 ".to_owned()), "3 is the directory itself");
}

#[test]
fn a_tree_that_is_closed_to_its_owner_comes_back() {
    let user = TestUser::new();
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    assert_eq!(fixture.run(&step("chmod 555 ."), &tree).0, Outcome::Exited(0));
    assert_eq!(fs::metadata(&tree).unwrap().permissions().mode() & 0o777, 0o555);
    assert_eq!(fixture.run(&step("stat -c %a ."), &tree).1, "555\n");
}

#[test]
fn the_profile_is_sourced_before_each_command() {
    let user = TestUser::new();
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    fs::write(
        tree.join(".obuilder_profile.sh"),
        "export FROM_PROFILE=\"it's bash: ${BASH##*/}\"\nfalse\n",
    )
    .unwrap();
    let (outcome, text) = fixture.run(&step("echo \"$FROM_PROFILE\"; exit 4"), &tree);
    assert_eq!((outcome, text.as_str()), (Outcome::Exited(4), "it's bash: bash\n"));
}

#[test]
fn the_user_is_made_once_and_kept_until_it_is_removed() {
    if !needs_root() {
        return;
    }
    let user = TestUser::new();
    assert!(user.sandbox().remove_users(&|_| {}).unwrap().is_empty(), "there is none yet");
    let made = user.sandbox().ensure_users().unwrap().remove(0);
    assert_eq!((&made.name, made.owner.uid), (&user.name(), user.uid()));
    assert_eq!(user.sandbox().ensure_users().unwrap(), std::slice::from_ref(&made));
    let shadow = fs::read_to_string("/etc/shadow").unwrap();
    let line = shadow.lines().find(|line| line.starts_with(&format!("{}:", made.name))).unwrap();
    assert!(line.split(':').nth(1).unwrap().starts_with('!'), "no password opens it");
    assert_eq!(user.sandbox().remove_users(&|_| {}).unwrap(), [made.name]);
    assert!(user.sandbox().remove_users(&|_| {}).unwrap().is_empty());
}

#[test]
fn names_and_numbers_of_others_are_left_alone() {
    if !needs_root() {
        return;
    }
    let user = TestUser::new();
    let tree = user.fixture().tree("tree");
    let with = |name: &str, uid| {
        let users = vec![Account { name: name.to_owned(), uid }];
        Config { users, ..user.config.clone() }
    };
    let remove =
        |config: &Config| BuildUserSandbox::new(config.clone()).unwrap().remove_users(&|_| {});
    let number = with(&user.name(), 1);
    let expected = "with uid 1: that uid belongs to `daemon`: choose another with `--uid`";
    assert!(refusal(&number, &tree).contains(expected));
    let name = with("daemon", user.uid());
    assert!(refusal(&name, &tree).contains("`daemon` has uid 1: use `--uid 1` or another name"));
    assert!(told(&remove(&name).unwrap_err()).contains("`daemon` has uid 1"));
    let person = with("daemon", 1);
    assert!(refusal(&person, &tree).contains("`daemon` has a home of its own, `/usr/sbin`"));
    assert!(remove(&person).is_err());
    let root = with("root", 0);
    assert!(refusal(&root, &tree).contains("uid 0 is root"));
}

#[test]
fn groups_and_processes_of_others_are_left_alone() {
    if !needs_root() {
        return;
    }
    let user = TestUser::new();
    let tree = user.fixture().tree("tree");
    let mut stranger =
        std::process::Command::new("sleep").arg("1000").uid(user.uid()).spawn().unwrap();
    let error = refusal(&user.config, &tree);
    assert!(error.contains(&format!("{} (sleep)", stranger.id())), "{error}");
    assert!(stranger.try_wait().unwrap().is_none(), "it was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    let group = |id: &u32| nix::unistd::Group::from_gid((*id).into()).unwrap();
    let user_of = |id: &u32| nix::unistd::User::from_uid((*id).into()).unwrap();
    let Some(uid) = (1..1000).find(|id| group(id).is_some() && user_of(id).is_none()) else {
        return eprintln!("SKIP: every group here has a user of its number");
    };
    let users = vec![Account { name: user.name(), uid }];
    let config = Config { users, ..user.config.clone() };
    let expected = format!("gid {uid} belongs to `{}`", group(&uid).unwrap().name);
    assert!(refusal(&config, &tree).contains(&expected));
}

#[test]
fn a_workdir_that_is_closed_to_the_user_is_named() {
    let user = TestUser::new();
    let fixture = user.fixture();
    let tree = fixture.tree("tree");
    fs::write(tree.join("file"), "").unwrap();
    let mut inside = step("true");
    inside.workdir = "/file/below".into();
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    let refused = fixture.sandbox.run(&inside, &tree, &log, &Cancel::new(), &|_| {});
    let expected =
        "failed to enter the working directory `/file/below`: Not a directory (os error 20)";
    assert_eq!(told(&refused.unwrap_err()), expected);
    assert!(tree.is_dir());
}

#[test]
fn a_home_that_the_user_cannot_reach_is_named_with_the_remedy() {
    if !needs_root() {
        return;
    }
    let user = TestUser::new();
    let tree = user.fixture().tree("tree");
    let closed = user.dir().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let config = Config { home: closed.join("home"), ..user.config.clone() };
    let error = refusal(&config, &tree);
    assert!(error.contains(&format!("`{}` lets only its owner pass", closed.display())), "{error}");
    assert!(error.contains("--home"), "{error}");
}

#[test]
fn what_stands_at_the_home_and_is_not_ours_is_not_touched() {
    let user = TestUser::new();
    let tree = user.fixture().tree("tree");
    fs::create_dir(&user.config.home).unwrap();
    fs::write(user.config.home.join("precious"), "data").unwrap();
    for _ in 0..2 {
        let error = refusal(&user.config, &tree);
        assert!(error.contains("is not a tree that a build left there"), "{error}");
        assert_eq!(fs::read_to_string(user.config.home.join("precious")).unwrap(), "data");
        assert!(tree.is_dir());
    }
}

#[test]
fn a_home_that_the_step_has_replaced_is_not_taken_for_its_tree() {
    let user = TestUser::new();
    let tree = user.fixture().tree("tree");
    // Where the build user may write, it may also rename its home.
    let open = user.dir().join("scratch/open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o1777)).unwrap();
    // With a view of its own, the step could not.
    let isolation = Isolation::Users;
    let config = Config { home: open.join("home"), isolation, ..user.config.clone() };
    let sandbox = BuildUserSandbox::new(config.clone()).unwrap();
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    let swap = step("mv ../home ../away && ln -s /etc ../home");
    let error = told(&sandbox.run(&swap, &tree, &log, &Cancel::new(), &|_| {}).unwrap_err());
    assert!(error.contains("has been moved away by its step"), "{error}");
    assert!(tree.symlink_metadata().is_err(), "nothing has taken the tree's place");
    assert!(refusal(&config, &tree).contains("is not a tree that a build left there"));
}

#[test]
fn a_tree_on_another_volume_is_refused() {
    let user = TestUser::new();
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
        return eprintln!("SKIP: there is no /dev/shm to serve as another volume");
    };
    if fs::metadata(elsewhere.path()).unwrap().dev() == fs::metadata(user.dir()).unwrap().dev() {
        return eprintln!("SKIP: /dev/shm is on the same volume");
    }
    let tree = elsewhere.path().join("rootfs");
    fs::create_dir(&tree).unwrap();
    let error = refusal(&user.config, &tree);
    let (tree, home) = (tree.display(), user.config.home.display());
    let expected = format!("`{tree}` and `{home}` are on different volumes");
    assert!(error.contains(&expected) && error.contains("--home"), "{error}");
    assert_eq!(user.left_behind(), Vec::<String>::new());
}

#[test]
fn only_the_host_network_reaches_the_host() {
    if !needs_root() {
        return;
    }
    let user = TestUser::new();
    let fixture = user.fixture();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut step = step("");
    step.argv = ["/bin/bash", "-c"].map(Into::into).to_vec();
    step.argv.push(format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached").into());
    let (_, alone) = fixture.run(&step, &fixture.tree("tree"));
    if alone.starts_with("obuild: ") {
        return eprintln!("SKIP: {alone}");
    }
    assert!(
        alone.contains("Connection refused"),
        "the loopback is up, and nobody listens there: {alone}"
    );
    step.network = vec!["host".into()];
    assert_eq!(fixture.run(&step, &fixture.tree("tree")).1, "reached\n");
}

#[test]
fn weaknesses_are_told() {
    let user = TestUser::new();
    let capabilities = user.sandbox().capabilities();
    assert_eq!(capabilities.slots, 1);
    let expected = if is_root() { 0 } else { 2 };
    // What this machine has of cron and the like is up to the machine.
    let told = capabilities.weaknesses.iter().filter(|weakness| !weakness.starts_with("jobs"));
    assert_eq!(told.count(), expected, "{capabilities:?}");
}

/// Says to [`closed_in`] that it is asked for.
const CLOSED_IN: &str = "OBUILD_TEST_CLOSED_IN";

/// No test, but what the next one runs as a root that may not make networks.
#[test]
fn closed_in() {
    if std::env::var(CLOSED_IN).is_err() {
        return;
    }
    let user = TestUser::new();
    let fixture = user.fixture();
    for _ in 0..2 {
        let (outcome, text) = fixture.sh("echo hello");
        assert_eq!(outcome, Outcome::Exited(0), "{text}");
        assert!(text.starts_with("obuild: this step reaches the host's network"), "{text}");
        assert!(text.ends_with("\nhello\n"), "{text}");
        let weaknesses = fixture.sandbox.capabilities().weaknesses;
        assert!(weaknesses.iter().any(|weakness| weakness.contains("network")), "{weaknesses:?}");
    }
    let mut hosts = step("echo hello");
    hosts.network = vec!["host".into()];
    assert_eq!(fixture.run(&hosts, &fixture.tree("hosts")).1, "hello\n");
}

#[test]
fn a_step_says_in_its_log_that_its_network_is_open() {
    if !needs_root() || !cfg!(target_os = "linux") {
        return;
    }
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "closed_in", "--nocapture"]);
    let output = command.env(CLOSED_IN, "yes").output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{text:?}");
}
