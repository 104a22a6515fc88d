//! The world of a command is clean, whoever has started us and in whatever state.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "only tests are here"
)]

mod common;

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use common::{TestUser, is_root};
use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::stat::{Mode, umask};
use obuilder_core::step::Outcome;

/// Says to [`inside`] that it is asked for.
const INSIDE: &str = "OBUILD_TEST_WORLD";

const TELL: &str = "cat /proc/self/status; echo Umask2: $(umask); echo Oom: $(cat /proc/self/oom_score_adj)
    echo Stdin: $(readlink /proc/self/fd/0); echo Files: $(ulimit -Sn) $(ulimit -Hn); echo Stack: $(ulimit -Ss)
    echo Cpu: $(ulimit -t); echo Space: $(ulimit -v); echo Core: $(ulimit -c); echo Size: $(ulimit -f)
    echo Session: $(cut -d' ' -f5-8 /proc/$$/stat) $$; echo Env: $(env | cut -d= -f1 | sort)";

/// No test, but what the others run from a strange world: it tells what a step sees.
#[test]
fn inside() {
    if std::env::var(INSIDE).is_err() {
        return;
    }
    let user = TestUser::new();
    let (outcome, text) = user.fixture().sh(TELL);
    assert_eq!(outcome, Outcome::Exited(0), "{text}");
    println!("\nBEGIN\n{text}END");
}

/// What a step sees when `prepare` has been done to whoever runs it.
fn seen_from(prepare: fn() -> std::io::Result<()>) -> HashMap<String, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "inside", "--nocapture"]).env(INSIDE, "yes").stdin(Stdio::null());
    // SAFETY: only system calls are made.
    let output = unsafe { command.pre_exec(prepare) }.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told = text.split_once("BEGIN\n").and_then(|(_, rest)| rest.split_once("END"));
    let (told, _) =
        told.unwrap_or_else(|| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)));
    let pairs = told.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn may_raise_limits() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    // `CAP_SYS_RESOURCE`
    u64::from_str_radix(effective.trim(), 16).unwrap() & (1 << 24) != 0
}

/// Everything that a process passes on to those it starts.
fn strange() -> std::io::Result<()> {
    umask(Mode::from_bits_truncate(0o077));
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    // Who ignores SIGCHLD cannot wait for children; `obuild` does not pass that on to us.
    for signal in (1..=64).filter(|signal| *signal != libc::SIGCHLD) {
        // SAFETY: ignoring a signal touches no memory.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    setrlimit(Resource::RLIMIT_NOFILE, 100, 200)?;
    setrlimit(Resource::RLIMIT_CPU, 1000, 2000)?;
    setrlimit(Resource::RLIMIT_FSIZE, 1 << 30, 1 << 31)?;
    setrlimit(Resource::RLIMIT_STACK, 1 << 22, RLIM_INFINITY)?;
    if is_root() {
        // Not everywhere may root do that.
        let _ = fs::write("/proc/self/oom_score_adj", "-500");
        // Inheritable and ambient: the capability to trace processes (19).
        let header = [0x2008_0522_u32, 0];
        let mut sets = [0_u32; 6];
        // SAFETY: pointers to arrays of the right size.
        unsafe {
            libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr());
            sets[2] |= 1 << 19;
            if libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) == 0 {
                libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, 19, 0, 0);
            }
            // Not to lose capabilities with root.
            libc::prctl(libc::PR_SET_SECUREBITS, 0x4, 0, 0, 0);
        }
    }
    Ok(())
}

