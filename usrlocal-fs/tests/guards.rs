//! A mount never outlives its server for long, and says what goes on in it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by failing"
)]

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::{ANN, BEN, Stage, as_user, can_mount, errno, mounted, wait_for};
use rustix::process::Signal;

#[test]
fn a_killed_server_leaves_no_mount() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    as_user(ANN, || fs::write(stage.mnt("file"), "text")).unwrap();
    let open = as_user(ANN, || fs::File::open(stage.mnt("file"))).unwrap();
    let ended = stage.signal(Signal::KILL);
    assert!(!ended.success());
    wait_for("the supervisor", || !mounted(&stage.at("mnt")));
    assert_eq!(fs::read_to_string(stage.mnt("underneath")).unwrap(), "was here before");
    // What was open gets an answer, even if it is an error.
    let _ = open.metadata();
    drop(open);
    stage.serve(&[]);
    assert_eq!(as_user(ANN, || fs::read_to_string(stage.mnt("file"))).unwrap(), "text");
}

#[test]
fn signals_unmount_even_when_the_mount_is_in_use() {
    if !can_mount() {
        return;
    }
    for signal in [Signal::TERM, Signal::INT] {
        let mut stage = Stage::new();
        as_user(ANN, || fs::write(stage.mnt("file"), "text")).unwrap();
        let open = as_user(ANN, || fs::File::open(stage.mnt("file"))).unwrap();
        let ended = stage.signal(signal);
        assert!(ended.success() && !mounted(&stage.at("mnt")));
        drop(open);
    }
}

#[test]
fn a_dead_mount_is_cleared_at_the_start_and_a_live_one_is_refused() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    let second =
        stage.command(&["mount", "--scoreboard", stage.at("scoreboard").to_str().unwrap()]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("served already"), "{said}");
    // Server and supervisor killed together: nobody is left to clear up.
    let server = stage.server().id();
    let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap();
    for pid in children.split_whitespace() {
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
    stage.signal(Signal::KILL);
    wait_for("the end of the connection", || {
        errno(as_user(0, || fs::read_dir(stage.mnt("")))) == libc::ENOTCONN
    });
    stage.serve(&[]);
    wait_for("the new server", || fs::read_to_string(stage.mnt("underneath")).is_ok());
}

#[test]
fn unmount_leaves_a_busy_mount_alone_unless_forced() {
    if !can_mount() {
        return;
    }
    let stage = Stage::new();
    as_user(ANN, || fs::write(stage.mnt("file"), "text")).unwrap();
    let open = as_user(ANN, || fs::File::open(stage.mnt("file"))).unwrap();
    let said = stage.command(&["unmount"]);
    assert!(!said.status.success() && mounted(&stage.at("mnt")));
    assert!(String::from_utf8_lossy(&said.stderr).contains("busy"), "{said:?}");
    assert!(stage.command(&["unmount", "--force"]).status.success());
    assert!(!mounted(&stage.at("mnt")));
    drop(open);
    let said = stage.command(&["unmount"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("not served"), "{said:?}");
}

#[test]
fn the_server_ends_when_somebody_else_unmounts() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    assert!(stage.command(&["unmount"]).status.success());
    // Nothing is left to do for it, so it would end without the signal, too.
    assert!(stage.signal(Signal::TERM).success());
}

#[test]
fn root_is_told_what_goes_on() {
    if !can_mount() {
        return;
    }
    let stage = Stage::new();
    for user in [ANN, BEN] {
        as_user(user, || fs::write(stage.mnt("file"), "text")).unwrap();
    }
    let said = stage.command(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(status["server"], stage.server().id());
    let created =
        status["operations"].as_array().unwrap().iter().find(|op| op["name"] == "create").unwrap();
    assert_eq!(created["calls"], 2);
    let views = status["views"].as_array().unwrap();
    assert!(
        views.iter().any(|view| view["uid"] == ANN) && views.iter().any(|view| view["uid"] == BEN)
    );
    let said = stage.command(&["status", "--format", "prometheus"]);
    let text = String::from_utf8(said.stdout).unwrap();
    for line in [
        "usrlocal_fs_call_seconds_count{",
        "usrlocal_fs_cache_hits_total{",
        "operation=\"create\",le=\"+Inf\"} 2",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    let mount = stage.at("mnt");
    let room = &mut [0u8; 16];
    let told = as_user(ANN, || {
        rustix::fs::getxattr(&mount, "user.usrlocal-fs.status", room.as_mut_slice())
    });
    assert!(told.is_err());
}

#[test]
fn obuilders_own_form_mounts_in_the_background() {
    if !can_mount() {
        return;
    }
    let stage = Stage::prepare();
    let mounted_by = |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usrlocal-fs"));
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        command.arg(stage.at("scoreboard")).arg(stage.at("mnt")).args(["-o", "allow_other"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap()
    };
    for name in ["obuilderfs", "usrlocal-fs"] {
        assert!(mounted_by(name).success() && mounted(&stage.at("mnt")));
        as_user(ANN, || fs::write(stage.mnt("file"), name)).unwrap();
        assert_eq!(fs::read_to_string(stage.tree(ANN, "file")).unwrap(), name);
        assert!(stage.command(&["unmount"]).status.success());
    }
    fs::remove_dir_all(stage.at("scoreboard")).unwrap();
    assert!(!mounted_by("obuilderfs").success() && !mounted(&stage.at("mnt")));
}
