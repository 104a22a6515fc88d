//! `deploy/ansible` brings a worker from nothing to serving on this machine, to another version, and back.
//!
//! The programs, the users, the store and the scheduler's jobs are real. In systemd's place stands a script that runs what the unit
//! says and sends SIGTERM to stop it: in most places where tests run there is no systemd to be had.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops where it fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "../../tests/common/uid.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod uid;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Client, eventually, run};
use ocluster::testing::{Scheduler, Security};
use program::Place;

/// Runs what a unit says, for as long as somebody wants it.
const SYSTEMCTL: &str = r#"#!/bin/sh
eval "name=\${$#}"
unit=UNITS/$name pid=UNITS/$name.pid
alive() { [ -e "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; }
stop() { while alive; do kill -TERM "$(cat "$pid")"; n=0
    while alive && [ $n -lt 600 ]; do sleep 0.1; n=$((n + 1)); done; done; rm -f "$pid"; }
case "$*" in
start*) alive && exit 0
    eval "set -- $(sed -n 's/^ExecStart=//p' "$unit")"
    "$@" >>UNITS/log 2>&1 </dev/null & echo $! >"$pid" ;;
stop*) stop ;;
*disable*) stop ;;
*status*) alive ;;
esac
"#;

fn there(program: &str) -> bool {
    let mut command = Command::new(program);
    let found = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

fn ansible() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/ansible")
}

#[test]
fn ansible_lint_finds_nothing() {
    if !there("ansible-lint") {
        eprintln!("SKIP: what ansible-lint says of deploy/ansible: it is not here");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let mut lint = Command::new("ansible-lint");
    lint.args(["--offline", "-q", "site.yml", "update.yml", "rollback.yml", "roles"]);
    let output = lint.current_dir(ansible()).env("HOME", home.path()).output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}", said.concat());
}

/// A machine to deploy to: this one, with all directories elsewhere.
struct Machine {
    place: Place,
    port: u16,
}

impl Machine {
    fn new(scheduler: &Scheduler) -> Self {
        let place = Place::new(scheduler, 2);
        for dir in ["bin", "units", "programs", "broken", "dud", "home"] {
            fs::create_dir(place.path(dir)).unwrap();
        }
        let units = place.path("units").display().to_string();
        script(&place.path("bin/systemctl"), &SYSTEMCTL.replace("UNITS", &units));
        let built = Path::new(env!("CARGO_BIN_EXE_obuild-worker")).parent().unwrap();
        for name in ["obuild", "obuild-worker", "usrlocal-fs"] {
            let to = place.path("programs").join(name);
            // Without what only a debugger wants, where that can be had.
            let mut strip = Command::new("strip");
            let stripped = strip.arg("-o").arg(&to).arg(built.join(name)).status();
            if !stripped.is_ok_and(|status| status.success()) {
                fs::copy(built.join(name), &to).unwrap();
            }
            // Whoever looks at it before it has to serve finds nothing wrong.
            script(&place.path("broken").join(name), "#!/bin/sh\n[ \"$1\" = check ]\n");
            script(&place.path("dud").join(name), "#!/bin/sh\nexit 1\n");
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self { port: free.local_addr().unwrap().port(), place }
    }

    /// Runs a playbook; gives whether it came to its end, and what it said.
    fn play(&self, name: &str, version: &str, programs: &str) -> (bool, String) {
        let path = |name: &str| self.place.path(name).display().to_string();
        let variables = [
            ("obuild_worker_become", "false".to_owned()),
            ("obuild_worker_packages", "false".to_owned()),
            ("obuild_worker_name", "w1".to_owned()),
            ("obuild_worker_cap", path("pool.cap")),
            ("obuild_worker_programs", path(programs)),
            ("obuild_worker_version", version.to_owned()),
            ("obuild_worker_slots", "2".to_owned()),
            ("obuild_worker_uid", self.place.uid().to_string()),
            ("obuild_worker_user_prefix", uid::PREFIX.to_owned()),
            ("obuild_worker_drain", "60".to_owned()),
            ("obuild_worker_patience", if programs == "broken" { "2" } else { "90" }.to_owned()),
            ("obuild_worker_metrics", format!("127.0.0.1:{}", self.port)),
            ("obuild_worker_prefix", path("opt")),
            ("obuild_worker_bin", path("bin")),
            ("obuild_worker_etc", path("etc")),
            ("obuild_worker_data", path("data")),
            ("obuild_worker_unit_dir", path("units")),
        ];
        let mut command = Command::new("ansible-playbook");
        command.args(["-i", "localhost,", "-c", "local", name]);
        for (name, value) in variables {
            command.arg("-e").arg(format!("{name}={value}"));
        }
        command.args(["-e", "{\"obuild_worker_settings\": {\"obuilder-prune-threshold\": 0}}"]);
        let python = format!("ansible_python_interpreter={}", "/usr/bin/python3");
        command.args(["-e", &python]).arg("-e").arg(image(&self.place));
        let tools = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{tools}", path("bin"))).env("HOME", path("home"));
        command.env("ANSIBLE_NOCOLOR", "1").env("LC_ALL", "C.UTF-8").current_dir(ansible());
        // Every host of a play is in the group `workers`.
        command.args(["--limit", "localhost"]);
        let inventory = self.place.path("inventory");
        fs::write(&inventory, "[workers]\nlocalhost\n").unwrap();
        command.arg("-i").arg(inventory);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    fn link(&self, name: &str) -> String {
        let target = fs::read_link(self.place.path("opt").join(name)).unwrap();
        target.to_string_lossy().into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let systemctl = self.place.path("bin/systemctl");
        let _ = Command::new(systemctl).args(["stop", "obuild-worker.service"]).status();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.place.path("units/log")).unwrap_or_default();
            eprintln!("the worker said:\n{log}");
        }
    }
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// An archive of a base image, as the variable that names it.
fn image(place: &Place) -> String {
    let (dir, archive) = (place.path("image"), place.path("image.tar.gz"));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("greeting"), "from the image\n").unwrap();
    let tar = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&dir).arg(".").status();
    assert!(tar.unwrap().success());
    let archive = archive.display();
    format!(
        "{{\"obuild_worker_base_images\": [{{\"name\": \"greeter\", \"archive\": \"{archive}\"}}]}}"
    )
}

