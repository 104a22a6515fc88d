//! Which system calls a step may not make: a seccomp filter.
//!
//! Who may run a file that is setuid or setgid acts as its owner. A step's files are its build user's, so such a file would let
//! anybody who comes by act as that user, in a later step of somebody else's too. Calls that would make one say they may not.
//! A filter sees numbers alone, and neither paths nor what stands there: directories are told from files no more
//! than by Seatbelt on macOS, and a setgid directory can be inherited but not made. (mkdir(2) ignores the bit by itself.)
//!
//! Two more ways are closed because a filter cannot see what goes through them: openat2(2) keeps its mode in memory, and
//! io_uring(7) passes by all filters. Both look as on a kernel that does not have them, for which every program that uses
//! them has another way. And nothing is typed into the terminal of the caller.
//!
//! Programs of the processor's 32-bit mode run as ever, by the same rules; other numberings of calls are unknown to
//! the filter and so refused: x32 as on a kernel that does not have it, and whatever else there may be by the program's end.

use std::ffi::c_int;
use std::mem::offset_of;

use nix::libc;
use nix::libc::{sock_filter, sock_fprog};

/// Setuid or setgid.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;
/// In the flags of open(2): a file comes to be, so there is a mode. The second is O_TMPFILE without O_DIRECTORY.
const CREATES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;
/// From here on x86-64 counts the calls of x32.
#[cfg(target_arch = "x86_64")]
const X32: Option<u32> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const X32: Option<u32> = None;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOT_PERMITTED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// What is refused of a call; its arguments by their position.
#[derive(Debug, Clone, Copy)]
enum Refused {
    /// A mode.
    Mode(u8),
    /// A mode, where the flags say that a file is made.
    Made { flags: u8, mode: u8 },
    /// What types into a terminal: a request.
    Typing(u8),
    /// The call as such.
    Unknown,
}

use Refused::{Made, Mode, Typing, Unknown};

/// A numbering of system calls, with what is refused of them.
struct Abi {
    /// Of `linux/audit.h`.
    arch: u32,
    calls: Vec<(i64, Refused)>,
}

/// What can run here: none where we know no numbers.
fn abis() -> Vec<Abi> {
    #[cfg(target_arch = "x86_64")]
    let abis = vec![native(0xc000_003e), in_32_bits(0x4000_0003, 295, 297, 306)];
    #[cfg(target_arch = "aarch64")]
    let abis = vec![native(0xc000_00b7), in_32_bits(0x4000_0028, 322, 324, 333)];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let abis = Vec::new();
    abis
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn native(arch: u32) -> Abi {
    let mut calls = vec![
        (libc::SYS_ioctl, Typing(1)),
        (libc::SYS_fchmod, Mode(1)),
        (libc::SYS_fchmodat, Mode(2)),
        (libc::SYS_fchmodat2, Mode(2)),
        (libc::SYS_mknodat, Mode(2)),
        (libc::SYS_openat, Made { flags: 2, mode: 3 }),
        (libc::SYS_openat2, Unknown),
        (libc::SYS_io_uring_setup, Unknown),
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        (libc::SYS_chmod, Mode(1)),
        (libc::SYS_creat, Mode(1)),
        (libc::SYS_mknod, Mode(1)),
        (libc::SYS_open, Made { flags: 1, mode: 2 }),
    ]);
    Abi { arch, calls }
}

/// The numbers in which i386 and ARM differ are given.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn in_32_bits(arch: u32, openat: i64, mknodat: i64, fchmodat: i64) -> Abi {
    let calls = vec![
        (5, Made { flags: 1, mode: 2 }),
        (8, Mode(1)),
        (14, Mode(1)),
        (15, Mode(1)),
        (54, Typing(1)),
        (94, Mode(1)),
        (openat, Made { flags: 2, mode: 3 }),
        (mknodat, Mode(2)),
        (fchmodat, Mode(2)),
        (425, Unknown),
        (437, Unknown),
        (452, Mode(2)),
    ];
    Abi { arch, calls }
}

