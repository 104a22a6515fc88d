//! One request of the kernel's: who asks, and what for.

use fuser::Request;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
}

impl From<&Request> for Caller {
    fn from(request: &Request) -> Self {
        Self { uid: request.uid(), gid: request.gid(), pid: request.pid() }
    }
}

macro_rules! operations {
    ($($name:ident $text:literal),+ $(,)?) => {
        /// What is asked for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Operation { $($name),+ }

        impl Operation {
            /// All of them, in the order of their numbers.
            pub(crate) const NAMES: &[&str] = &[$($text),+];
        }
    };
}

operations! {
    Lookup "lookup", Getattr "getattr", Setattr "setattr", Readlink "readlink", Mknod "mknod", Mkdir "mkdir",
    Unlink "unlink", Rmdir "rmdir", Symlink "symlink", Rename "rename", Link "link", Open "open", Read "read",
    Write "write", Fsync "fsync", Release "release", Opendir "opendir", Readdir "readdir",
    Fsyncdir "fsyncdir", Statfs "statfs", Getxattr "getxattr", Setxattr "setxattr",
    Listxattr "listxattr", Removexattr "removexattr", Create "create", Fallocate "fallocate", Lseek "lseek",
    CopyFileRange "copy_file_range",
}
