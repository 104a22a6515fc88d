//! What a job is to do.

use std::fmt;

use crate::error::CallError;
use crate::schema_capnp::{docker_build, job_descr};

/// Most commits, secrets, build arguments or limits of a job.
pub const MOST_ITEMS: u32 = 1000;

/// A job as its submitter describes it. Nothing in it has been looked at: it may hold anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobDescr {
    /// What to do.
    pub action: Action,
    /// Jobs of one hint go to one worker where that can be.
    pub cache_hint: String,
    /// The URL of the Git repository with the commits.
    pub repository: String,
    /// The first is checked out, the others are merged into it; none means an empty context.
    pub commits: Vec<String>,
    /// Secrets for the steps that ask for them.
    pub secrets: Vec<Secret>,
}

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its id.
    pub id: String,
    /// The secret itself, any bytes.
    pub value: Vec<u8>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the value.
        f.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Builds a Dockerfile.
    Docker(DockerBuild),
    /// Builds a spec.
    Obuilder {
        /// Its text.
        spec: Vec<u8>,
    },
    /// Something that this worker is no party to.
    Custom {
        /// What it is called.
        kind: String,
    },
    /// A kind of job that came after this version, by its number.
    Unknown(u16),
}

/// A build of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DockerBuild {
    /// The Dockerfile.
    pub dockerfile: Dockerfile,
    /// `repo:tag` to push the image to; empty for none.
    pub push_target: String,
    /// Who pushes; empty to push without logging in.
    pub push_user: String,
    /// With which password.
    pub push_password: Password,
    /// Each for a `--build-arg`.
    pub build_args: Vec<String>,
    /// `--squash`.
    pub squash: bool,
    /// Whether to build by BuildKit.
    pub buildkit: bool,
    /// Whether the context has its `.git`.
    pub include_git: bool,
    /// Each for a `--ulimit`.
    pub ulimit: Vec<String>,
}

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dockerfile {
    /// Its text.
    Contents(Vec<u8>),
    /// Its path in the context.
    Path(String),
}

impl Default for Dockerfile {
    fn default() -> Self {
        Self::Contents(Vec::new())
    }
}

/// A password, which is never shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl JobDescr {
    /// A build of `spec` without a context.
    pub fn obuilder(spec: impl Into<Vec<u8>>) -> Self {
        Self {
            action: Action::Obuilder { spec: spec.into() },
            cache_hint: String::new(),
            repository: String::new(),
            commits: Vec::new(),
            secrets: Vec::new(),
        }
    }

    pub(crate) fn read(from: job_descr::Reader<'_>) -> Result<Self, CallError> {
        let secrets = from.get_secrets()?;
        few(secrets.len(), "secrets")?;
        let secret = |secret: crate::schema_capnp::secret::Reader<'_>| {
            let value = secret.get_value()?.as_bytes().to_vec();
            Ok::<_, CallError>(Secret { id: text(secret.get_id()?)?, value })
        };
        Ok(Self {
            action: read_action(from.get_action())?,
            cache_hint: text(from.get_cache_hint()?)?,
            repository: text(from.get_repository()?)?,
            commits: texts(from.get_commits()?, "commits")?,
            secrets: secrets.iter().map(secret).collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn write(&self, mut to: job_descr::Builder<'_>) -> Result<(), CallError> {
        match &self.action {
            Action::Docker(build) => {
                write_docker(build, to.reborrow().get_action().init_docker_build())?
            }
            Action::Obuilder { spec } => {
                to.reborrow().get_action().init_obuilder().set_spec(capnp::text::Reader(spec));
            }
            Action::Custom { kind } => to.reborrow().get_action().init_custom().set_kind(kind),
            Action::Unknown(number) => {
                return Err(CallError::Unimplemented(format!("jobs of kind {number}")));
            }
        }
        to.set_cache_hint(&self.cache_hint);
        to.set_repository(&self.repository);
        write_texts(&self.commits, to.reborrow().init_commits(count(&self.commits)));
        let mut secrets = to.init_secrets(u32::try_from(self.secrets.len()).unwrap_or(u32::MAX));
        for (at, secret) in (0..).zip(&self.secrets) {
            let mut to = secrets.reborrow().get(at);
            to.set_id(&secret.id);
            to.set_value(capnp::text::Reader(&secret.value));
        }
        Ok(())
    }
}

fn read_action(from: job_descr::action::Reader<'_>) -> Result<Action, CallError> {
    use job_descr::action::Which;
    Ok(match from.which() {
        Ok(Which::DockerBuild(build)) => Action::Docker(read_docker(build?)?),
        Ok(Which::Obuilder(build)) => {
            Action::Obuilder { spec: build?.get_spec()?.as_bytes().to_vec() }
        }
        Ok(Which::Custom(custom)) => Action::Custom { kind: text(custom?.get_kind()?)? },
        Err(capnp::NotInSchema(number)) => Action::Unknown(number),
    })
}

fn read_docker(from: docker_build::Reader<'_>) -> Result<DockerBuild, CallError> {
    use docker_build::dockerfile::Which;
    let dockerfile = match from.get_dockerfile().which() {
        Ok(Which::Contents(contents)) => Dockerfile::Contents(contents?.as_bytes().to_vec()),
        Ok(Which::Path(path)) => Dockerfile::Path(text(path?)?),
        Err(error) => return Err(capnp::Error::from(error).into()),
    };
    Ok(DockerBuild {
        dockerfile,
        push_target: text(from.get_push_target()?)?,
        push_user: text(from.get_push_user()?)?,
        push_password: Password(text(from.get_push_password()?)?),
        build_args: texts(from.get_build_args()?, "build arguments")?,
        squash: from.get_squash(),
        buildkit: from.get_buildkit(),
        include_git: from.get_include_git(),
        ulimit: texts(from.get_ulimit()?, "limits")?,
    })
}

fn write_docker(build: &DockerBuild, mut to: docker_build::Builder<'_>) -> Result<(), CallError> {
    match &build.dockerfile {
        Dockerfile::Contents(contents) => {
            to.reborrow().init_dockerfile().set_contents(capnp::text::Reader(contents));
        }
        Dockerfile::Path(path) => to.reborrow().init_dockerfile().set_path(path),
    }
    to.set_push_target(&build.push_target);
    to.set_push_user(&build.push_user);
    to.set_push_password(&build.push_password.0);
    write_texts(&build.build_args, to.reborrow().init_build_args(count(&build.build_args)));
    to.set_squash(build.squash);
    to.set_buildkit(build.buildkit);
    to.set_include_git(build.include_git);
    write_texts(&build.ulimit, to.init_ulimit(count(&build.ulimit)));
    Ok(())
}

/// A text that must be UTF-8.
pub(crate) fn text(from: capnp::text::Reader<'_>) -> Result<String, CallError> {
    Ok(from.to_str()?.to_owned())
}

/// Refuses lists that nobody would write.
pub(crate) fn few(count: u32, what: &str) -> Result<(), CallError> {
    if count > MOST_ITEMS {
        return Err(CallError::Failed(format!("{count} {what} are more than {MOST_ITEMS}")));
    }
    Ok(())
}

fn texts(from: capnp::text_list::Reader<'_>, what: &str) -> Result<Vec<String>, CallError> {
    few(from.len(), what)?;
    from.iter().map(|one| text(one?)).collect()
}

fn count(texts: &[String]) -> u32 {
    u32::try_from(texts.len()).unwrap_or(u32::MAX)
}

fn write_texts(from: &[String], mut to: capnp::text_list::Builder<'_>) {
    for (at, one) in (0..).zip(from) {
        to.set(at, one);
    }
}
