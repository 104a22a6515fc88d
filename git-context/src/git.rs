//! One command of Git.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::limits::Limits;
use crate::settings::{self, Layout};

/// The installed program, and what it is always given.
#[derive(Debug)]
pub(crate) struct Git {
    pub(crate) program: PathBuf,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) limits: Limits,
}

impl Git {
    pub(crate) fn new(config: &Config, layout: &Layout) -> Self {
        let environment = settings::environment(config, layout);
        Self { program: config.git.clone(), environment, limits: config.limits.clone() }
    }
}

/// A command of Git, before it is run.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// For messages, such as `git-fetch`.
    pub(crate) label: &'static str,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) dir: PathBuf,
    pub(crate) input: Vec<u8>,
}

impl Command {
    /// A command on the repository at `git_dir`.
    pub(crate) fn new<A: Into<OsString>>(
        label: &'static str,
        git_dir: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        let env = vec![("GIT_DIR".into(), git_dir.into())];
        Self { label, args, env, dir: "/".into(), input: Vec::new() }
    }

    /// One more argument.
    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With a working tree, in which it runs.
    pub(crate) fn work_tree(mut self, dir: &Path) -> Self {
        self.env.push(("GIT_WORK_TREE".into(), dir.into()));
        self.dir = dir.to_owned();
        self
    }

    /// Reads objects of the repository at `git_dir` too.
    pub(crate) fn borrow_objects(mut self, git_dir: &Path) -> Self {
        let objects = git_dir.join("objects");
        self.env.push(("GIT_ALTERNATE_OBJECT_DIRECTORIES".into(), objects.into()));
        self
    }

    /// Sends `header` to `url`. Only the same user can see it.
    pub(crate) fn header(mut self, authorization: Option<(String, String)>) -> Self {
        if let Some((url, header)) = authorization {
            self.env.push(("GIT_CONFIG_COUNT".into(), "1".into()));
            self.env.push(("GIT_CONFIG_KEY_0".into(), format!("http.{url}.extraHeader").into()));
            self.env.push(("GIT_CONFIG_VALUE_0".into(), header.into()));
        }
        self
    }

    /// With `bytes` as its standard input.
    pub(crate) fn input(mut self, bytes: Vec<u8>) -> Self {
        self.input = bytes;
        self
    }
}
