//! A shell on a real terminal.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "only tests are here"
)]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{TestUser, needs_root};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use obuilder_core::Sandbox;
use obuilder_core::testing::sandbox::step;
use sandbox_macos::{Account, BuildUserSandbox, Config};

/// Where the process on the terminal finds its settings.
const GUEST: &str = "OBUILD_TEST_GUEST";

/// No test, but what the next one runs on a terminal.
#[test]
fn guest() {
    let Ok(settings) = std::env::var(GUEST) else { return };
    let [home, uid] = settings.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let mut config = Config::new(home);
    config.users = Account::several("obt", uid.parse().unwrap(), 1);
    config.lock_dir = Path::new(home).with_file_name("locks");
    let mut shell = step("");
    shell.argv = ["/bin/bash", "--norc", "--noprofile", "-i"].map(Into::into).to_vec();
    shell.env.push(("PS1".into(), "$ ".into()));
    let tree = Path::new(home).with_file_name("scratch").join("tree/rootfs");
    let outcome = BuildUserSandbox::new(config).unwrap().run_on_terminal(&shell, &tree, &|_| {});
    println!("it ended: {:?}", outcome.unwrap());
    let modes = nix::sys::termios::tcgetattr(std::io::stdin()).unwrap();
    println!("echo again: {}", modes.local_flags.contains(nix::sys::termios::LocalFlags::ECHO));
    println!(
        "the terminal is ours again: {:?}",
        nix::unistd::tcgetpgrp(std::io::stdin()) == Ok(nix::unistd::getpgrp())
    );
}

/// The process on the terminal; it does not outlive a test that fails.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

struct Terminal {
    master: File,
    seen: String,
}

impl Terminal {
    fn type_line(&mut self, line: &str) {
        self.master.write_all(line.as_bytes()).unwrap();
    }

    /// Reads until `text` has been shown.
    fn expect(&mut self, text: &str) {
        let started = Instant::now();
        while !self.seen.contains(text) {
            assert!(started.elapsed() < Duration::from_secs(20), "no `{text}` in {}", self.seen);
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(100_u16)).unwrap() > 0 {
                let mut buffer = [0; 4096];
                let read = self.master.read(&mut buffer).unwrap_or(0);
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        }
        self.seen = self.seen.split_once(text).unwrap().1.to_owned();
    }
}

/// A shell of the user on a new terminal, and that terminal's name.
fn on_terminal(user: &TestUser) -> (Guest, Terminal, String) {
    user.fixture().tree("tree");
    let pty = nix::pty::openpty(None, None).unwrap();
    let name = nix::unistd::ttyname(&pty.slave).unwrap().display().to_string();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "guest", "--nocapture"]);
    command.env(GUEST, format!("{} {}", user.config.home.display(), user.uid()));
    let slave = || pty.slave.try_clone().unwrap();
    command.stdin(slave()).stdout(slave()).stderr(slave());
    // SAFETY: only system calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY as libc::c_ulong, 0);
            Ok(())
        });
    }
    let guest = Guest(command.spawn().unwrap());
    (guest, Terminal { master: File::from(pty.master), seen: String::new() }, name)
}

#[test]
fn an_interactive_shell_works_and_interrupts_reach_it_alone() {
    let user = TestUser::new();
    let (mut guest, mut terminal, _) = on_terminal(&user);
    terminal.type_line("echo mar''ker; touch made\n");
    terminal.expect("marker");
    terminal.type_line("sh -c \"echo slee''ping; exec sleep 1000\"\n");
    terminal.expect("sleeping");
    terminal.type_line("\x03");
    terminal.type_line("echo af''ter=$?\n");
    terminal.expect("after=130");
    terminal.type_line("exit 7\n");
    terminal.expect("it ended: Exited(7)");
    terminal.expect("echo again: true");
    terminal.expect("the terminal is ours again: true");
    assert!(guest.0.wait().unwrap().success());
    assert!(user.dir().join("scratch/tree/rootfs/made").exists());
    assert_eq!(user.left_behind(), Vec::<String>::new());
}

#[test]
fn a_build_user_never_gets_the_callers_terminal() {
    if !needs_root() {
        return;
    }
    let user = TestUser::new();
    let (mut guest, mut terminal, name) = on_terminal(&user);
    terminal.type_line("echo on=$(tty)=; echo lis''ted\n");
    terminal.expect("on=/dev/");
    terminal.expect("listed");
    terminal.type_line("[ $(tty) = ");
    terminal.type_line(&format!("{name} ] && echo sa''me || echo diffe''rent\n"));
    terminal.expect("different");
    let size = libc::winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the size outlives the call.
    assert_eq!(unsafe { libc::ioctl(terminal.master.as_raw_fd(), libc::TIOCSWINSZ, &size) }, 0);
    terminal
        .type_line("while [ \"$(stty size)\" != '33 77' ]; do sleep 0.01; done; echo resi''zed\n");
    terminal.expect("resized");
    // SAFETY: the guest is our child and has not been waited for.
    assert_eq!(unsafe { libc::kill(guest.0.id().cast_signed(), libc::SIGTERM) }, 0);
    terminal.expect("it ended: Cancelled");
    terminal.expect("echo again: true");
    assert!(guest.0.wait().unwrap().success());
    assert!(user.dir().join("scratch/tree/rootfs").is_dir());
    assert_eq!(user.left_behind(), Vec::<String>::new());
}
