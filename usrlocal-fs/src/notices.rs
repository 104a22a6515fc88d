//! Telling the kernel that a name at the top is no longer good for everybody.
//!
//! A name that is renamed to the top from further below keeps the time that it was good for there, so the next user
//! meets another's node. That node is marked and its attributes are no longer remembered, so whatever the next user
//! does with it is asked of us, and refused as stale, whereupon the kernel looks the path up again. That costs a detour
//! each time, so the kernel is also told to forget the name, as soon as it can: it takes note only when it lets go of
//! the directory.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::node::TOP;

const INVALIDATE_INODE: i32 = 2;
const INVALIDATE_ENTRY: i32 = 3;

/// The way to the kernel.
#[derive(Debug)]
struct Way {
    device: File,
    names: Sender<CString>,
}

/// Tells the kernel of names and attributes.
#[derive(Debug, Default)]
pub(crate) struct Notices(Mutex<Option<Way>>);

impl Notices {
    /// Begins to send notices through the kernel's `device`. The thread for it ends with [`Self::stop`].
    pub(crate) fn start(&self, device: OwnedFd) -> std::io::Result<()> {
        let (sender, names) = channel::<CString>();
        let device = File::from(device);
        let mut own = device.try_clone()?;
        let send = move || names.into_iter().for_each(|name| send(&mut own, &expire_name(&name)));
        thread::Builder::new().name("usrlocal-notices".into()).spawn(send)?;
        *self.way() = Some(Way { device, names: sender });
        Ok(())
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        *self.way() = None;
    }

    /// The attributes of a node are no longer good. The kernel takes note at once.
    pub(crate) fn forget_attributes(&self, number: u64) {
        if let Some(way) = &mut *self.way() {
            send(&mut way.device, &expire_attributes(number));
        }
    }

    /// The name at the top is no longer good. Call it when the request that changed it has been answered.
    pub(crate) fn forget_name(&self, name: CString) {
        if let Some(way) = &*self.way() {
            // The thread is there as long as the sender is, unless the mount is gone.
            let _ = way.names.send(name);
        }
    }

    fn way(&self) -> MutexGuard<'_, Option<Way>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send(device: &mut File, notice: &[u8]) {
    // The kernel answers ENOENT when it does not know the name or the node (any more).
    if let Err(error) = device.write(notice)
        && error.raw_os_error() != Some(libc::ENOENT)
    {
        tracing::debug!(%error, "the kernel was not told of a renamed entry");
    }
}

/// The protocol's notice that `name` at the top is to be looked up again; what is below it stays known.
fn expire_name(name: &CString) -> Vec<u8> {
    const EXPIRE_ONLY: u32 = 1;
    let mut body = TOP.to_ne_bytes().to_vec();
    body.extend((name.as_bytes().len() as u32).to_ne_bytes());
    body.extend(EXPIRE_ONLY.to_ne_bytes());
    body.extend(name.as_bytes_with_nul());
    notice(INVALIDATE_ENTRY, &body)
}

/// The protocol's notice that the attributes of a node are to be asked for again.
fn expire_attributes(number: u64) -> Vec<u8> {
    let nothing_read: i64 = -1;
    let mut body = number.to_ne_bytes().to_vec();
    body.extend(nothing_read.to_ne_bytes());
    body.extend(0i64.to_ne_bytes());
    notice(INVALIDATE_INODE, &body)
}

fn notice(code: i32, body: &[u8]) -> Vec<u8> {
    let mut notice = (16 + body.len() as u32).to_ne_bytes().to_vec();
    notice.extend(code.to_ne_bytes());
    notice.extend(0u64.to_ne_bytes());
    notice.extend(body);
    notice
}
