//! What a `copy` takes: a description of files that is part of the step's id.

use bstr::{BStr, BString, ByteSlice};

use crate::sexp::Sexp;

/// A file, symbolic link or directory to copy.
///
/// Every `path` is relative to the source directory, without `.` or empty components; the source directory
/// itself is the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// A regular file.
    File {
        /// Where it is.
        path: BString,
        /// SHA-256 of its contents, in lower-case hexadecimal.
        sha256: String,
    },
    /// A symbolic link.
    Symlink {
        /// Where it is.
        path: BString,
        /// What it says.
        target: BString,
    },
    /// A directory.
    Dir {
        /// Where it is.
        path: BString,
        /// What it holds, sorted as [`Manifest::dir`] sorts.
        children: Vec<Manifest>,
    },
}

impl Manifest {
    /// The directory `path` with `children`, put into the order ids need: that of the bytes of their names.
    pub fn dir(path: impl Into<BString>, mut children: Vec<Self>) -> Self {
        children.sort_by(|a, b| a.name().cmp(b.name()));
        Self::Dir { path: path.into(), children }
    }

    /// Where it is, relative to the source directory.
    pub fn path(&self) -> &BStr {
        match self {
            Self::File { path, .. } | Self::Symlink { path, .. } | Self::Dir { path, .. } => {
                path.as_bstr()
            }
        }
    }

    /// The last component of its path.
    pub fn name(&self) -> &BStr {
        let path = self.path();
        path.rfind_byte(b'/').map_or(path, |slash| path[slash + 1..].as_bstr())
    }

    /// The form that ids are made of.
    pub fn to_sexp(&self) -> Sexp {
        let (kind, path, last) = match self {
            Self::File { path, sha256 } => ("File", path, Sexp::atom(sha256.as_str())),
            Self::Symlink { path, target } => ("Symlink", path, Sexp::atom(target.clone())),
            Self::Dir { path, children } => {
                ("Dir", path, Sexp::list(children.iter().map(Self::to_sexp)))
            }
        };
        Sexp::tagged(kind, [Sexp::list([Sexp::atom(path.clone()), last])])
    }
}

/// What a `copy` does, once its sources have been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyItems {
    /// Puts each item into a directory, under its own name.
    Into {
        /// The items.
        items: Vec<Manifest>,
        /// The directory: absolute, ends with `/`.
        dst: BString,
    },
    /// Puts one item at a path.
    At {
        /// The item.
        item: Manifest,
        /// The path: absolute.
        dst: BString,
    },
}

/// Why sources and destination of a `copy` do not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CopyShapeError {
    /// There is no source.
    #[error("`copy` has nothing to copy: `src` is empty")]
    NoSource,
    /// Several sources need a directory.
    #[error("`copy` has several sources, so its `dst` must be a directory: end it with `/`")]
    NotADirectory,
}

impl CopyItems {
    /// What copying `items` to the absolute path `dst` means: into it when it ends with `/`.
    pub fn new(mut items: Vec<Manifest>, dst: BString) -> Result<Self, CopyShapeError> {
        if items.is_empty() {
            return Err(CopyShapeError::NoSource);
        }
        if dst.ends_with(b"/") {
            return Ok(Self::Into { items, dst });
        }
        match (items.pop(), items.is_empty()) {
            (Some(item), true) => Ok(Self::At { item, dst }),
            _ => Err(CopyShapeError::NotADirectory),
        }
    }

    /// The form that ids are made of.
    pub fn to_sexp(&self) -> Sexp {
        let (kind, what, dst) = match self {
            Self::Into { items, dst } => {
                ("Copy_items", Sexp::list(items.iter().map(Manifest::to_sexp)), dst)
            }
            Self::At { item, dst } => ("Copy_item", item.to_sexp(), dst),
        };
        Sexp::tagged(kind, [Sexp::list([what, Sexp::atom(dst.clone())])])
    }
}