#[test]
fn a_worker_is_deployed_updated_and_brought_back() {
    // It takes longer than all others, and nothing of it depends on the order.
    if std::env::var("OBUILD_TEST_DEPLOY").is_ok_and(|said| said == "0") {
        eprintln!("SKIP: deploy/ansible: OBUILD_TEST_DEPLOY=0");
        return;
    }
    let built = Path::new(env!("CARGO_BIN_EXE_obuild-worker")).parent().unwrap();
    let missing = ["obuild", "usrlocal-fs"].into_iter().find(|name| !built.join(name).exists());
    if !nix::unistd::geteuid().is_root() || !there("ansible-playbook") || missing.is_some() {
        eprintln!("SKIP: deploy/ansible: it takes root, ansible-playbook and all programs built");
        return;
    }
    let mut scheduler = Scheduler::start("p", Security::Tls);
    let machine = Machine::new(&scheduler);
    let (done, said) = machine.play("site.yml", "1", "programs");
    assert!(done, "{said}");
    scheduler.wait_until("it serves", |live| live.queues == 1);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("((from greeter) (run (shell \"cat greeting\")))");
        job.result().await.unwrap();
    });
    let (done, said) = machine.play("site.yml", "1", "programs");
    assert!(done && said.contains("changed=0"), "{said}");
    let (done, said) = machine.play("site.yml", "1", "broken");
    assert!(!done && said.contains("differs from the one in use, version 1"), "{said}");
    // A change that a play did not bring to its end is brought there by the next one.
    let cap = machine.place.path("pool.cap");
    fs::write(&cap, fs::read_to_string(&cap).unwrap() + "\n").unwrap();
    scheduler.stop();
    let (done, said) = machine.play("site.yml", "1", "programs");
    assert!(!done, "nobody answers: {said}");
    scheduler.start_again();
    scheduler.wait_until("it has found the scheduler again", |live| live.queues == 1);
    let before = scheduler.live().registrations;
    let (done, said) = machine.play("site.yml", "1", "programs");
    assert!(done, "{said}");
    assert_eq!(scheduler.live().registrations, before + 1, "it has restarted: {said}");
    let (done, said) = machine.play("site.yml", "1", "programs");
    assert!(done && said.contains("changed=0"), "{said}");
    let registered = scheduler.live().registrations;

    let (done, said) = machine.play("update.yml", "2", "programs");
    assert!(done, "{said}");
    assert_eq!((&*machine.link("current"), &*machine.link("previous")), ("2", "1"));
    scheduler.wait_until("the new one serves", |live| live.registrations > registered);

    let registered = scheduler.live().registrations;
    let (done, said) = machine.play("update.yml", "3", "dud");
    assert!(!done && said.contains("Prove that the new version runs"), "{said}");
    assert_eq!(
        (machine.link("current").as_str(), scheduler.live().registrations),
        ("2", registered)
    );

    let (done, said) = machine.play("update.yml", "4", "broken");
    assert!(!done && said.contains("Version 4 does not serve; 2 is back"), "{said}");
    assert_eq!(machine.link("current"), "2");
    eventually("the old one serves", || scheduler.active_workers() == ["w1"]);

    let (done, said) = machine.play("rollback.yml", "2", "programs");
    assert!(done, "{said}");
    assert_eq!((&*machine.link("current"), &*machine.link("previous")), ("1", "2"));
    eventually("the first one serves", || scheduler.active_workers() == ["w1"]);
    scheduler.check();
}
