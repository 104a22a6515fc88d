//! One path, another tree for each calling user.
//!
//! Tools bake paths such as `/usr/local`, `/opt/homebrew` or a home directory into what they build. This filesystem is
//! mounted over such a path, asks who is calling, and shows that user's own tree: several users build at the same path
//! at once, each with files of its own, and a user's tree is switched without mounting anew.
//!
//! # Who sees what
//!
//! The *scoreboard* is a directory of symlinks `UID -> TREE`. A user sees `TREE/local` (or another directory of the
//! tree). A user without an entry sees what was there before the mount, another directory, or nothing. A link is replaced
//! atomically and counts from the next access on; what is open stays open.
//!
//! The way to a tree is followed with the server's rights as far as nobody but root can change it. From the first directory
//! that belongs to somebody else, or that others may write to, a tree is shown only if its user could walk there, and without
//! symlinks: a tree in a user's home is fine, and a user who puts something else in its place sees what it could see anyway.
//! A tree that is refused is told in the log, once for each link. Nothing may be mounted to be served in a directory that a
//! user can rename.
//!
//! # How it keeps users apart
//!
//! The kernel remembers names and attributes by the number of a node, not by who asked. So every view has nodes of its
//! own, and nothing that differs by caller is remembered: the top directory, which is the one node that all share, and
//! the names in it. Below, the kernel remembers, as only the mount writes there; reads and writes of open files it does
//! by itself where it can (`FUSE_PASSTHROUGH`).
//!
//! The kernel checks the caller's rights. What changes a directory is also done with the caller's own identity, and at
//! the top, where the kernel's attributes may be another user's at the moment, so is looking and listing. No path is
//! ever walked: files are found again by handles, and entries by one name in an open directory, never through a symlink.
//!
//! # What it is not
//!
//! It does not choose the trees, and it does not protect a tree from its own user. While a uid is linked to a tree, that
//! tree is written through the mount alone; [`Mounts::invalidate`] tells of anything else. Two users with one tree do not
//! see each other's changes at once. A process that serves must not use its own mounts: killed while it waits for itself, it
//! could not end.
//!
//! Where the kernel reads and writes open files by itself, a file with set-user-id or set-group-id that somebody has open
//! loses them when it is opened to write, not when it is first written; given to it while root has it open, they stay.
//!
//! Where the filesystem has no file handles (overlayfs), a file is found again by the name that it had last, in its directory: one
//! that was renamed or replaced other than through the mount is looked up anew. Descriptors are kept of a bounded number of
//! directories, and of one in each mount inside a tree. A tree that is shown no more is let go within a second, and can be
//! unmounted once nobody uses what is in it. Of mounts inside a tree that holds for each of them, once its user has no entry: what is
//! still used in them is stale then, but for open files.
//!
//! What the kernel has one of for all users shows at the first level, the names directly in the mount point:
//!
//! - On Linux `getcwd(2)` fails for a process whose current directory is one of them, after another user has looked up the
//!   same name and until the process uses that path again. Directories further below are not concerned. So where users are
//!   to work at one canonical home at once, let it lie a level or two below the mount: mount at `HOMES`, show trees that
//!   hold `users/builder`, and `HOMES/users/builder` is a home in which every directory is safe.
//! - On Linux what a user mounts below one of them, however deep, and be it in a namespace of its own as bubblewrap and
//!   rootless containers do, is unmounted when another user looks up the same name.
//! - Nothing can be renamed to the first level from further below (`EXDEV`, as between filesystems; `mv` copies it).
//! - Every path from `/` asks the server twice, or once where the mount point looks the same to everybody
//!   ([`MountPoint::with_same_top`]). Relative paths from further below are answered by the kernel alone.
//!
//! Start at [`Mounts::serve`].

mod call;
mod config;
mod core;
mod error;
mod first;
mod fs;
mod meta;
mod metrics;
mod mounts;
mod node;
mod nodes;
mod opened;
mod ops;
mod scoreboard;
mod status;
mod supervisor;
mod view;
mod way;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
use linux as os;
#[cfg(target_os = "macos")]
use macos as os;

pub use config::{Config, MountPoint, Otherwise};
pub use error::{Error, Result};
pub use mounts::{Mounts, unmount};
pub use scoreboard::link;
pub use status::{CacheStatus, OperationStatus, Status, ViewStatus, status};
