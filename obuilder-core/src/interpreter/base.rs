//! The operation `from`: base images.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};

use super::once::Turn;
use super::{Build, BuildError};
use crate::cache::meta::MetaBase;
use crate::cache::{Client, ResultCache, StepFailure, StepRequest, Workspace};
use crate::cancel::Cancel;
use crate::contracts::{Fetcher, Fingerprint, Snapshot};
use crate::error::{FetchError, StoreError};
use crate::id::{ResultId, base_id};
use crate::progress::Event;
use crate::sexp::{Node, Sexp};
use crate::spec::from_heading;

/// The environment of an image: names and values.
pub(super) type Env = Vec<(BString, BString)>;

/// Whether the result that stands for an image still is that image.
pub(super) enum Freshness {
    /// It is, or there is no result to compare with.
    Same,
    /// The image behind the name has changed.
    Changed,
}

/// Compares the image behind `name` with the one that was imported.
///
/// A base that another program imported has no fingerprint: what is behind the name now is taken for it, so that a
/// store filled by OBuilder stays warm.
pub(super) fn freshness(
    cache: &ResultCache,
    fetcher: &dyn Fetcher,
    name: &BStr,
    id: &ResultId,
    cancel: &Cancel,
) -> Result<Freshness, BuildError> {
    if cache.store().result(id)?.is_none() {
        return Ok(Freshness::Same);
    }
    let last = cache.base_fingerprint(id)?;
    let now = match fetcher.look(name, last.as_ref(), cancel) {
        Ok(now) => now,
        Err(FetchError::Cancelled(_)) => return Err(BuildError::Cancelled),
        Err(source) if fetcher.insists(name) => {
            return Err(BuildError::Base { name: name.to_owned(), source });
        }
        // The image has gone and its import is still there: builds go on, as they do where images are fetched once.
        Err(error) => {
            tracing::warn!("cannot see whether the base image `{name}` has changed: {error}");
            return Ok(Freshness::Same);
        }
    };
    match last {
        Some(last) if last.digest != now.digest => return Ok(Freshness::Changed),
        Some(last) if last == now => {}
        _ => cache.set_base_fingerprint(id, &name.to_str_lossy(), &now)?,
    }
    Ok(Freshness::Same)
}

impl Build<'_> {
    /// The base image `name`, imported if it is not there or has changed, and its environment.
    pub(super) fn base(
        &self,
        name: &BStr,
        client: &Client<'_>,
    ) -> Result<(Arc<Snapshot>, Env), BuildError> {
        let heading = from_heading(name);
        client.tell(Event::Heading { text: &heading });
        let id = base_id(name);
        // Whoever comes meanwhile waits: the import that is there may be one of an older image.
        let turn = self.shared.bases.enter(&name.to_owned(), client.cancel);
        let turn = turn.ok_or(BuildError::Cancelled)?;
        let fresh = matches!(turn, Turn::First(_)) && self.has_changed(name, &id, client)?;
        let result = self.step(self.import(name, id, heading, fresh), client)?;
        turn.done();
        let env = saved_env(&result).map_err(|source| {
            let path = result.env();
            StoreError::io(
                format!("read the environment of the base image `{}`", path.display()),
                source,
            )
        })?;
        Ok((result, env))
    }

    fn has_changed(
        &self,
        name: &BStr,
        id: &ResultId,
        client: &Client<'_>,
    ) -> Result<bool, BuildError> {
        let changed = matches!(
            freshness(&self.builder.cache, &*self.builder.fetcher, name, id, client.cancel)?,
            Freshness::Changed
        );
        if changed {
            let text = format!(
                "the base image `{name}` has changed: it and what was built on it is built anew"
            );
            client.tell(Event::Warning { text: &text });
        }
        Ok(changed)
    }

    fn import(&self, name: &BStr, id: ResultId, heading: String, fresh: bool) -> StepRequest {
        let (fetcher, name) = (self.builder.fetcher.clone(), name.to_owned());
        StepRequest {
            id,
            base: None,
            heading,
            keep_failed: false,
            surroundings: Default::default(),
            fresh,
            work: Box::new(move |workspace| fetch(&*fetcher, name.as_bstr(), workspace).map(Some)),
        }
    }
}

fn fetch(
    fetcher: &dyn Fetcher,
    name: &BStr,
    workspace: &Workspace<'_>,
) -> Result<MetaBase, StepFailure> {
    let image =
        fetcher.fetch(name, &workspace.dir.join("rootfs"), workspace.log, workspace.cancel)?;
    save_env(workspace.dir, &image.env).map_err(|source| {
        StoreError::io(format!("save the environment of the base image `{name}`"), source)
    })?;
    let Fingerprint { stamp, digest } = image.fingerprint;
    let origin = fetcher.origin(name);
    Ok(MetaBase { name: name.to_str_lossy().into_owned(), stamp, digest, origin })
}

/// Writes `((env ((K V) …)))`, as OBuilder does.
fn save_env(dir: &Path, env: &[(BString, BString)]) -> io::Result<()> {
    let pairs = Sexp::list(env.iter().map(|(name, value)| Sexp::atoms([name, value])));
    let record = Sexp::list([Sexp::tagged("env", [pairs])]);
    fs::write(dir.join("env"), record.to_machine())
}

/// The environment that a base image has brought; a result without one, such as a step's, has none.
pub fn saved_env(result: &Snapshot) -> io::Result<Env> {
    result.show().map_err(io::Error::other)?;
    let bytes = match fs::read(result.env()) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let bad = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not of the form `((env ((NAME VALUE) …)))`",
        )
    };
    let record =
        Node::parse(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    env_of(&record).ok_or_else(bad)
}

fn env_of(record: &Node) -> Option<Env> {
    let [field] = record.as_list()? else { return None };
    let [name, pairs] = field.as_list()? else { return None };
    if name.as_atom()? != "env" {
        return None;
    }
    let pair = |pair: &Node| match pair.as_list()? {
        [name, value] => Some((name.as_atom()?.clone(), value.as_atom()?.clone())),
        _ => None,
    };
    pairs.as_list()?.iter().map(pair).collect()
}
