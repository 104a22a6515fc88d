//! What a `.gitmodules` says of submodules.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use obuilder_core::bstr::{BStr, BString, ByteSlice};

use crate::error::{Error, Result};
use crate::git::Command;
use crate::job::Job;
use crate::shown::{shown, shown_bytes};
use crate::tree::is_dot_git;

#[cfg(test)]
mod tests;

/// The largest `.gitmodules` that is read, in bytes.
const LARGEST: usize = 1 << 20;

/// One submodule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Where Git keeps it, below `.git/modules`.
    pub(crate) name: String,
    /// As it is written.
    pub(crate) url: String,
    /// `none` leaves the directory empty.
    pub(crate) skipped: bool,
}

/// The submodules of a tree, by their path.
#[derive(Debug, Default)]
pub(crate) struct Modules(BTreeMap<BString, Module>);

/// What was read of one submodule so far.
#[derive(Debug, Default)]
struct Read {
    path: Option<String>,
    url: Option<String>,
    update: Option<String>,
}

impl Modules {
    /// Reads what `command`, a `git config`, prints of the file.
    pub(crate) fn read(job: &Job<'_>, command: &Command) -> Result<Self> {
        let mut listing = Vec::new();
        let mut take = |bytes: &[u8]| {
            listing.extend_from_slice(bytes);
            let what = "`.gitmodules`".to_string();
            let too_large = Error::TooLarge { what, limit: LARGEST as u64, unit: "bytes" };
            if listing.len() > LARGEST { Err(too_large) } else { Ok(()) }
        };
        job.taken(command, &mut take)?.told(job)?;
        Self::parse(&listing)
    }

    /// Reads what `git config -z --list` prints: `KEY<newline>VALUE<nul>`, keys `submodule.NAME.VARIABLE`.
    pub(crate) fn parse(listing: &[u8]) -> Result<Self> {
        let mut all = BTreeMap::<String, Read>::new();
        for record in listing.split(|&byte| byte == 0) {
            let (key, value) = record.split_once_str("\n").unwrap_or((record, b""));
            let Some((name, variable)) = split(key) else { continue };
            let name = text(name, name)?;
            let read = all.entry(name.into()).or_default();
            let place = match variable {
                b"path" => &mut read.path,
                b"url" => &mut read.url,
                b"update" => &mut read.update,
                _ => continue,
            };
            let value = text(name.as_bytes(), value)?;
            if place.as_deref().is_some_and(|before| before != value) {
                let why =
                    format!("`.gitmodules` gives it two values for `{}`", shown_bytes(variable));
                return Err(refused(name, why, "remove one of them"));
            }
            *place = Some(value.into());
        }
        let mut modules = Self::default();
        all.into_iter().try_for_each(|(name, read)| modules.add(name, read))?;
        Ok(modules)
    }

    fn add(&mut self, name: String, read: Read) -> Result<()> {
        let Read { path: Some(path), url: Some(url), update } = read else { return Ok(()) };
        check_name(&name)?;
        if update.as_deref().is_some_and(|update| update.starts_with('!')) {
            let why = "`.gitmodules` wants a command to be run for it".into();
            return Err(refused(&name, why, "remove `update` from `.gitmodules`"));
        }
        let skipped = update.as_deref() == Some("none");
        match self.0.entry(path.into()) {
            Entry::Vacant(place) => place.insert(Module { name, url, skipped }),
            Entry::Occupied(before) => {
                let why =
                    format!("`.gitmodules` has `{}` at the same path", shown(&before.get().name));
                return Err(refused(&name, why, "remove one of them"));
            }
        };
        Ok(())
    }

    /// The submodule at `path`.
    pub(crate) fn at(&self, path: &BStr) -> Option<&Module> {
        self.0.get(path)
    }

    /// Refuses names of which one would lie in another's directory.
    pub(crate) fn check_names<'a>(used: impl IntoIterator<Item = &'a Module>) -> Result<()> {
        let mut names: Vec<String> =
            used.into_iter().map(|module| format!("{}/", module.name.to_lowercase())).collect();
        names.sort();
        match names.windows(2).find(|pair| pair[1].starts_with(&pair[0])) {
            None => Ok(()),
            Some(pair) => {
                let other = shown(pair[0].trim_end_matches('/'));
                let why = format!("its directory would lie in that of `{other}`");
                Err(refused(
                    pair[1].trim_end_matches('/'),
                    why,
                    "rename one of them in `.gitmodules`",
                ))
            }
        }
    }
}

/// The name and the variable of a key. Names may hold dots.
fn split(key: &[u8]) -> Option<(&[u8], &[u8])> {
    key.strip_prefix(b"submodule.")?.rsplit_once_str(".")
}

fn text<'a>(name: &[u8], value: &'a [u8]) -> Result<&'a str> {
    let fault = |why: &str| refused(&shown_bytes(name), why.into(), "correct `.gitmodules`");
    let text = value.to_str().map_err(|_| fault("`.gitmodules` is not in UTF-8 there"))?;
    if text.chars().any(char::is_control) {
        return Err(fault("`.gitmodules` has a control character there"));
    }
    Ok(text)
}

/// The name becomes a directory.
fn check_name(name: &str) -> Result<()> {
    let good = |part: &str| {
        !matches!(part, "" | "." | "..") && !part.starts_with('-') && !is_dot_git(part.as_bytes())
    };
    if name.contains('\\') || !name.split('/').all(good) {
        let why = "its name leads elsewhere, or into Git's own files".into();
        return Err(refused(name, why, "rename it in `.gitmodules`"));
    }
    Ok(())
}

fn refused(name: &str, why: String, hint: &str) -> Error {
    Error::Refused { what: format!("the submodule `{}`", shown(name)), why, hint: hint.into() }
}
