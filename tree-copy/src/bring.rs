//! Makes a tree in a known state a copy of another snapshot, by the differences alone.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::copy::{Copied, Copier, Options, Pair};
use crate::draft::Draft;
use crate::error::Error;
use crate::index::Index;
use crate::meta::Meta;
use crate::place::Place;
use crate::plan::{DirPlan, Plan, Wanted};
use crate::remove::remove_tree;
use crate::scan::Scan;
use crate::walk::{Root, Visitor};

/// Carries out `plan`, which [`plan_change`](crate::plan_change) made from `index`: `tree`, in the state that `index` knows,
/// becomes a copy of `snapshot`. Returns its new index.
///
/// An error leaves the tree in no state that anybody knows; removing it is the caller's part.
pub fn bring_tree(
    tree: &Path,
    index: &Index,
    mut plan: Plan,
    snapshot: &Path,
    options: &Options<'_>,
) -> Result<(Draft, Copied), Error> {
    if plan.changed.first().is_none_or(|first| !first.path.is_empty()) {
        // Its attributes are set anew in any case.
        plan.changed.insert(0, DirPlan::default());
        plan.kept.retain(|path| !path.is_empty());
    }
    let copier = Copier::new(snapshot, tree, options)?;
    let mut bringer = Bringer { links: HashMap::new(), tree, copier };
    bringer.find_links(index, &plan)?;
    for dir in &plan.changed {
        bringer.change(dir)?;
    }
    for dir in plan.changed.iter().rev() {
        let place = Place::from_bytes(&dir.path);
        bringer.copier.finish(&bringer.copier.reopen(&place)?, &place)?;
    }
    let scan = Scan::new(Root::open(tree)?, Root::open(snapshot)?)?;
    plan.changed.iter().try_for_each(|dir| scan.one(&Place::from_bytes(&dir.path)))?;
    for block in plan.kept.iter().filter_map(|path| index.dir(path)) {
        scan.draft.keep(&block);
    }
    Ok((scan.draft.finish(), bringer.copier.tally.into_report()))
}

struct Bringer<'a> {
    copier: Copier<'a>,
    tree: &'a Path,
    /// Where the tree has what an inode of the snapshot holds.
    links: HashMap<u64, (Arc<Place>, CString)>,
}

impl Bringer<'_> {
    /// Finds entries that stay and are, in the snapshot, other names of what is to be taken from it.
    fn find_links(&mut self, index: &Index, plan: &Plan) -> Result<(), Error> {
        let wanted = plan.changed.iter().flat_map(|dir| &dir.take);
        let wanted: HashSet<u64> = wanted.map(|wanted| wanted.inode).collect();
        for block in index.dirs().filter(|_| !wanted.is_empty()) {
            for (name, old) in block.entries() {
                if old.is_dir() || !wanted.contains(&old.twin) {
                    continue;
                }
                let (place, name) = (Place::from_bytes(block.path), CString::new(name));
                let Ok(name) = name else { continue };
                let there = self.copier.from.reopen(&place).ok();
                if there.is_some_and(|dir| Meta::at(dir, &name).is_ok_and(|m| m.ino == old.twin)) {
                    self.links.insert(old.twin, (place, name));
                }
            }
        }
        Ok(())
    }

    fn change(&mut self, dir: &DirPlan) -> Result<(), Error> {
        let place = Place::from_bytes(&dir.path);
        let pair = self.copier.reopen(&place)?;
        self.copier.open_up(&pair, &place)?;
        dir.remove.iter().try_for_each(|name| self.remove(&pair, &place, name))?;
        dir.take.iter().try_for_each(|wanted| self.take(&pair, &place, wanted))
    }

    fn remove(&self, pair: &Pair, place: &Place, name: &CStr) -> Result<(), Error> {
        match rustix::fs::unlinkat(&pair.to, name, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(self.copier.to_error("remove", place, Some(name), error)),
        }
        remove_tree(&place.path(self.tree, Some(name))).map_err(|stuck| Error::Io {
            action: "remove",
            path: stuck.first,
            source: stuck.source,
        })
    }

    fn take(&mut self, pair: &Pair, place: &Arc<Place>, wanted: &Wanted) -> Result<(), Error> {
        let name = wanted.name.as_c_str();
        let failed = |action| move |e| (action, e);
        let done = if wanted.kind == FileType::Directory {
            rustix::fs::mkdirat(&pair.to, name, Mode::RWXU).map_err(failed("create"))
        } else if let Some((first, first_name)) = self.links.get(&wanted.inode) {
            let first = self.copier.to.reopen(first)?;
            rustix::fs::linkat(first, first_name, &pair.to, name, AtFlags::empty())
                .map_err(failed("link"))
        } else {
            let meta = Meta::at(pair.from.as_fd(), name)
                .map_err(|e| self.copier.error("read", place, Some(name), e))?;
            if self.copier.copy_alone(pair, place, name, &meta)? {
                self.links.insert(wanted.inode, (place.clone(), name.to_owned()));
            }
            Ok(())
        };
        done.map_err(|(action, e)| self.copier.to_error(action, place, Some(name), e))
    }
}
