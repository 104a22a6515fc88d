//! Recorded OBuilder builds: ours in `compat/`, or those in the folder that `OBUILD_COMPAT_DIR` names.

use std::fs;
use std::path::{Path, PathBuf};

use obuilder_core::bstr::BString;
use obuilder_core::spec::Spec;

/// One recorded build.
pub(crate) struct Case {
    /// Its folder.
    pub(crate) dir: PathBuf,
}

impl Case {
    /// All cases, by name.
    pub(crate) fn all() -> Vec<Self> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat");
        let dir = std::env::var_os("OBUILD_COMPAT_DIR").map_or(own, PathBuf::from);
        let entries =
            fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let mut cases: Vec<_> =
            entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
        cases.sort();
        assert!(!cases.is_empty(), "no cases in {}", dir.display());
        cases.into_iter().map(|dir| Self { dir }).collect()
    }

    /// The case's name.
    pub(crate) fn name(&self) -> String {
        self.dir.file_name().unwrap().to_string_lossy().into_owned()
    }

    /// A file of the case.
    pub(crate) fn file(&self, name: &str) -> BString {
        let path = self.dir.join(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
    }

    /// The case's spec.
    pub(crate) fn spec(&self) -> Spec {
        let source = self.file("spec.scm");
        Spec::parse(&source).unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }
}
