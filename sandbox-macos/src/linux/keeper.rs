//! The keeper: stands between us and a command that runs as ourselves, so that nothing it starts escapes.
//!
//! Without a user of its own there is no killing by uid. The keeper is a *child subreaper*: whatever the command
//! leaves behind, double-forked or in another session, becomes the keeper's child. When the command ends, or
//! when we ask for it, or when we have died (the pipe closes), it kills its children until there are none.

use std::ffi::c_int;
use std::os::fd::RawFd;

use nix::libc;

/// Becomes the keeper of `command`, which runs in a child. `told` becomes readable when all must end; the
/// command's status goes to `status` when nothing lives any more. Only makes system calls.
pub(crate) fn keep(told: RawFd, status: RawFd, command: impl FnOnce()) -> ! {
    // SAFETY: plain system calls, on memory of this process's only thread.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        let main = libc::fork();
        if main == 0 {
            command();
            libc::_exit(127);
        }
        close_all_but(told, status);
        let ended = wait_for_end(main, told);
        kill_children(main);
        libc::write(status, (&raw const ended).cast(), size_of::<c_int>());
        libc::_exit(0)
    }
}

unsafe fn close_all_but(a: RawFd, b: RawFd) {
    let (low, high) = (a.min(b), a.max(b));
    for (first, last) in [(0, low - 1), (low + 1, high - 1), (high + 1, c_int::MAX)] {
        // SAFETY: this process uses no other descriptors.
        unsafe {
            if first <= last && libc::syscall(libc::SYS_close_range, first, last, 0) == -1 {
                for fd in first..=last.min(65536) {
                    libc::close(fd);
                }
            }
        }
    }
}

/// Waits until the command has ended or all must end; the command's status.
unsafe fn wait_for_end(main: libc::pid_t, told: RawFd) -> c_int {
    // SAFETY: plain system calls with pointers to locals.
    unsafe {
        let watch = libc::syscall(libc::SYS_pidfd_open, main, 0) as RawFd;
        let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [poll(told), poll(watch)];
        if watch >= 0 {
            while libc::poll(fds.as_mut_ptr(), 2, -1) == -1 {}
        }
        if watch >= 0 && fds[1].revents == 0 {
            libc::kill(main, libc::SIGKILL);
        }
        let mut ended = 0;
        while libc::waitpid(main, &mut ended, 0) == -1 && *libc::__errno_location() == libc::EINTR {
        }
        ended
    }
}

/// Kills and reaps children until there are none; the orphans of those that die become children in turn.
unsafe fn kill_children(main: libc::pid_t) {
    // SAFETY: plain system calls with pointers to locals.
    unsafe {
        loop {
            // Most of them at once: the command's own process group.
            libc::kill(-main, libc::SIGKILL);
            for_each_child(|pid| {
                libc::kill(pid, libc::SIGKILL);
            });
            loop {
                match libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) {
                    -1 => return,
                    0 => break,
                    _ => {}
                }
            }
            libc::usleep(200);
        }
    }
}

unsafe fn for_each_child(mut act: impl FnMut(libc::pid_t)) {
    let path = c"/proc/thread-self/children";
    let (mut buffer, mut pid) = ([0_u8; 4096], 0);
    // SAFETY: plain system calls; the buffer is as long as we say.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY);
        loop {
            let read = libc::read(file, buffer.as_mut_ptr().cast(), buffer.len());
            let Ok(read @ 1..) = usize::try_from(read) else { break };
            for byte in &buffer[..read] {
                match byte {
                    b'0'..=b'9' => pid = pid * 10 + libc::pid_t::from(byte - b'0'),
                    _ if pid > 1 => act(std::mem::take(&mut pid)),
                    _ => pid = 0,
                }
            }
        }
        if pid > 1 {
            act(pid);
        }
        libc::close(file);
    }
}
