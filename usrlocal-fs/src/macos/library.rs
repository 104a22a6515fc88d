//! The library that comes with macFUSE, found at run time: where it is absent, the program still starts and says so.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use crate::error::{Error, Result};

const PLACES: [&CStr; 2] = [c"/usr/local/lib/libfuse.2.dylib", c"libfuse.2.dylib"];

#[repr(C)]
struct Arguments {
    count: c_int,
    values: *const *const c_char,
    allocated: c_int,
}

type Mount = unsafe extern "C" fn(*const c_char, *const Arguments) -> *mut c_void;
type ChannelDescriptor = unsafe extern "C" fn(*mut c_void) -> c_int;

/// Mounts at `at` with `options`; gives the kernel's end of the mount.
pub(super) fn mount(at: &Path, options: &str) -> Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let library = open()?;
    let (mount, descriptor) = (symbol(library, c"fuse_mount")?, symbol(library, c"fuse_chan_fd")?);
    // SAFETY: macFUSE declares these functions with just these types.
    let (mount, descriptor) = unsafe {
        (
            std::mem::transmute::<*mut c_void, Mount>(mount),
            std::mem::transmute::<*mut c_void, ChannelDescriptor>(descriptor),
        )
    };
    let words =
        ["usrlocal-fs", "-o", options].map(|word| CString::new(word).expect("options hold no NUL"));
    let values = words.each_ref().map(|word| word.as_ptr());
    let arguments =
        Arguments { count: values.len() as c_int, values: values.as_ptr(), allocated: 0 };
    let path = CString::new(at.as_os_str().as_bytes()).expect("a path that was found holds no NUL");
    // SAFETY: the strings and the arguments outlive the calls; the channel is used only where it is not null.
    let fd = unsafe {
        let channel = mount(path.as_ptr(), &raw const arguments);
        if channel.is_null() {
            -1
        } else {
            libc::fcntl(descriptor(channel), libc::F_DUPFD_CLOEXEC, 3)
        }
    };
    if fd < 0 {
        return Err(Error::path("mount at", at)(std::io::Error::last_os_error()));
    }
    // SAFETY: a duplicate that was just made, and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn open() -> Result<*mut c_void> {
    for place in PLACES {
        // SAFETY: a C string; loading macFUSE's library runs nothing that concerns us.
        let library = unsafe { libc::dlopen(place.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if !library.is_null() {
            return Ok(library);
        }
    }
    Err(Error::Unusable("macFUSE is not installed: `libfuse.2.dylib` was not found".into()))
}

fn symbol(library: *mut c_void, name: &CStr) -> Result<*mut c_void> {
    // SAFETY: an open library and a C string.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    if found.is_null() {
        return Err(Error::Unusable(format!(
            "macFUSE's library has no `{}`",
            name.to_string_lossy()
        )));
    }
    Ok(found)
}
