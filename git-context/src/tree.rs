//! What a commit holds, looked at before anything of it is written.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use obuilder_core::bstr::{BString, ByteSlice};

use crate::commit::CommitId;
use crate::error::{Ending, Error, Result};
use crate::git::Command;
use crate::job::Job;
use crate::shown::shown_bytes;

#[cfg(test)]
mod tests;

/// Longest record of a listing that is read, in bytes: no system makes a file whose path is longer than 4096.
const LONGEST: usize = 4096 + 100;
/// Most bytes that the listings of one job may have. A few trees that stand in one another many times make a long listing.
pub(crate) const MOST_LISTED: u64 = 128 << 20;

/// What may still be written for a job.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    pub(crate) files: u64,
    pub(crate) entries: u64,
    pub(crate) listed: u64,
}

/// What one line of a listing takes.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    /// Bytes of the file.
    size: u64,
    /// Itself, and directories that were not seen before.
    entries: u64,
}

/// What was found in a tree.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Its submodules: where, and at which commit.
    pub(crate) gitlinks: Vec<(BString, CommitId)>,
    /// Whether it has a `.gitmodules` that is a file.
    pub(crate) has_modules: bool,
    /// Links and submodules, by the hash of what filesystems that ignore case compare.
    links: HashMap<u64, BString>,
    /// Such hashes of directories: their paths, each with all its parents, are too long to be kept.
    dirs: HashSet<u64>,
    /// The directory that the listing is in: its components, each with the hash of the path to it.
    within: Vec<(BString, u64)>,
    hasher: RandomState,
}

