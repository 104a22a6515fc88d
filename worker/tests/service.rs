//! The worker as a service: what is written, which commands are run, and the log file.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A machine with managers that write down what they are told.
struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.path("bin")).unwrap();
        fs::create_dir(machine.path("units")).unwrap();
        for name in ["systemctl", "launchctl", "journalctl", "tail"] {
            let calls = machine.path("calls");
            let script = format!(
                "#!/bin/sh\necho {name} \"$@\" >>'{}'\ncase \" $* \" in *' status '* | *' print '*) exit 3;; esac\n",
                calls.display()
            );
            let path = machine.path("bin").join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let cap = machine.path("pool.cap");
        fs::write(&cap, "capnp://insecure@127.0.0.1:1/aGVsbG8\n").unwrap();
        fs::set_permissions(&cap, fs::Permissions::from_mode(0o600)).unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What `obuild-worker COMMAND --manager MANAGER ARGS` ends with, prints and complains of.
    fn run(&self, command: &str, manager: &str, args: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_obuild-worker"))
            .args([command, "--manager", manager, "--unit-dir"])
            .arg(self.path("units"))
            .args(args)
            .env_clear()
            .env("PATH", self.path("bin"))
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// Which commands were run since this was last asked.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        calls
            .replace(&self.path("units").display().to_string(), "UNITS")
            .lines()
            .map(String::from)
            .collect()
    }

    fn worker(&self) -> [String; 6] {
        let (cap, state) = (self.path("pool.cap"), self.path("state"));
        [
            "--connect",
            &cap.to_string_lossy(),
            "--name",
            "w1",
            "--state-dir",
            &state.to_string_lossy(),
        ]
        .map(str::to_owned)
    }
}

/// `before`, `--` and the worker's options.
fn with<'a>(before: &[&'a str], worker: &'a [String]) -> Vec<&'a str> {
    before.iter().copied().chain(["--"]).chain(worker.iter().map(|word| &**word)).collect()
}

