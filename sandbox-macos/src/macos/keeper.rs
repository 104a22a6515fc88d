//! The keeper: stands between us and a command that runs as ourselves, and kills its session.
//!
//! There are no subreapers here: what leaves the session lives on, and `weaknesses` says so.

use std::ffi::c_int;
use std::os::fd::RawFd;

use nix::libc;

/// Most processes looked at.
const PROCESSES: usize = 8192;

/// Becomes the keeper of `command`, which runs in a child. `told` becomes readable when all must end; the
/// command's status goes to `status` when nothing of its session lives any more. Only makes system calls.
pub(crate) fn keep(told: RawFd, status: RawFd, command: impl FnOnce()) -> ! {
    // SAFETY: plain system calls, on memory of this process's only thread.
    unsafe {
        let main = libc::fork();
        if main == 0 {
            command();
            libc::_exit(127);
        }
        for fd in (0..libc::getdtablesize().min(65536)).filter(|fd| ![told, status].contains(fd)) {
            libc::close(fd);
        }
        let ended = wait_for_end(main, told);
        while kill_session(main) {
            libc::usleep(1000);
        }
        libc::write(status, (&raw const ended).cast(), size_of::<c_int>());
        libc::_exit(0)
    }
}

unsafe fn wait_for_end(main: libc::pid_t, told: RawFd) -> c_int {
    let mut ended = 0;
    // SAFETY: plain system calls with pointers to locals.
    unsafe {
        loop {
            let mut fd = libc::pollfd { fd: told, events: libc::POLLIN, revents: 0 };
            if libc::waitpid(main, &mut ended, libc::WNOHANG) == main {
                return ended;
            }
            // No descriptor tells of a child's end without a kqueue; a look every few milliseconds will do here.
            if libc::poll(&mut fd, 1, 2) == 1 {
                libc::kill(main, libc::SIGKILL);
                libc::waitpid(main, &mut ended, 0);
                return ended;
            }
        }
    }
}

/// Kills what is in the session of `main`; says whether there was anything.
unsafe fn kill_session(main: libc::pid_t) -> bool {
    let mut pids = [0 as libc::pid_t; PROCESSES];
    let mut found = false;
    // SAFETY: the buffer is as long as we say.
    unsafe {
        let count = libc::proc_listallpids(pids.as_mut_ptr().cast(), size_of_val(&pids) as c_int);
        for pid in pids.iter().take(usize::try_from(count).unwrap_or(0)) {
            if *pid > 1 && libc::getsid(*pid) == main {
                found |= libc::kill(*pid, libc::SIGKILL) == 0;
            }
        }
    }
    found
}