/// A filter, ready to be set.
#[derive(Debug)]
pub(crate) struct Filter(Vec<sock_filter>);

impl Filter {
    /// `None` where there is none: the kernel has no filters, or we know no numbers.
    pub(crate) fn new() -> Option<Self> {
        Self::is_there().then(|| Self(program(&abis())))
    }

    /// Whether there is a filter for this system.
    pub(crate) fn is_there() -> bool {
        let action = libc::SECCOMP_RET_ERRNO;
        // SAFETY: the call reads one number, which outlives it.
        let known = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
        };
        known == 0 && !abis().is_empty()
    }

    /// Sets the filter for the calling process, which can gain no privileges any more, and all that it starts.
    /// -1 and errno on failure.
    pub(crate) fn set(&self) -> c_int {
        // Without this flag some kernels slow everything down, for fear of programs that compile code from strangers.
        let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        let len = self.0.len() as libc::c_ushort;
        let program = sock_fprog { len, filter: self.0.as_ptr().cast_mut() };
        let set = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: the program is as long as it says, is only read, and outlives the call.
        unsafe { libc::syscall(libc::SYS_seccomp, set, flags, &raw const program) as c_int }
    }
}

/// For each numbering a section, which always ends with a verdict.
fn program(abis: &[Abi]) -> Vec<sock_filter> {
    let mut program = vec![load(offset_of!(libc::seccomp_data, arch))];
    for abi in abis {
        let section = section(abi);
        program.push(jump(libc::BPF_JEQ, abi.arch, 0, section.len()));
        program.extend(section);
    }
    program.push(verdict(libc::SECCOMP_RET_KILL_PROCESS));
    program
}

fn section(abi: &Abi) -> Vec<sock_filter> {
    let mut section = vec![load(offset_of!(libc::seccomp_data, nr))];
    if let Some(first) = X32 {
        section.extend([jump(libc::BPF_JGE, first, 0, 1), verdict(UNKNOWN)]);
    }
    for (number, refused) in &abi.calls {
        let rule = rule(*refused);
        section.push(jump(libc::BPF_JEQ, *number as u32, 0, rule.len()));
        section.extend(rule);
    }
    section.push(verdict(ALLOW));
    section
}

fn rule(refused: Refused) -> Vec<sock_filter> {
    let (yes, no) = (verdict(NOT_PERMITTED), verdict(ALLOW));
    match refused {
        Mode(mode) => vec![argument(mode), jump(libc::BPF_JSET, SET_ID, 0, 1), yes, no],
        Made { flags, mode } => {
            let made = [argument(flags), jump(libc::BPF_JSET, CREATES, 0, 3)];
            [made.to_vec(), rule(Mode(mode))].concat()
        }
        Typing(request) => vec![
            argument(request),
            jump(libc::BPF_JEQ, libc::TIOCSTI as u32, 1, 0),
            jump(libc::BPF_JEQ, libc::TIOCLINUX as u32, 0, 1),
            yes,
            no,
        ],
        Unknown => vec![verdict(UNKNOWN)],
    }
}

/// Loads 32 bits of what is known of a call.
fn load(offset: usize) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset as u32, (0, 0))
}

/// Loads the lower half of an argument; both kinds of processor put it first.
fn argument(position: u8) -> sock_filter {
    load(offset_of!(libc::seccomp_data, args) + usize::from(position) * size_of::<u64>())
}

/// Ends the program.
fn verdict(action: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action, (0, 0))
}

/// Compares what was loaded, and skips so many instructions if it holds, or does not.
fn jump(test: u32, value: u32, holds: usize, fails: usize) -> sock_filter {
    let skip = |count| u8::try_from(count).expect("no section has so many instructions");
    statement(libc::BPF_JMP | test | libc::BPF_K, value, (skip(holds), skip(fails)))
}

fn statement(code: u32, k: u32, (jt, jf): (u8, u8)) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}
