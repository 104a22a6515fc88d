//! Where the paths of a spec lie in the home.
//!
//! `/` in a spec means the home, unless a path already lies in the home or under a remapped prefix.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bstr::{BStr, ByteSlice};
use obuilder_core::error::SandboxError;

use crate::config::Config;

impl Config {
    /// Where the `path` of a `workdir` or `copy` lies, relative to the home.
    pub(crate) fn locate(&self, path: &BStr) -> Result<PathBuf, SandboxError> {
        let absolute = normalised(path)?;
        let inside = self.inside(&absolute);
        Ok(inside.unwrap_or_else(|| relative(&absolute)))
    }

    /// Where the `target` of a cache or secret lies, relative to the home; `None` when that is outside.
    /// A relative target starts from the working directory.
    pub(crate) fn target(
        &self,
        target: &BStr,
        workdir: &BStr,
    ) -> Result<Option<PathBuf>, SandboxError> {
        if target.first() == Some(&b'/') {
            return Ok(self.inside(&normalised(target)?));
        }
        let mut whole = self.locate(workdir)?.into_os_string().as_bytes().to_vec();
        whole.push(b'/');
        whole.extend_from_slice(target);
        Ok(Some(relative(&normalised(whole.as_bstr())?)))
    }

    fn inside(&self, absolute: &Path) -> Option<PathBuf> {
        if let Ok(inside) = absolute.strip_prefix(&self.home) {
            return Some(inside.to_owned());
        }
        self.prefixes.iter().find_map(|(prefix, shown)| {
            let rest = absolute.strip_prefix(prefix).ok()?;
            // Joining an empty path would add a slash.
            Some(if rest.as_os_str().is_empty() { shown.clone() } else { shown.join(rest) })
        })
    }
}

/// `path` as an absolute path without `.` and `..`.
fn normalised(path: &BStr) -> Result<PathBuf, SandboxError> {
    let mut result = PathBuf::from("/");
    for part in path.split_str("/") {
        match part {
            b"" | b"." => {}
            b".." if result.parent().is_none() => {
                return Err(SandboxError::Unsupported {
                    what: format!("`{path}` leads above the root"),
                    hint: "take out the `..` that is one too many".to_owned(),
                });
            }
            b".." => drop(result.pop()),
            name => result.push(OsStr::from_bytes(name)),
        }
    }
    Ok(result)
}

fn relative(absolute: &Path) -> PathBuf {
    absolute.strip_prefix("/").unwrap_or(absolute).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new("/Users/mac705")
    }

    #[test]
    fn a_specs_root_is_the_home() {
        let check = |path: &str, expected: &str| {
            assert_eq!(config().locate(path.into()).unwrap(), Path::new(expected), "{path}");
        };
        check("/", "");
        check("/src", "src");
        check("/src/./a//b/", "src/a/b");
        check("/src/../lib", "lib");
        check("/Users/mac705", "");
        check("/Users/mac705/src", "src");
        check("/Users/mac7051/src", "Users/mac7051/src");
        check("/Users/mac705/../x", "Users/x");
        check("/usr/local", "local");
        check("/usr/local/bin", "local/bin");
        check("/usr/localbin", "usr/localbin");
        check("/usr", "usr");
    }

    #[test]
    fn nothing_leads_above_the_root() {
        for path in ["/..", "/a/../../b", "/Users/mac705/../../../x"] {
            let error = config().locate(path.into()).unwrap_err();
            assert_eq!(error.to_string(), format!("`{path}` leads above the root"));
        }
    }

    #[test]
    fn targets_must_lie_in_the_home() {
        let check = |target: &str, expected: Option<&str>| {
            let found = config().target(target.into(), "/src".into()).unwrap();
            assert_eq!(found.as_deref(), expected.map(Path::new), "{target}");
        };
        check("/Users/mac705/.opam/download-cache", Some(".opam/download-cache"));
        check("/usr/local/Cellar", Some("local/Cellar"));
        check("_build", Some("src/_build"));
        check("../x", Some("x"));
        check("/var/cache", None);
        check("/", None);
    }
}
