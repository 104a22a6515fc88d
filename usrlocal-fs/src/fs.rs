//! Requests of the kernel's, handed to [`crate::ops`] and answered.

use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem,
    Generation, INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::AtFlags;
use rustix::io::Result;

use crate::call::Operation;
use crate::core::{Call, Core};
use crate::ops::attributes::Changes;
use crate::ops::extended::Value;
use crate::ops::files::Writer;
use crate::ops::names::Found;
use crate::os;

/// The filesystem of one mount.
#[derive(Debug)]
pub(crate) struct Fs(pub(crate) Arc<Core>);

impl Fs {
    /// Does one request: counts it, takes its time, and turns a panic into an error of this request alone.
    fn serve<T>(
        &self,
        request: &Request,
        operation: Operation,
        work: impl FnOnce(&Call<'_>) -> Result<T>,
    ) -> std::result::Result<T, Errno> {
        let begun = Instant::now();
        let call = Call { core: &self.0, caller: request.into(), operation };
        let work = || {
            if os::special::unwelcome(call.caller.pid) {
                Err(rustix::io::Errno::NOTSUP)
            } else {
                work(&call)
            }
        };
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            tracing::error!(?operation, "a request failed in an unforeseen way");
            Err(rustix::io::Errno::IO)
        });
        self.0.metrics.record(operation, begun.elapsed(), result.is_err());
        result.map_err(|error| Errno::from_i32(error.raw_os_error()))
    }

    fn done(
        &self,
        request: &Request,
        operation: Operation,
        reply: ReplyEmpty,
        work: impl FnOnce(&Call<'_>) -> Result<()>,
    ) {
        match self.serve(request, operation, work) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn found(
        &self,
        request: &Request,
        operation: Operation,
        reply: ReplyEntry,
        work: impl FnOnce(&Call<'_>) -> Result<Found>,
    ) {
        match self.serve(request, operation, work) {
            Ok(found) => entry(reply, &found),
            Err(error) => reply.error(error),
        }
    }

    fn value(
        &self,
        request: &Request,
        operation: Operation,
        reply: ReplyXattr,
        work: impl FnOnce(&Call<'_>) -> Result<Value>,
    ) {
        match self.serve(request, operation, work) {
            Ok(Value::Size(size)) => reply.size(size),
            Ok(Value::Bytes(bytes)) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }
}

fn entry(reply: ReplyEntry, found: &Found) {
    let attributes = found.meta.attributes(found.node.number);
    let generation = Generation(found.node.generation());
    reply.entry_with_ttls(&found.attributes_last, &found.name_lasts, &attributes, generation);
}

/// Says that there is no such name, and for how long.
fn no_entry(reply: ReplyEntry, lasts: Duration) {
    let nothing = FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    };
    reply.entry_with_ttls(&lasts, &lasts, &nothing, Generation(0));
}

impl Filesystem for Fs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let passthrough = os::mount::ask_for_capabilities(config, self.0.passthrough.load(Relaxed));
        self.0.passthrough.store(passthrough, Relaxed);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.serve(request, Operation::Lookup, |call| call.lookup(parent.0, name)) {
            Ok(Ok(found)) => entry(reply, &found),
            Ok(Err(lasts)) => no_entry(reply, lasts),
            Err(error) => reply.error(error),
        }
    }

    fn forget(&self, _request: &Request, node: INodeNo, count: u64) {
        self.0.nodes.forget(node.0, count);
    }

    fn getattr(
        &self,
        request: &Request,
        node: INodeNo,
        file: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.serve(request, Operation::Getattr, |call| {
            call.getattr(node.0, file.map(|file| file.0))
        }) {
            Ok((attributes, last)) => reply.attr(&last, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        file: Option<FileHandle>,
        _created: Option<SystemTime>,
        _changed_mac: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes { mode, uid, gid, size, accessed, modified };
        let work = |call: &Call<'_>| call.setattr(node.0, file.map(|file| file.0), &changes);
        match self.serve(request, Operation::Setattr, work) {
            Ok((attributes, last)) => reply.attr(&last, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, request: &Request, node: INodeNo, reply: ReplyData) {
        match self.serve(request, Operation::Readlink, |call| call.readlink(node.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let work = |call: &Call<'_>| call.mknod(parent.0, name, mode, umask, device);
        self.found(request, Operation::Mknod, reply, work);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.found(request, Operation::Mkdir, reply, |call| {
            call.mkdir(parent.0, name, mode, umask)
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.done(request, Operation::Unlink, reply, |call| {
            call.remove(parent.0, name, AtFlags::empty())
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.done(request, Operation::Rmdir, reply, |call| {
            call.remove(parent.0, name, AtFlags::REMOVEDIR)
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let work = |call: &Call<'_>| call.symlink(parent.0, name, target.as_os_str());
        self.found(request, Operation::Symlink, reply, work);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.done(request, Operation::Rename, reply, |call| {
            call.rename((parent.0, name), (new_parent.0, new_name), flags.bits())
        });
    }

    fn link(
        &self,
        request: &Request,
        node: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        self.found(request, Operation::Link, reply, |call| call.link(node.0, parent.0, name));
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let register = |fd: std::os::fd::BorrowedFd<'_>| reply.open_backing(fd);
        let opened =
            self.serve(request, Operation::Open, |call| call.open(node.0, flags.0, register));
        match opened {
            Ok(opening) => match &opening.backing {
                Some(backing) => {
                    reply.opened_passthrough(FileHandle(opening.file), opening.flags, backing)
                }
                None => reply.opened(FileHandle(opening.file), opening.flags),
            },
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let register = |fd: std::os::fd::BorrowedFd<'_>| reply.open_backing(fd);
        let work = |call: &Call<'_>| call.create(parent.0, name, (mode, umask), flags, register);
        match self.serve(request, Operation::Create, work) {
            Ok(made) => {
                let attributes = made.meta.attributes(made.node.number);
                let generation = Generation(made.node.generation());
                let (file, flags) = (FileHandle(made.opening.file), made.opening.flags);
                match &made.opening.backing {
                    Some(backing) => {
                        reply.created_passthrough(
                            &made.lasts,
                            &attributes,
                            generation,
                            file,
                            flags,
                            backing,
                        );
                    }
                    None => reply.created(&made.lasts, &attributes, generation, file, flags),
                }
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        request: &Request,
        _node: INodeNo,
        file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buffer = vec![0; size as usize];
        match self.serve(request, Operation::Read, |call| call.read(file.0, offset, &mut buffer)) {
            Ok(read) => reply.data(&buffer[..read]),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        request: &Request,
        _node: INodeNo,
        file: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _open_flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let writer = if flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            Writer::Caller
        } else if flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            Writer::Owner
        } else {
            Writer::Server
        };
        match self.serve(request, Operation::Write, |call| call.write(file.0, offset, data, writer))
        {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _node: INodeNo,
        _file: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        request: &Request,
        _node: INodeNo,
        file: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        let closed =
            self.serve(request, Operation::Release, |call| Ok(call.core.files.remove(file.0)));
        drop(closed);
    }

    fn fsync(
        &self,
        request: &Request,
        _node: INodeNo,
        file: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.done(request, Operation::Fsync, reply, |call| call.fsync(file.0, data_only));
    }

    fn opendir(&self, request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.serve(request, Operation::Opendir, |call| call.opendir(node.0)) {
            Ok((directory, flags)) => reply.opened(FileHandle(directory), flags),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        request: &Request,
        _node: INodeNo,
        file: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.serve(request, Operation::Readdir, |call| {
            let open = call.core.directories.get(file.0)?;
            call.readdir(&open, offset, |number, next, kind, name| {
                reply.add(INodeNo(number), next, kind, name)
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        _node: INodeNo,
        file: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.serve(request, Operation::Readdir, |call| {
            let open = call.core.directories.get(file.0)?;
            call.readdirplus(&open, offset, |full| {
                let generation = Generation(full.generation);
                reply.add(
                    full.attributes.ino,
                    full.next,
                    full.name,
                    &full.lasts,
                    &full.attributes,
                    generation,
                )
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _node: INodeNo,
        file: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        drop(self.0.directories.remove(file.0));
    }

    fn fsyncdir(
        &self,
        request: &Request,
        _node: INodeNo,
        file: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.done(request, Operation::Fsyncdir, reply, |call| call.fsyncdir(file.0, data_only));
    }

    fn statfs(&self, request: &Request, node: INodeNo, reply: ReplyStatfs) {
        match self.serve(request, Operation::Statfs, |call| call.statfs(node.0)) {
            Ok(full) => reply.statfs(
                full.f_blocks,
                full.f_bfree,
                full.f_bavail,
                full.f_files,
                full.f_ffree,
                full.f_bsize as u32,
                full.f_namemax as u32,
                full.f_frsize as u32,
            ),
            Err(error) => reply.error(error),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.done(request, Operation::Setxattr, reply, |call| {
            call.setxattr(node.0, name, value, flags)
        });
    }

    fn getxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        room: u32,
        reply: ReplyXattr,
    ) {
        self.value(request, Operation::Getxattr, reply, |call| call.getxattr(node.0, name, room));
    }

    fn listxattr(&self, request: &Request, node: INodeNo, room: u32, reply: ReplyXattr) {
        self.value(request, Operation::Listxattr, reply, |call| call.listxattr(node.0, room));
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.done(request, Operation::Removexattr, reply, |call| call.removexattr(node.0, name));
    }

    fn fallocate(
        &self,
        request: &Request,
        _node: INodeNo,
        file: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.done(request, Operation::Fallocate, reply, |call| {
            call.fallocate(file.0, offset, length, mode)
        });
    }

    fn lseek(
        &self,
        request: &Request,
        _node: INodeNo,
        file: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.serve(request, Operation::Lseek, |call| call.lseek(file.0, offset, whence)) {
            Ok(found) => reply.offset(found),
            Err(error) => reply.error(error),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _from: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _to: INodeNo,
        to: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let work =
            |call: &Call<'_>| call.copy_range((from.0, from_offset), (to.0, to_offset), length);
        match self.serve(request, Operation::CopyFileRange, work) {
            Ok(copied) => reply.written(copied),
            Err(error) => reply.error(error),
        }
    }
}
