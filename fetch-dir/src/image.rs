//! Finds the directory behind an image's name.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bstr::BStr;
use obuilder_core::error::FetchError;

/// The image that is always there: an empty tree.
pub const SCRATCH: &str = "scratch";

/// Names further apart than this are not offered as what was meant.
const NEAR: f64 = 0.75;

/// What stands behind a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// An empty tree.
    Scratch,
    /// A directory, all links on the way to it resolved, and where its environment would lie.
    Directory {
        /// The directory.
        tree: PathBuf,
        /// `NAME.env` beside it, which need not be there.
        env: PathBuf,
    },
}

/// Looks `name` up in `dirs`, the first that has it first.
pub(crate) fn find(dirs: &[PathBuf], name: &BStr) -> Result<Source, FetchError> {
    if name == SCRATCH {
        return Ok(Source::Scratch);
    }
    let one_component = !name.is_empty() && name != "." && name != ".." && !name.contains(&b'/');
    let place = one_component.then(|| {
        dirs.iter().map(|dir| dir.join(OsStr::from_bytes(name))).find(|path| path.is_dir())
    });
    let Some(path) = place.flatten() else { return Err(unknown(dirs, name)) };
    let tree = fs::canonicalize(&path).map_err(|e| FetchError::Failed {
        action: format!("find `{}`", path.display()),
        source: e.into(),
    })?;
    let mut env = path.into_os_string();
    env.push(".env");
    Ok(Source::Directory { tree, env: env.into() })
}

/// Names of all images, sorted. What cannot be listed has none.
pub(crate) fn known(dirs: &[PathBuf]) -> Vec<String> {
    let mut names = vec![SCRATCH.to_owned()];
    for entry in dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten() {
        let name = entry.file_name();
        if !name.as_bytes().starts_with(b".") && entry.path().is_dir() {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

fn unknown(dirs: &[PathBuf], name: &BStr) -> FetchError {
    let known = known(dirs);
    FetchError::Unknown { name: name.to_owned(), hint: hint(dirs, &known, name), known }
}

fn hint(dirs: &[PathBuf], known: &[String], name: &BStr) -> String {
    let asked = name.to_string();
    let near = known
        .iter()
        .map(|known| (strsim::jaro_winkler(known, &asked), known))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    if let Some((_, near)) = near {
        return format!("did you mean `{near}`?");
    }
    let places: Vec<_> = dirs.iter().map(|dir| format!("`{}`", Path::display(dir))).collect();
    match places.as_slice() {
        [] => "no directory of images is configured; `scratch` is an empty tree".to_owned(),
        _ => format!(
            "put a directory of that name in {}; images are not brought from a registry",
            places.join(" or ")
        ),
    }
}
