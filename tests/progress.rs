//! The views: `plain` is tested with the builds, here are `json` and the terminal's.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use common::World;
use serde_json::Value;

const SPEC: &str = "((build dev ((from scratch) (run (shell \"echo made > f\"))))
    (from scratch) (comment hi) (copy (from (build dev)) (src f) (dst f)) (run (shell \"cat f; printf '\\\\377'\")))";

fn events(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn json_is_one_event_a_line() {
    let world = World::new();
    let spec = world.spec(SPEC);
    let args = ["build", "--progress=json", spec.to_str().unwrap()];
    let finished = world.run(args).success();
    let all = events(&finished.stdout);
    let of = |kind: &str| all.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    assert_eq!(of("build-started")[0]["name"], "dev");
    assert_eq!(of("heading")[0]["stage"][0], "dev");
    assert_eq!(of("step-started").len(), 5);
    assert!(of("step-finished").iter().any(|event| event["end"] == "saved"));
    let output: String = of("output").iter().filter_map(|event| event["text"].as_str()).collect();
    assert!(output.contains("made\n"), "{output}");
    assert_eq!(of("output").last().unwrap()["hex"], "ff");
    assert_eq!(all.last().unwrap()["event"], "result");
    assert!(all.iter().all(|event| event["at"].is_number()));
    let again = events(&world.run(args).success().stdout);
    let ends = again.iter().filter_map(|event| event.get("end"));
    assert!(ends.into_iter().all(|end| end == "cached"));
    assert_eq!(again.last().unwrap()["id"], all.last().unwrap()["id"]);
}

#[test]
fn warnings_are_messages_and_events() {
    let world = World::new();
    let spec = world.spec("((from scratch) (run (shell \"echo begun; sleep 600\")))");
    let mut killed = world.start(["build", spec.to_str().unwrap()]);
    killed.wait_for("begun\n");
    killed.signal(nix::sys::signal::Signal::SIGKILL);
    killed.finish();
    let spec = world.spec("((from scratch) (run (shell \"echo again\")))");
    let finished = world.run(["build", "--progress=json", spec.to_str().unwrap()]).success();
    let all = events(&finished.stdout);
    let finished = finished.says("warning: removing the tree of a step that was killed (home /");
    let warnings = all.iter().filter(|event| event["event"] == "warning");
    let texts: Vec<_> = warnings.map(|event| event["text"].as_str().unwrap()).collect();
    assert!(texts.iter().any(|text| text.starts_with("removing the tree")), "{texts:?}");
    assert!(!finished.stderr.contains("WARN"), "{finished:#?}");
    world.assert_clean();
}

#[test]
fn json_tells_of_failures() {
    let world = World::new();
    let spec = world.spec("((from scratch) (run (shell \"exit 4\")))");
    let finished =
        world.run(["build", "--progress=json", spec.to_str().unwrap()]).code(1).says("error: ");
    let all = events(&finished.stdout);
    let last = all.last().unwrap();
    assert_eq!((&last["event"], &last["kind"]), (&"error".into(), &"step".into()));
    assert!(last["causes"].to_string().contains("exit status 4"), "{last}");
    assert!(last["hints"].to_string().contains("obuild log"), "{last}");
}

#[test]
fn json_tells_of_what_keeps_a_build_from_starting() {
    let world = World::new();
    let spec = world.spec("((from scratch) (runn (shell true)))");
    let finished = world.run(["build", "--progress=json", spec.to_str().unwrap()]).code(2);
    let all = events(&finished.stdout);
    assert_eq!((all.len(), &all[0]["kind"]), (1, &"usage".into()));
    assert!(all[0]["excerpt"].as_str().unwrap().contains("(runn (shell true))"));
}

#[test]
fn every_event_is_documented() {
    let docs = include_str!("../docs/events.md");
    let source = include_str!("../src/progress/json.rs");
    let body = source.split("enum Body").nth(1).unwrap().split("\n}").next().unwrap();
    let mut count = 0;
    for line in body.lines().skip(1) {
        let name: String = line.trim().chars().take_while(|c| c.is_alphanumeric()).collect();
        let kebab = name.char_indices().fold(String::new(), |mut all, (at, c)| {
            if c.is_uppercase() && at > 0 {
                all.push('-');
            }
            all.push(c.to_ascii_lowercase());
            all
        });
        assert!(docs.contains(&format!("`{kebab}`")), "docs/events.md does not tell of `{kebab}`");
        count += 1;
    }
    assert_eq!(count, 12);
}

/// Runs a build on a terminal of its own; gives what it wrote there.
fn on_terminal(world: &World, spec: &str, more: &[&str]) -> (String, i32) {
    interrupted_at(world, spec, more, None)
}

/// Likewise, and interrupts it when it has written `moment`.
fn interrupted_at(
    world: &World,
    spec: &str,
    more: &[&str],
    mut moment: Option<&str>,
) -> (String, i32) {
    let size = nix::pty::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(&size, None).unwrap();
    let spec = world.spec(spec);
    let mut command = world.command(["build", "--progress=auto", spec.to_str().unwrap()]);
    command.args(more).env("TERM", "xterm-256color");
    command.stdout(pty.slave.try_clone().unwrap()).stderr(pty.slave.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    drop(command);
    drop::<OwnedFd>(pty.slave);
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    let mut master = File::from(pty.master);
    // Reading fails when the last writer has gone.
    while let Ok(read @ 1..) = master.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..read]);
        if moment.is_some_and(|text| String::from_utf8_lossy(&seen).contains(text)) {
            moment = None;
            let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        }
    }
    let code = child.wait().unwrap().code().unwrap();
    (String::from_utf8_lossy(&seen).into_owned(), code)
}

#[test]
fn a_terminal_shows_steps_and_a_summary() {
    let world = World::new();
    let spec = "((from scratch) (run (shell \"echo first; sleep 0.4; echo last\")))";
    let (seen, code) = on_terminal(&world, spec, &[]);
    assert_eq!(code, 0, "{seen}");
    for part in
        ["✓", "(from scratch)", "│ ", "first", "2 steps in ", "0 cached, 2 built", "Got: \""]
    {
        assert!(seen.contains(part), "{part:?} is not in {seen}");
    }
    let (seen, _) = on_terminal(&world, spec, &[]);
    assert!(seen.contains("cached") && seen.contains("2 cached, 0 built"), "{seen}");
}

#[test]
fn a_terminal_shows_what_was_interrupted() {
    let world = World::new();
    let spec = "((from scratch) (run (shell \"echo begun; sleep 600\")))";
    // The dimmed line, not the title.
    let (seen, code) = interrupted_at(&world, spec, &[], Some("│ \u{1b}[2mbegun"));
    assert_eq!(code, 130, "{seen}");
    for part in ["■", "2 steps in ", "0 cached, 1 built, 1 cancelled", "error: the build was"] {
        assert!(seen.contains(part), "{part:?} is not in {seen}");
    }
    assert!(!seen.contains("✗"), "nothing has failed: {seen}");
    world.assert_clean();
}

#[test]
fn a_terminal_keeps_the_end_of_a_failed_steps_output() {
    let world = World::new();
    let spec = "((from scratch) (run (shell \"seq 1 40; printf 'gone\\\\rstays\\\\n\\\\033[2Jclean\\\\n'; exit 3\")))";
    let (seen, code) = on_terminal(&world, spec, &[]);
    assert_eq!(code, 1, "{seen}");
    for part in ["✗", "│ 40", "│ stays", "│ clean", "exit status 3", "hint: "] {
        assert!(seen.contains(part), "{part:?} is not in {seen}");
    }
    assert!(!seen.contains("\u{1b}[2J"), "a step cleared the screen: {seen}");
}

#[test]
fn colour_can_be_switched_off() {
    let world = World::new();
    let spec = world.spec("((from scratch) (run (shell \"echo x\")))");
    let mut command = world.command(["build", "--progress=tty", spec.to_str().unwrap()]);
    command.env("NO_COLOR", "1");
    let finished = common::Running::start(command).finish().success();
    assert!(finished.stderr.contains("✓") && !finished.stderr.contains('\u{1b}'), "{finished:#?}");
    assert_eq!(finished.stdout, format!("Got: \"{}\"\n", finished.got()));
}
