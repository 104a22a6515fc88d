use std::process::{Command, Stdio};

use super::*;

fn service(manager: Manager) -> Service {
    let log_file = (manager == Manager::Launchd).then(|| "/var/log/w.log".into());
    Service { manager, name: "obuild-worker".into(), unit_dir: None, log_file }
}

fn unit() -> Unit {
    let argv = ["/bin/cat", "--name", "50% of \"$HOME\" <&>\\", "--config", "/etc/a b.toml"];
    Unit { argv: argv.map(String::from).to_vec(), drain: 600, path: "/usr/bin:/bin".into() }
}

/// The commands on one line each, with a `-` before those that may fail.
fn shown(service: &Service, deed: Deed) -> String {
    let line = |step: &Step| {
        let words: Vec<_> = step.argv.iter().map(|word| word.to_string_lossy()).collect();
        format!("{}{}", if step.may_fail { "-" } else { "" }, words.join(" "))
    };
    service.steps(deed).iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A program that reads what others are to read; `None`, visibly, where it is not there.
fn reader(program: &str, args: &[&str]) -> Option<Command> {
    let mut command = Command::new(program);
    let found = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        eprintln!("SKIP: what {program} makes of a unit: it is not here");
        return None;
    }
    let mut command = Command::new(program);
    command.args(args);
    Some(command)
}

#[test]
fn systemd_reads_the_unit() {
    let text = service(Manager::Systemd).unit(&unit());
    assert!(
        text.contains(r#"ExecStart="/bin/cat" "--name" "50%% of \"$$HOME\" <&>\\" "#),
        "{text}"
    );
    assert!(text.contains("\nTimeoutStopSec=600\n") && text.contains("\nRestart=always\n"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("obuild-worker.service");
    std::fs::write(&path, text).unwrap();
    let Some(mut verify) = reader("systemd-analyze", &["verify", "--man=no"]) else { return };
    let output = verify.arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("obuild-worker.service"), "{said}");
}

#[test]
fn the_daemon_is_a_property_list() {
    let text = service(Manager::Launchd).unit(&unit());
    let program = "import plistlib, sys, json; print(json.dumps(plistlib.load(sys.stdin.buffer)))";
    let Some(mut python) = reader("python3", &["-c", program]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.plist");
    std::fs::write(&path, text).unwrap();
    let output = python.stdin(std::fs::File::open(&path).unwrap()).output().unwrap();
    let json = String::from_utf8(output.stdout).unwrap();
    for part in [
        r#""Label": "obuild-worker""#,
        r#""ProgramArguments": ["/bin/cat", "--name", "50% of \"$HOME\" <&>\\", "--config", "/etc/a b.toml"]"#,
        r#""EnvironmentVariables": {"PATH": "/usr/bin:/bin"}"#,
        r#""KeepAlive": true"#,
        r#""ExitTimeOut": 600"#,
        r#""SoftResourceLimits": {"NumberOfFiles": 65536}"#,
        r#""StandardErrorPath": "/var/log/w.err""#,
    ] {
        assert!(json.contains(part), "{part} is not in {json}");
    }
}

#[test]
fn systemd_is_driven_by_its_commands() {
    let service = service(Manager::Systemd);
    assert_eq!(service.unit_path(), Path::new("/etc/systemd/system/obuild-worker.service"));
    let said = |deed| shown(&service, deed);
    assert_eq!(
        said(Deed::Install),
        "systemctl daemon-reload\nsystemctl enable obuild-worker.service"
    );
    assert_eq!(said(Deed::Uninstall), "systemctl disable --now obuild-worker.service");
    assert_eq!(said(Deed::Forget), "systemctl daemon-reload");
    assert_eq!(said(Deed::Stop), "systemctl stop obuild-worker.service");
    assert_eq!(
        said(Deed::Logs { lines: 9, follow: true }),
        "journalctl --no-pager -u obuild-worker.service -n 9 -f"
    );
    let own = Service { log_file: Some("/l".into()), ..service };
    assert_eq!(shown(&own, Deed::Logs { lines: 9, follow: false }), "tail -n 9 /l");
}

#[test]
fn launchd_is_driven_by_its_commands() {
    let service = service(Manager::Launchd);
    let path = "/Library/LaunchDaemons/obuild-worker.plist";
    assert_eq!(service.unit_path(), Path::new(path));
    let said = |deed| shown(&service, deed);
    let unloaded = "/bin/sh -c launchctl print system/obuild-worker >/dev/null 2>&1 || exit 0; \
                    launchctl bootout system/obuild-worker || [ $? = 36 ]\n\
                    /bin/sh -c n=0; while launchctl print system/obuild-worker >/dev/null 2>&1; do \
                    n=$((n+1)); if [ $n -gt 7200 ]; then echo 'system/obuild-worker does not end' >&2; \
                    exit 1; fi; sleep 1; done";
    let enabled = "launchctl enable system/obuild-worker";
    assert_eq!(said(Deed::Install), format!("{unloaded}\n{enabled}"));
    assert_eq!(
        said(Deed::Start),
        format!("-launchctl bootstrap system {path}\nlaunchctl kickstart system/obuild-worker")
    );
    assert_eq!(said(Deed::Stop), unloaded);
    assert_eq!(said(Deed::Logs { lines: 5, follow: true }), "tail -n 5 -F /var/log/w.log");
    let without = Service { log_file: None, ..service };
    let lines = Deed::Logs { lines: 5, follow: false };
    assert_eq!(shown(&without, lines), "tail -n 5 /var/log/obuild-worker.err");
}

#[test]
fn names_are_such_as_every_manager_takes() {
    for name in ["obuild-worker", "a.b_c-2"] {
        assert!(Service::is_name(name), "{name}");
    }
    for name in ["", "a b", "../x", "-x", ".x", "a/b", "ä", "a@b", &"x".repeat(101)] {
        assert!(!Service::is_name(name), "{name}");
    }
}
