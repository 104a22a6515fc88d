//! Source directories in memory, read from the `context.tar` of a recorded build.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use obuilder_core::bstr::{BString, ByteSlice};
use obuilder_core::id::ResultId;
use obuilder_core::manifest::Manifest;

/// What lies at each path; the directory itself lies at the empty one.
#[derive(Default)]
pub(crate) struct Tree(BTreeMap<Vec<u8>, Entry>);

enum Entry {
    File(Vec<u8>),
    Symlink(BString),
    Dir,
}

impl Tree {
    /// A tree of these regular files.
    pub(crate) fn of_files(files: &[(&str, &[u8])]) -> Self {
        let entry =
            |(path, data): &(&str, &[u8])| (path.as_bytes().to_vec(), Entry::File(data.to_vec()));
        Self(files.iter().map(entry).collect())
    }

    /// What the archive `path` holds; nothing when there is none.
    pub(crate) fn of_tar(path: &Path) -> Self {
        let mut rest = fs::read(path).unwrap_or_default();
        let mut tree = Self::default();
        while rest.first().is_some_and(|byte| *byte != 0) {
            let text = |range: std::ops::Range<usize>| {
                BString::from(rest[range].split(|byte| *byte == 0).next().unwrap_or_default())
            };
            let size = usize::from_str_radix(text(124..136).to_string().trim(), 8).unwrap();
            let entry = match rest[156] {
                b'0' => Entry::File(rest[512..512 + size].to_vec()),
                b'2' => Entry::Symlink(text(157..257)),
                b'5' => Entry::Dir,
                other => panic!("{}: an entry of type {other}", path.display()),
            };
            tree.0.insert(plain(&text(0..100)), entry);
            rest.drain(..512 + size.next_multiple_of(512));
        }
        tree
    }

    /// The manifest of `src`, as the `copy` operation takes it.
    pub(crate) fn manifest(&self, src: &[u8], exclude: &[BString]) -> Manifest {
        let path = plain(src);
        match &self.0[&path] {
            Entry::File(data) => {
                Manifest::File { path: path.into(), sha256: ResultId::of(data).to_string() }
            }
            Entry::Symlink(target) => {
                Manifest::Symlink { path: path.into(), target: target.clone() }
            }
            Entry::Dir => {
                let children = self.0.keys().filter(|child| parent_of(child) == Some(&path));
                let wanted = children.filter(|child| !exclude.contains(&name_of(child)));
                // Backwards, so that sorting has something to do.
                Manifest::dir(
                    path.clone(),
                    wanted.rev().map(|child| self.manifest(child, exclude)).collect(),
                )
            }
        }
    }
}

/// `path` without `.` and empty components.
fn plain(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|byte| *byte == b'/');
    let parts: Vec<_> = parts.filter(|part| !part.is_empty() && *part != b".").collect();
    parts.join(&b'/')
}

fn parent_of(path: &[u8]) -> Option<&[u8]> {
    let end = path.rfind_byte(b'/').unwrap_or(0);
    (!path.is_empty()).then_some(&path[..end])
}

fn name_of(path: &[u8]) -> BString {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().into()
}
