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

/// A directory in which images are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDir {
    /// Where it is; it need not exist.
    pub path: PathBuf,
    /// Whether only those directories in it are images that have a `NAME.env` beside them, which may be empty. For places
    /// that hold people's homes too, which must not get into builds by their name alone.
    pub declared_only: bool,
}

impl From<PathBuf> for ImageDir {
    /// A place where every directory is an image.
    fn from(path: PathBuf) -> Self {
        Self { path, declared_only: false }
    }
}

impl ImageDir {
    /// The directory `name` of this place, image or not.
    fn directory(&self, name: &OsStr) -> Option<PathBuf> {
        let path = self.path.join(name);
        (!name.as_bytes().starts_with(b".") && path.is_dir()).then_some(path)
    }

    /// The directory `name` of this place if it is an image.
    fn image(&self, name: &OsStr) -> Option<PathBuf> {
        self.directory(name).filter(|path| !self.declared_only || env_of(path).is_file())
    }
}

/// `NAME.env` beside the directory at `path`.
fn env_of(path: &Path) -> PathBuf {
    let mut env = path.as_os_str().to_owned();
    env.push(".env");
    env.into()
}

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

/// Looks `name` up in `dirs`, the first that has it first. Names that begin with a dot are never images.
pub(crate) fn find(dirs: &[ImageDir], name: &BStr) -> Result<Source, FetchError> {
    if name == SCRATCH {
        return Ok(Source::Scratch);
    }
    if name.is_empty() || name.contains(&b'/') {
        return Err(unknown(dirs, name, None));
    }
    let file_name = OsStr::from_bytes(name);
    let Some(path) = dirs.iter().find_map(|dir| dir.image(file_name)) else {
        let undeclared = dirs.iter().find_map(|dir| dir.directory(file_name));
        return Err(unknown(dirs, name, undeclared));
    };
    let tree = fs::canonicalize(&path).map_err(|e| FetchError::Failed {
        action: format!("find `{}`", path.display()),
        source: e.into(),
    })?;
    Ok(Source::Directory { tree, env: env_of(&path) })
}

/// Whether `name` is the empty tree or the name of a directory in one of `dirs`, be it an image or not.
pub(crate) fn claims(dirs: &[ImageDir], name: &BStr) -> bool {
    let file_name = OsStr::from_bytes(name);
    name == SCRATCH
        || !name.is_empty()
            && !name.contains(&b'/')
            && dirs.iter().any(|dir| dir.directory(file_name).is_some())
}

/// Names of all images, sorted. What cannot be listed has none.
pub(crate) fn known(dirs: &[ImageDir]) -> Vec<String> {
    let mut names = vec![SCRATCH.to_owned()];
    for dir in dirs {
        for entry in fs::read_dir(&dir.path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if dir.image(&name).is_some() {
                names.push(name.to_string_lossy().into_owned());
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// The error for `name`, which is no image; `undeclared` is the directory of that name that could be declared to be one.
fn unknown(dirs: &[ImageDir], name: &BStr, undeclared: Option<PathBuf>) -> FetchError {
    let known = known(dirs);
    let hint = match undeclared {
        Some(path) => format!(
            "`{}` may be somebody's home, so it is no base image until it is declared to be one: `touch {}`",
            path.display(),
            env_of(&path).display(),
        ),
        None => hint(dirs, &known, name),
    };
    FetchError::Unknown { name: name.to_owned(), hint, known }
}

fn hint(dirs: &[ImageDir], known: &[String], name: &BStr) -> String {
    let asked = name.to_string();
    let near = known
        .iter()
        .map(|known| (strsim::jaro_winkler(known, &asked), known))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    if let Some((_, near)) = near {
        return format!("did you mean `{near}`?");
    }
    let places: Vec<_> = dirs.iter().map(|dir| format!("`{}`", dir.path.display())).collect();
    match places.as_slice() {
        [] => "no directory of images is configured; `scratch` is an empty tree".to_owned(),
        _ => format!("put a directory of that name in {}", places.join(" or ")),
    }
}
