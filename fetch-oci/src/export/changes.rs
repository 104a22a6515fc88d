//! What a layer must hold so that, on top of one tree, it gives another.

use std::collections::HashMap;
use std::io::Read;

use rustix::fs::FileType;

use super::listing::{Listing, Node};
use crate::error::{Error, Result};

/// One entry of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change<'a> {
    /// The node as it is.
    Put(&'a Node),
    /// The node as a further name of the file at this path.
    Link(&'a Node, &'a [u8]),
    /// What is at this path goes.
    Hide(&'a [u8]),
}

impl Change<'_> {
    fn path(&self) -> &[u8] {
        match self {
            Self::Put(node) | Self::Link(node, _) => &node.path,
            Self::Hide(path) => path,
        }
    }
}

/// The entries that turn `old`, or nothing, into `new`, sorted by path.
pub(super) fn changes<'a>(old: Option<&'a Listing>, new: &'a Listing) -> Result<Vec<Change<'a>>> {
    let kept = kept(old, new)?;
    let leaders = leaders(new, &kept);
    let mut all = Vec::new();
    for (node, kept) in new.nodes.iter().zip(&kept) {
        refuse_reserved(node)?;
        if *kept {
            continue;
        }
        match leaders.get(&node.inode) {
            Some(leader) if is_shared(node) && leader.path != node.path => {
                all.push(Change::Link(node, &leader.path));
            }
            _ => all.push(Change::Put(node)),
        }
    }
    for gone in old.into_iter().flat_map(|old| &old.nodes) {
        if new.get(&gone.path).is_none() && has_parent(new, &gone.path) {
            all.push(Change::Hide(&gone.path));
        }
    }
    // A name that is hidden and one that is put are never the same.
    all.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(all)
}

fn is_shared(node: &Node) -> bool {
    node.links > 1 && node.kind != FileType::Directory
}

/// For each file with several names, the one that the others are made links to: one that is there already, if any is.
fn leaders<'a>(new: &'a Listing, kept: &[bool]) -> HashMap<(u64, u64), &'a Node> {
    let mut leaders: HashMap<_, (&Node, bool)> = HashMap::new();
    for (node, kept) in new.nodes.iter().zip(kept).filter(|(node, _)| is_shared(node)) {
        let leader = leaders.entry(node.inode).or_insert((node, *kept));
        if *kept && !leader.1 {
            *leader = (node, true);
        }
    }
    leaders.into_iter().map(|(inode, (node, _))| (inode, node)).collect()
}

/// For each node of `new`, whether `old` has the very same at its path, with the same other names.
fn kept(old: Option<&Listing>, new: &Listing) -> Result<Vec<bool>> {
    let Some(old) = old else { return Ok(vec![false; new.nodes.len()]) };
    // Which files of the two stand for each other; names that were one file and are two, or the other way round, changed.
    let (mut forth, mut back) = (HashMap::new(), HashMap::new());
    let mut all = Vec::with_capacity(new.nodes.len());
    for node in &new.nodes {
        let same = match old.get(&node.path) {
            Some(before) => is_same(old, before, new, node)?.then_some(before),
            None => None,
        };
        all.push(same.is_some_and(|before| {
            node.kind == FileType::Directory
                || *forth.entry(before.inode).or_insert(node.inode) == node.inode
                    && *back.entry(node.inode).or_insert(before.inode) == before.inode
        }));
    }
    Ok(all)
}

fn is_same(old: &Listing, before: &Node, new: &Listing, now: &Node) -> Result<bool> {
    let facts = |node: &Node| {
        (node.kind, node.mode, node.uid, node.gid, node.mtime, node.size, node.device)
    };
    if facts(before) != facts(now) || before.target != now.target {
        return Ok(false);
    }
    // Results share the files that did not change.
    if before.inode == now.inode {
        return Ok(true);
    }
    Ok(old.xattrs(before)? == new.xattrs(now)?
        && (now.kind != FileType::RegularFile || has_same_contents(old, before, new, now)?))
}

fn has_same_contents(old: &Listing, before: &Node, new: &Listing, now: &Node) -> Result<bool> {
    let (mut left, mut right) = (vec![0; 65_536], vec![0; 65_536]);
    let mut a = std::fs::File::from(old.open(before)?);
    let mut b = std::fs::File::from(new.open(now)?);
    let failed = |error| Error::path("read", &new.path(now), error);
    loop {
        let read = fill(&mut a, &mut left).map_err(failed)?;
        let other = fill(&mut b, &mut right).map_err(failed)?;
        if left[..read] != right[..other] {
            return Ok(false);
        }
        if read < left.len() {
            return Ok(true);
        }
    }
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Whether the directory that holds `path` is still one: else it goes with that.
fn has_parent(new: &Listing, path: &[u8]) -> bool {
    let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |at| &path[..at]);
    new.get(parent).is_some_and(|node| node.kind == FileType::Directory)
}

fn refuse_reserved(node: &Node) -> Result<()> {
    let name = node.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if !name.starts_with(b".wh.") {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&node.path).into_owned();
    let why = "in images, names that begin with `.wh.` hide others".to_owned();
    Err(Error::BadName { text, why })
}
