use std::cell::RefCell;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn shell(script: &str, cancel: &Cancel) -> (Result<ExitStatus>, String) {
    let args = ["-c".into(), script.into()];
    let bounds = Bounds { file: 1 << 20, memory: 1 << 32, time: LONG };
    let env = [("PATH".into(), "/usr/bin:/bin".into())];
    let (path, dir) = (Path::new("/bin/sh"), Path::new("/"));
    let program = Program { path, args: &args, env: &env, dir, input: b"in\n", held: None, bounds };
    let printed = RefCell::new(Vec::new());
    let mut take = |bytes: &[u8]| {
        printed.borrow_mut().extend_from_slice(bytes);
        if printed.borrow().starts_with(b"cancel") {
            cancel.cancel();
        }
        Ok(())
    };
    let ended = run(&program, Output::Together(&mut take), &mut || Ok(LONG), cancel);
    (ended, String::from_utf8_lossy(&printed.borrow()).into_owned())
}

fn lives(pid: &str) -> bool {
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::test_kill_process(pid).is_ok() && !is_zombie(pid)
}

/// An orphan that was killed waits for `init` to reap it.
fn is_zombie(pid: Pid) -> bool {
    let number = pid.as_raw_nonzero().to_string();
    let output = Command::new("ps").args(["-o", "stat=", "-p", &number]).output().unwrap().stdout;
    output.is_empty() || output.starts_with(b"Z")
}

fn wait_for_end(pid: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    while lives(pid) {
        assert!(Instant::now() < end, "{pid} lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn both_streams_arrive_and_the_status_too() {
    let (ended, printed) =
        shell("read x; echo out $x; echo err >&2; umask; exit 3", &Cancel::new());
    assert_eq!(ended.unwrap().code(), Some(3));
    assert_eq!(printed, "out in\nerr\n0022\n");
}

#[test]
fn cancelling_ends_the_whole_group_at_once() {
    let begun = Instant::now();
    let (ended, printed) = shell("sleep 60 & echo cancel $!; sleep 60", &Cancel::new());
    assert!(matches!(ended, Err(Error::Cancelled)));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    wait_for_end(printed.trim_start_matches("cancel"));
}

#[test]
fn who_stays_behind_is_ended_and_holds_nothing_up() {
    let begun = Instant::now();
    let (ended, printed) = shell("sleep 60 & echo $!", &Cancel::new());
    assert!(ended.unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    wait_for_end(&printed);
}

#[test]
fn files_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("big");
    let script = format!("head -c 3000000 /dev/zero > '{}'", file.display());
    let (ended, _) = shell(&script, &Cancel::new());
    assert!(!ended.unwrap().success());
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
}

#[test]
fn a_program_that_is_not_there() {
    let bounds = Bounds { file: 1, memory: 1 << 32, time: LONG };
    let (path, dir) = (Path::new("/nonexistent/git"), Path::new("/"));
    let program = Program { path, args: &[], env: &[], dir, input: b"", held: None, bounds };
    let ended = run(&program, Output::Together(&mut |_| Ok(())), &mut || Ok(LONG), &Cancel::new());
    assert!(ended.unwrap_err().to_string().contains("failed to run `/nonexistent/git`"));
}