#[test]
fn a_systemd_service_is_installed_driven_and_removed() {
    let machine = Machine::new();
    let worker = machine.worker();
    let (code, unit, err) = machine.run("install", "systemd", &with(&["--print"], &worker));
    assert_eq!((code, &*err), (0, ""));
    assert!(unit.contains("\"--name\" \"w1\"") && unit.contains("TimeoutStopSec=600"), "{unit}");
    assert!(machine.calls().is_empty() && !machine.path("units/obuild-worker.service").exists());

    let (code, _, err) = machine.run("install", "systemd", &with(&["--drain", "1h"], &worker));
    assert_eq!((code, &*err), (0, ""));
    let path = machine.path("units/obuild-worker.service");
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(written, unit.replace("TimeoutStopSec=600", "TimeoutStopSec=3600"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    let name = "obuild-worker.service";
    assert_eq!(
        machine.calls(),
        [
            "systemctl daemon-reload".to_owned(),
            format!("systemctl enable {name}"),
            format!("systemctl start {name}")
        ]
    );
    // Once more changes nothing, and another is not put in its place.
    assert_eq!(machine.run("install", "systemd", &with(&["--drain", "1h"], &worker)).0, 0);
    assert_eq!(machine.calls(), [format!("systemctl start {name}")]);
    let (code, _, err) = machine.run("install", "systemd", &with(&[], &worker));
    assert!(code == 2 && err.contains("--replace"), "{err}");
    assert!(machine.calls().is_empty());
    assert_eq!(machine.run("install", "systemd", &with(&["--replace"], &worker)).0, 0);
    assert_eq!(fs::read_to_string(&path).unwrap(), unit);
    assert_eq!(machine.calls()[0], format!("systemctl disable --now {name}"));

    assert_eq!(machine.run("stop", "systemd", &[]).0, 0);
    assert_eq!(machine.run("status", "systemd", &[]).0, 3, "the manager's code is ours");
    assert_eq!(machine.run("logs", "systemd", &["-n", "5", "--follow"]).0, 0);
    assert_eq!(
        machine.calls(),
        [
            format!("systemctl stop {name}"),
            format!("systemctl --no-pager status {name}"),
            format!("journalctl --no-pager -u {name} -n 5 -f")
        ]
    );
    let (_, printed, _) = machine.run("uninstall", "systemd", &["--print"]);
    assert_eq!(printed.lines().count(), 3, "{printed}");
    assert!(machine.calls().is_empty() && path.exists());
    assert_eq!(machine.run("uninstall", "systemd", &[]).0, 0);
    assert!(!path.exists());
    assert_eq!(machine.run("start", "systemd", &[]).0, 2, "it is not there any more");
}

#[test]
fn a_launchd_daemon_writes_a_log_of_its_own() {
    let machine = Machine::new();
    let worker = machine.worker();
    let mut with_log = worker.to_vec();
    let log = machine.path("w.log").display().to_string();
    with_log.push(format!("--log-file={log}"));
    let (code, _, err) = machine.run("install", "launchd", &with(&["--no-start"], &with_log));
    assert_eq!((code, &*err), (0, ""));
    assert_eq!(
        machine.calls(),
        [
            "launchctl print system/obuild-worker",
            "launchctl print system/obuild-worker",
            "launchctl enable system/obuild-worker"
        ]
    );
    assert_eq!(machine.run("start", "launchd", &[]).0, 0);
    assert_eq!(
        machine.calls(),
        [
            "launchctl bootstrap system UNITS/obuild-worker.plist",
            "launchctl kickstart system/obuild-worker"
        ]
    );
    let (_, printed, _) = machine.run("logs", "launchd", &["--print", "--follow"]);
    assert_eq!(printed, format!("tail -n 100 -F {log}\n"));
    let (_, unit, _) = machine.run("install", "launchd", &with(&["--print"], &worker));
    assert!(unit.contains("<string>/var/log/obuild-worker.log</string>"), "{unit}");
}

#[test]
fn what_could_not_start_is_not_installed() {
    let machine = Machine::new();
    let refused = |args: &[&str], why: &str| {
        let (code, _, err) = machine.run("install", "systemd", args);
        assert!(code == 2 && err.contains(why), "{args:?}: {err}");
    };
    refused(&[], "--connect is missing");
    refused(&["--", "--nmae", "x"], "--nmae");
    refused(&["--service", "a b"], "cannot be the name");
    let worker = machine.worker();
    let mut relative = worker.to_vec();
    relative[5] = "state".into();
    refused(&with(&[], &relative), "absolute path");
    refused(&with(&["--drain", "soon"], &worker), "--drain");
    fs::remove_file(machine.path("pool.cap")).unwrap();
    refused(&with(&[], &worker), "pool.cap");
    assert!(fs::read_dir(machine.path("units")).unwrap().next().is_none());
    assert!(machine.calls().is_empty());
}

/// Names and sizes of the files in `dir` that begin with `x.log`.
fn logs(dir: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut logs: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
        .filter(|(name, _)| name.starts_with("x.log"))
        .collect();
    logs.sort();
    logs
}

#[test]
fn the_log_file_is_turned_when_it_is_full() {
    let machine = Machine::new();
    let log = machine.path("x.log");
    // Nobody listens there, so it has something to say again and again.
    let mut worker = Command::new(env!("CARGO_BIN_EXE_obuild-worker"));
    worker.args(machine.worker()).args(["--max-reconnect-time", "1s", "--log-file"]).arg(&log);
    worker.args(["--log-file-size", "150", "--log-file-count", "2"]).env_clear();
    let mut worker = worker.env("PATH", std::env::var_os("PATH").unwrap()).spawn().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while logs(machine.dir.path()).len() < 3 {
        assert!(std::time::Instant::now() < end, "{:?}", logs(machine.dir.path()));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    worker.kill().unwrap();
    worker.wait().unwrap();
    let logs = logs(machine.dir.path());
    let names: Vec<_> = logs.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["x.log", "x.log.1", "x.log.2"]);
    assert!(logs.iter().all(|(_, len)| *len <= 400), "{logs:?}");
}
