//! System V objects, which outlive whoever made them.
//!
//! The kernel lists them through `kern.sysv.ipcs.{shm,msg,sem}` (<sys/ipcs.h>): a command with a cursor goes in, one object's
//! `*_ds` structure comes out and the cursor moves on; ENOENT or ERANGE says that there are no more. Each of the structures
//! begins with an `ipc_perm`. An object's number is made of its place, which is the cursor less one, and its `_seq`.

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::ptr;

use nix::libc;

/// `IPCS_MAGIC` of <sys/ipcs.h>.
const MAGIC: c_int = 1;

/// `struct IPCS_command` of <sys/ipcs.h>.
#[repr(C)]
struct Command {
    magic: c_int,
    operation: c_int,
    cursor: c_int,
    length: c_int,
    data: *mut c_void,
}

/// Room for the largest of the structures, which begin with the permissions.
#[repr(C)]
struct Object {
    perm: libc::ipc_perm,
    rest: [u64; 32],
}

/// A kind of objects: what lists it, `IPCS_*_ITER`, the sizes that its structure may have, and what removes one.
struct Kind {
    list: &'static CStr,
    operation: c_int,
    sizes: [c_int; 2],
    remove: fn(c_int) -> c_int,
}

unsafe extern "C" {
    // <sys/msg.h>
    fn msgctl(id: c_int, command: c_int, buffer: *mut c_void) -> c_int;
}

const KINDS: [Kind; 3] = [
    Kind {
        list: c"kern.sysv.ipcs.shm",
        operation: 0x2,
        sizes: [size_of::<libc::shmid_ds>() as c_int; 2],
        // SAFETY: removing takes no buffer.
        remove: |id| unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) },
    },
    Kind {
        list: c"kern.sysv.ipcs.sem",
        operation: 0x20,
        sizes: [size_of::<libc::semid_ds>() as c_int; 2],
        // SAFETY: removing takes no fourth argument.
        remove: |id| unsafe { libc::semctl(id, 0, libc::IPC_RMID) },
    },
    Kind {
        list: c"kern.sysv.ipcs.msg",
        operation: 0x200,
        // `struct msqid_ds` packed by four, as its siblings are, and in natural alignment.
        sizes: [116, 136],
        // SAFETY: removing takes no buffer.
        remove: |id| unsafe { msgctl(id, libc::IPC_RMID, ptr::null_mut()) },
    },
];

/// Removes every shared memory segment, message queue and semaphore set that `uid` owns or has made.
pub(crate) fn remove_of(uid: u32) -> io::Result<()> {
    KINDS.iter().try_for_each(|kind| {
        let [first, second] = kind.sizes;
        match remove_kind(kind, first, uid) {
            // The size was wrong.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOMEM)) => {
                remove_kind(kind, second, uid)
            }
            done => done,
        }
    })
}

fn remove_kind(kind: &Kind, length: c_int, uid: u32) -> io::Result<()> {
    let mut cursor = 0;
    loop {
        // SAFETY: all of it is numbers, for which zero will do.
        let mut object: Object = unsafe { std::mem::zeroed() };
        let data = (&raw mut object).cast();
        let mut command = Command { magic: MAGIC, operation: kind.operation, cursor, length, data };
        let (whole, mut size) = (&raw mut command, size_of::<Command>());
        // SAFETY: the name ends with a null byte; both commands and the object outlive the call, which writes `length` bytes
        // to the object.
        let done = unsafe {
            libc::sysctlbyname(kind.list.as_ptr(), whole.cast(), &mut size, whole.cast(), size)
        };
        if done == -1 {
            let error = io::Error::last_os_error();
            let end = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ERANGE));
            return if end { Ok(()) } else { Err(error) };
        }
        if command.cursor <= cursor {
            return Ok(());
        }
        cursor = command.cursor;
        let perm = object.perm;
        if [perm.uid, perm.cuid].contains(&uid) {
            let id = (c_int::from(perm._seq) << 16) | ((cursor - 1) & 0xffff);
            // It may have gone by itself.
            (kind.remove)(id);
        }
    }
}