#[test]
fn the_world_of_a_command_is_the_same_whoever_starts_it() {
    let seen = seen_from(strange);
    let is = |name: &str, value: &str| assert_eq!(seen[name], value, "{name} of {seen:?}");
    is("Umask2", "0022");
    for mask in ["SigBlk", "SigIgn", "SigCgt"] {
        is(mask, "0000000000000000");
    }
    is("Stdin", "/dev/null");
    is("Core", "0");
    if is_root() {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            is(set, "0000000000000000");
        }
        is("Oom", "0");
    }
    if may_raise_limits() {
        is("Files", "1024 524288");
        is("Stack", "8192");
        for unlimited in ["Cpu", "Space", "Size"] {
            is(unlimited, "unlimited");
        }
    } else {
        is("Files", "200 200");
        is("Cpu", "2000");
    }
    let expected = "HOME LOGNAME PATH PWD SHELL TMPDIR USER";
    let names = seen["Env"].split(' ').filter(|name| !["_", "OLDPWD", "SHLVL"].contains(name));
    assert_eq!(names.collect::<Vec<_>>().join(" "), expected);
    // Process group, session, terminal and its foreground group, and the shell itself.
    let session: Vec<_> = seen["Session"].split(' ').collect();
    let (group, shell) = (session[0], session[4]);
    assert_eq!(session, [group, group, "0", "-1", shell]);
    assert_eq!(group, shell);
}

#[test]
fn a_calm_world_is_the_same_as_a_strange_one() {
    if !may_raise_limits() {
        return eprintln!("SKIP: some limits stay as they are where they may not be raised");
    }
    let (calm, strange) = (seen_from(|| Ok(())), seen_from(strange));
    let varying = [
        "Pid", "Tgid", "Ngid", "PPid", "NSpid", "NSpgid", "NSsid", "NStgid", "Session", "Uid",
        "Gid", "Groups",
    ];
    let figures = |name: &str| {
        name.starts_with("Vm")
            || name.starts_with("Rss")
            || name.contains("ctxt")
            || name.starts_with("Hugetlb")
    };
    for (name, value) in &calm {
        if !varying.contains(&name.as_str()) && !figures(name) {
            assert_eq!(strange.get(name), Some(value), "{name}");
        }
    }
}

#[test]
fn a_command_has_no_key_of_whoever_starts_it() {
    if !is_root() {
        return eprintln!("SKIP: the calling user's keys are the calling user's");
    }
    let name = format!("obuild-test-{}", std::process::id());
    let (kind, value) = (c"user", b"secret");
    let description = std::ffi::CString::new(name.clone()).unwrap();
    // In the session's keyring (-3), which is what is passed on; in one of this test's own (1, without a name).
    // SAFETY: strings end with a null byte, and the value is as long as we say.
    let key = unsafe {
        libc::syscall(libc::SYS_keyctl, 1, 0_usize);
        libc::syscall(
            libc::SYS_add_key,
            kind.as_ptr(),
            description.as_ptr(),
            value.as_ptr(),
            value.len(),
            -3,
        )
    };
    if key == -1 {
        return eprintln!("SKIP: no key can be made here");
    }
    // For everybody who possesses it.
    let (_, text) = TestUser::new().fixture().sh("cat /proc/keys; true");
    assert!(!text.contains(&name), "{text}");
}

#[test]
fn a_key_of_a_step_goes_with_it() {
    if !is_root() || !std::path::Path::new("/usr/bin/perl").exists() {
        return eprintln!("SKIP: it takes a build user, and perl to make a key");
    }
    let user = TestUser::new();
    let fixture = user.fixture();
    // Keyring -4 is the user's own, and 10 searches it.
    let call = |number, arguments: &str| {
        let names = "my ($t, $d, $v) = (\"user\", \"obuild-key\", \"x\");";
        format!("perl -e '{names} print syscall({number}, {arguments}) != -1 ? \"yes\" : \"no\"'")
    };
    let make = call(libc::SYS_add_key, "$t, $d, $v, 1, -4");
    let search = call(libc::SYS_keyctl, "10, -4, $t, $d, 0");
    let made = fixture.sh(&format!("{make}; {search}")).1;
    if made != "yesyes" {
        return eprintln!("SKIP: a step can make no key here: {made}");
    }
    assert_eq!(fixture.sh(&search).1, "no");
}
