//! The operation `copy`.

use std::path::PathBuf;
use std::sync::Arc;

use bstr::{BString, ByteSlice};

use super::place::Target;
use super::source::Source;
use super::{Build, BuildError, Builder, CopyError, Scope, State};
use crate::cache::{Client, StepFailure, StepRequest, Workspace};
use crate::contracts::{Sandbox, Snapshot};
use crate::error::SandboxError;
use crate::id::{CopyKey, ResultId};
use crate::manifest::CopyItems;
use crate::progress::Event;
use crate::spec::{Copy, CopySource, User, resolve};

/// How often a copy starts afresh when its sources change under it.
const ATTEMPTS: u32 = 3;

/// Where the files of one `copy` are, kept from being pruned.
#[derive(Clone)]
pub(super) struct Origin {
    dir: PathBuf,
    _pin: Option<Arc<Snapshot>>,
}

/// A `copy` whose sources have been looked at.
pub(super) struct Looked {
    pub(super) id: ResultId,
    items: CopyItems,
}

impl Builder {
    /// Where `copy` finds its files.
    pub(super) fn origin(&self, copy: &Copy, src_dir: &std::path::Path, scope: &Scope) -> Origin {
        match &copy.from {
            CopySource::Context => Origin { dir: src_dir.to_owned(), _pin: None },
            CopySource::Build(name) => {
                let result = scope.get(name).expect("the parser lets only earlier builds be named");
                Origin { dir: result.rootfs(), _pin: Some(result.clone()) }
            }
        }
    }

    /// Looks at the files and reckons the id.
    pub(super) fn look(
        &self,
        copy: &Copy,
        origin: &Origin,
        state: &State,
        base: &ResultId,
    ) -> Result<Looked, CopyError> {
        let source = Source::open(&origin.dir)?;
        let manifest =
            |src: &BString| source.manifest(self.source_path(copy, src)?.as_bstr(), &copy.exclude);
        let manifests = copy.src.iter().map(manifest).collect::<Result<_, CopyError>>()?;
        let items =
            CopyItems::new(manifests, resolve(state.workdir.as_bstr(), copy.dst.as_bstr()))?;
        let id = CopyKey { base, user: &state.user, items: &items }.id();
        Ok(Looked { id, items })
    }

    /// A source in a nested build may be named as the build's own commands name it.
    fn source_path(&self, copy: &Copy, src: &BString) -> Result<BString, CopyError> {
        match copy.from {
            CopySource::Build(_)
                if src.starts_with(b"/") && !src.split_str("/").any(|part| part == b"..") =>
            {
                let located = self.sandbox.locate(src.as_bstr()).map_err(|error| {
                    CopyError::Target { path: src.to_string().into(), why: error.to_string() }
                })?;
                Ok(BString::from(located.into_os_string().into_encoded_bytes()))
            }
            _ => Ok(src.clone()),
        }
    }
}

impl Build<'_> {
    pub(super) fn copy(
        &self,
        copy: &Copy,
        state: &State,
        scope: &Scope,
        base: &Arc<Snapshot>,
        heading: String,
        client: &Client<'_>,
    ) -> Result<Arc<Snapshot>, BuildError> {
        let origin = self.builder.origin(copy, &self.context.src_dir, scope);
        let mut attempt = 1;
        loop {
            let wrong = |source| BuildError::Copy { heading: heading.clone(), source };
            let looked = match self.builder.look(copy, &origin, state, base.id()) {
                Err(CopyError::Changed(_)) if attempt < ATTEMPTS => {
                    attempt += 1;
                    continue;
                }
                looked => looked.map_err(wrong)?,
            };
            let request = self.copy_request(looked, &origin, state, base, heading.clone());
            match self.renewed_step(request, client) {
                Err(error) if attempt < ATTEMPTS && is_changed(&error) => {
                    client.tell(Event::Warning {
                        text: "the sources changed while they were copied; copying them again",
                    });
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn copy_request(
        &self,
        looked: Looked,
        origin: &Origin,
        state: &State,
        base: &Arc<Snapshot>,
        heading: String,
    ) -> StepRequest {
        let (sandbox, origin, pin) = (self.builder.sandbox.clone(), origin.clone(), base.clone());
        let user = state.user.clone();
        StepRequest {
            id: looked.id,
            fresh: false,
            base: Some(base.id().clone()),
            heading,
            keep_failed: false,
            surroundings: state.surroundings(&[]),
            work: Box::new(move |workspace| {
                let _pin = pin;
                perform(&looked.items, &origin, &user, &*sandbox, workspace).map(|()| None)
            }),
        }
    }
}

fn perform(
    items: &CopyItems,
    origin: &Origin,
    user: &User,
    sandbox: &dyn Sandbox,
    workspace: &Workspace<'_>,
) -> Result<(), StepFailure> {
    let source = Source::open(&origin.dir)?;
    let rootfs = workspace.dir.join("rootfs");
    let owner = sandbox.owner(user).map_err(|error: SandboxError| StepFailure::Sandbox(error))?;
    let target = Target::open(&rootfs, sandbox, owner)?;
    let copied = target.copy(items, &source, workspace.cancel);
    if workspace.cancel.is_cancelled() { Err(StepFailure::Cancelled) } else { Ok(copied?) }
}

fn is_changed(error: &BuildError) -> bool {
    matches!(error, BuildError::Step { source, .. } if matches!(**source, StepFailure::Copy(CopyError::Changed(_))))
}
