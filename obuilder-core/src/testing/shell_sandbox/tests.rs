//! What the recorded specs do, in a real tree.

use std::fs;
use std::time::{Duration, Instant};

use bstr::BString;

use super::*;
use crate::step::{CacheMount, SecretMount};

/// `None`, and a line that says why, where there are no namespaces.
fn sandbox() -> Option<ShellSandbox> {
    match ShellSandbox::new() {
        Ok(sandbox) => Some(sandbox),
        Err(error) => {
            eprintln!("SKIP: {error}");
            None
        }
    }
}

fn step(command: &str) -> Step {
    Step {
        argv: ["/bin/sh", "-c", command].map(BString::from).to_vec(),
        workdir: "/".into(),
        env: vec![("PATH".into(), "/bin:/usr/bin".into())],
        user: User::ROOT,
        network: vec![],
        caches: vec![],
        secrets: vec![],
        timeout: None,
    }
}

struct Ran {
    dir: tempfile::TempDir,
    sandbox: ShellSandbox,
}

impl Ran {
    fn new(sandbox: ShellSandbox) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("rootfs")).unwrap();
        Self { dir, sandbox }
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    fn run(&self, step: &Step) -> (Outcome, String) {
        self.run_with(step, &Cancel::new())
    }

    fn run_with(&self, step: &Step, cancel: &Cancel) -> (Outcome, String) {
        let path = self.dir.path().join("log");
        let log = BuildLog::create(&path).unwrap();
        let outcome = self.sandbox.run(step, &self.tree(), &log, cancel, &|_| {}).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let left: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["rootfs"], "nothing stays beside the tree");
        (outcome, text)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.tree()).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_step_sees_its_tree_as_the_root_and_leaves_nothing_of_the_host_in_it() {
    let Some(sandbox) = sandbox() else { return };
    let ran = Ran::new(sandbox);
    assert_eq!(
        ran.run(&step("mkdir /d && echo hi > /d/f; cat /d/f; ls -d /usr/bin")),
        (Outcome::Exited(0), "hi\n/usr/bin\n".into())
    );
    assert_eq!(ran.names(), ["d"]);
    assert_eq!(ran.run(&step("hostname; exit 3")), (Outcome::Exited(3), "builder\n".into()));
}

#[test]
fn what_a_step_writes_among_the_hosts_files_lands_in_its_tree() {
    let Some(sandbox) = sandbox() else { return };
    if !sandbox.root {
        return eprintln!("SKIP: only root may write among the host's files");
    }
    let ran = Ran::new(sandbox);
    ran.run(&step("echo x > /usr/local/seen"));
    assert_eq!(ran.names(), ["usr"]);
    assert!(!Path::new("/usr/local/seen").exists());
    assert_eq!(ran.run(&step("cat /usr/local/seen")).1, "x\n");
}

#[test]
fn a_step_runs_as_its_user_in_its_workdir_with_its_environment_alone() {
    let Some(sandbox) = sandbox() else { return };
    let ran = Ran::new(sandbox);
    let mut step = step("id -u; id -g; pwd; echo two > two; echo $A; env | grep -c HOME");
    step.user = User::Ids { uid: 1000, gid: 1001 };
    step.workdir = "/wd/sub".into();
    step.env.push(("A".into(), "first".into()));
    step.env.push(("A".into(), "second".into()));
    assert_eq!(ran.run(&step).1, "1000\n1001\n/wd/sub\nfirst\n0\n");
    assert_eq!(fs::read_to_string(ran.tree().join("wd/sub/two")).unwrap(), "two\n");
}

#[test]
fn caches_and_secrets_are_seen_and_leave_no_trace() {
    let Some(sandbox) = sandbox() else { return };
    let ran = Ran::new(sandbox);
    let cache = tempfile::tempdir().unwrap();
    let mut first = step(
        "echo x >> /var/c1/n; cat /run/secrets/one '/run/secrets/two words'; stat -c %a /run/secrets/one",
    );
    first.caches =
        vec![CacheMount { id: "c1".into(), dir: cache.path().into(), target: "/var/c1".into() }];
    let secret = |target: &str, value: &str| SecretMount {
        id: "s".into(),
        target: target.into(),
        value: value.into(),
    };
    first.secrets = vec![secret("/run/secrets/one", "1"), secret("/run/secrets/two words", "2")];
    assert_eq!(ran.run(&first).1, "12400\n");
    assert_eq!(ran.names(), Vec::<String>::new());
    assert_eq!(fs::read_to_string(cache.path().join("n")).unwrap(), "x\n");
    first.user = User::Ids { uid: 1000, gid: 1001 };
    assert_eq!(ran.run(&first).1, "12400\n");
    assert_eq!(fs::read_to_string(cache.path().join("n")).unwrap(), "x\nx\n");
}

#[test]
fn cancelling_and_time_limits_end_everything() {
    let Some(sandbox) = sandbox() else { return };
    let ran = Ran::new(sandbox);
    let mut long = step("trap '' TERM INT; (setsid sleep 1000 &) ; echo started; sleep 1000");
    long.timeout = Some(Duration::from_millis(200));
    let started = Instant::now();
    assert_eq!(ran.run(&long), (Outcome::TimedOut(Duration::from_millis(200)), "started\n".into()));
    long.timeout = None;
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            cancel.wait_timeout(Duration::from_millis(200));
            cancel.cancel();
        });
        assert_eq!(ran.run_with(&long, &cancel).0, Outcome::Cancelled);
    });
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(
        ran.run(&step("(setsid sleep 1000 &); echo done")),
        (Outcome::Exited(0), "done\n".into())
    );
    assert_eq!(ran.names(), Vec::<String>::new());
}

fn fixture() -> Option<crate::testing::sandbox::Fixture> {
    let ran = Ran::new(sandbox()?);
    let scratch = ran.dir.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let (sandbox, guard) = (Box::new(ran.sandbox), Box::new(ran.dir));
    Some(crate::testing::sandbox::Fixture { sandbox, scratch, root: "/".into(), guard })
}

crate::sandbox_conformance!(fixture);
