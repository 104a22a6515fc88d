//! The files that the spec of an image copies, laid out in one directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tree_copy::{How, Options, copy_tree};

use crate::download::{Brought, Downloads};
use crate::error::{Error, Result};
use crate::images::Images;
use crate::profile::profile;
use crate::request::Request;
use crate::scratch::Scratch;
use crate::sources::{Source, Sources};
use crate::spec::files;

/// A directory with everything that [`crate::spec()`] copies. It goes with this value.
#[derive(Debug)]
pub struct Context {
    dir: Scratch,
}

impl Context {
    /// Brings the sources of `request`, so far as they are not here yet, and lays them out.
    ///
    /// `tell` is told what is brought. `cancelled` is asked now and then.
    pub fn lay(
        images: &Images,
        request: &Request,
        sources: &Sources,
        tell: &dyn Fn(&str),
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self> {
        let workshop = images.workshop()?;
        let downloads = Downloads::new(workshop.join("downloads"));
        let dir = Scratch::new(&workshop, "context-")?;
        let part = |what: &str, source: &Source, name: &str| {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            let brought = downloads.bring(what, source, tell)?;
            place(&brought, dir.path(), name, cancelled)
        };
        part("Homebrew", &sources.homebrew.source, files::HOMEBREW)?;
        part("opam's repository", &sources.repository, files::REPOSITORY)?;
        for version in &request.opam {
            let (source, what) = (sources.opam(version)?, format!("opam {version}"));
            if source.directory().is_some() || matches!(source, Source::Git { .. }) {
                let text = format!("the source of {what}, `{}`, is no file", source.url());
                return Err(Error::Request(text));
            }
            let made = part(&what, source, "program")?;
            let name = dir.path().join(version.program());
            fs::rename(&made, &name).map_err(Error::io("name", &name))?;
        }
        let path = dir.path().join(files::PROFILE);
        fs::write(&path, profile(request)).map_err(Error::io("write", &path))?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Puts what was brought into `dir`, under the name that the spec has for its kind.
fn place(
    brought: &Brought,
    dir: &Path,
    name: &str,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<PathBuf> {
    let tree = |from: &Path, to: PathBuf| {
        let options =
            Options { how: How::TryReflink, cancel: Some(cancelled), ..Options::default() };
        match copy_tree(from, &to, &options) {
            Ok(_) => Ok(to),
            Err(tree_copy::Error::Cancelled) => Err(Error::Cancelled),
            Err(error) => {
                let action = format!("copy `{}`", from.display());
                Err(Error::Tree { action, source: error.into() })
            }
        }
    };
    match brought {
        Brought::File(path) => {
            let to = dir.join(format!("{name}{}", files::ARCHIVE));
            link_or_copy(path, &to).map_err(Error::io("copy", path))?;
            Ok(to)
        }
        Brought::Directory(path) => tree(path, dir.join(name)),
        Brought::History(path) => tree(path, dir.join(format!("{name}{}", files::HISTORY))),
    }
}

/// What is copied from a context is read alone, so that a link will do.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}