/// Looks at what `commit` holds; `git` names the repository. What it takes is taken off `allowance`.
///
/// A tree may say that it holds more than any disk: the listing is given up where the allowance ends.
pub(crate) fn look(
    job: &Job<'_>,
    git: impl FnOnce(&'static str, Vec<String>) -> Command,
    commit: &str,
    allowance: &mut Allowance,
) -> Result<Tree> {
    let args = ["ls-tree", "-r", "-l", "-z", "--full-tree", commit].map(String::from);
    let command = git("git-ls-tree", args.to_vec());
    let mut tree = Tree::default();
    let mut rest = Vec::new();
    let limits = job.git.limits.clone();
    let mut take = |bytes: &[u8]| {
        rest.extend_from_slice(bytes);
        let mut records = rest.split_inclusive(|&byte| byte == 0).peekable();
        let mut used = 0;
        while let Some(record) = records.next_if(|record| record.ends_with(b"\0")) {
            used += record.len();
            let taken = tree.record(&record[..record.len() - 1])?;
            allowance.take(&taken, record.len(), &limits)?;
        }
        rest.drain(..used);
        if rest.len() > LONGEST { Err(too_long(&rest)) } else { Ok(()) }
    };
    job.taken(&command, &mut take)?.told(job)?;
    tree.check_case()?;
    Ok(tree)
}

impl Allowance {
    fn take(&mut self, taken: &Taken, listed: usize, limits: &crate::Limits) -> Result<()> {
        let larger =
            |limit, unit| Error::TooLarge { what: "what the job checks out".into(), limit, unit };
        let left = |left: u64, taken: u64| left.checked_sub(taken);
        self.entries =
            left(self.entries, taken.entries).ok_or_else(|| larger(limits.entries, "entries"))?;
        self.files = left(self.files, taken.size).ok_or_else(|| larger(limits.files, "bytes"))?;
        self.listed = left(self.listed, listed as u64)
            .ok_or_else(|| larger(MOST_LISTED, "bytes of paths"))?;
        Ok(())
    }
}

/// As if Git had failed: the repository is not what it should be.
fn unreadable() -> Error {
    Error::Command { label: "git-ls-tree", ending: Ending::Exit(128), hint: None }
}

fn too_long(record: &[u8]) -> Error {
    let path = record.split_once_str("\t").map_or(record, |(_, path)| path);
    refused(path, "it is longer than any system takes", "make it shorter")
}

impl Tree {
    /// One line of `ls-tree -l`: `MODE TYPE OBJECT SIZE<tab>PATH`.
    fn record(&mut self, record: &[u8]) -> Result<Taken> {
        if record.len() > LONGEST {
            return Err(too_long(record));
        }
        let (head, path) = record.split_once_str("\t").ok_or_else(unreadable)?;
        let mut fields = head.fields();
        let mut next =
            || fields.next().and_then(|field| field.to_str().ok()).ok_or_else(unreadable);
        let (mode, _, object, size) = (next()?, next()?, next()?, next()?);
        check_path(path)?;
        let entries = 1 + self.remember_dirs(path);
        match mode {
            "160000" => {
                let commit = CommitId::parse(object).map_err(|_| unreadable())?;
                self.remember_link(path);
                self.gitlinks.push((path.into(), commit));
                return Ok(Taken { size: 0, entries });
            }
            "120000" => {
                if folded(path) == ".gitmodules" {
                    let why = "it is a link, and Git reads it only as a file";
                    return Err(refused(path, why, "commit the file itself"));
                }
                self.remember_link(path);
            }
            _ => self.has_modules |= path == b".gitmodules",
        }
        Ok(Taken { size: size.parse().map_err(|_| unreadable())?, entries })
    }

    fn remember_link(&mut self, path: &[u8]) {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let hash = self.hash(name);
        self.links.insert(hash, path.into());
    }

    /// The hash of `name` in the directory that the listing is in.
    fn hash(&self, name: &[u8]) -> u64 {
        let parent = self.within.last().map_or(0, |(_, hash)| *hash);
        self.hasher.hash_one((parent, &folded(name)[..]))
    }

    /// Remembers the directories on the way to `path`; says how many are new. The listing goes through one after the other.
    fn remember_dirs(&mut self, path: &[u8]) -> u64 {
        let mut parts: Vec<_> = path.split(|&byte| byte == b'/').collect();
        parts.pop();
        let same = self.within.iter().zip(&parts).take_while(|((one, _), other)| one == *other);
        let same = same.count();
        self.within.truncate(same);
        for part in &parts[same..] {
            let hash = self.hash(part);
            self.dirs.insert(hash);
            self.within.push(((*part).into(), hash));
        }
        (parts.len() - same) as u64
    }

    /// A link or submodule `a` and a directory `A` are one thing on a Mac, and what goes into the directory would go through the link.
    fn check_case(&self) -> Result<()> {
        let Some((_, path)) = self.links.iter().find(|(hash, _)| self.dirs.contains(*hash)) else {
            return Ok(());
        };
        Err(refused(
            path,
            "it is a link or a submodule, and a directory differs from it in case alone",
            "rename one of the two",
        ))
    }
}

/// Refuses paths that lead elsewhere or into Git's own files, on any filesystem.
fn check_path(path: &[u8]) -> Result<()> {
    if path.is_empty() || path.contains(&0) {
        return Err(refused(path, "it is no path", "remove it from the commit"));
    }
    for part in path.split(|&byte| byte == b'/') {
        if matches!(part, b"" | b"." | b"..") {
            return Err(refused(path, "it leads out of the tree", "remove it from the commit"));
        }
        if is_dot_git(part) {
            let why =
                "Git's own files lie under that name, or under what a Mac or Windows takes for it";
            return Err(refused(path, why, "remove it from the commit"));
        }
    }
    Ok(())
}

fn refused(path: &[u8], why: &str, hint: &str) -> Error {
    let what = format!("the path `{}` in the commit", shown_bytes(path));
    Error::Refused { what, why: why.into(), hint: hint.into() }
}

/// Whether some filesystem takes `name` for `.git`: in other case, with characters that HFS+ ignores, by its short name, or with
/// what Windows drops at the end.
pub(crate) fn is_dot_git(name: &[u8]) -> bool {
    let folded = folded(name);
    let name = folded.trim_end_with(|c| matches!(c, '.' | ' '));
    let name = name.split(|&byte| matches!(byte, b':' | b'\\')).next().unwrap_or_default();
    matches!(name.trim_end_with(|c| matches!(c, '.' | ' ')), b".git" | b"git~1")
}

/// What filesystems that ignore case compare of a name.
fn folded(name: &[u8]) -> BString {
    match name.to_str() {
        Ok(text) if text.is_ascii() => text.to_ascii_lowercase().into(),
        Ok(text) => {
            text.to_lowercase().chars().filter(|&c| !is_ignored(c)).collect::<String>().into()
        }
        Err(_) => name.to_ascii_lowercase().into(),
    }
}

/// Characters that HFS+ ignores in names.
fn is_ignored(character: char) -> bool {
    matches!(character, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}
