//! Builds Dockerfiles by an installed `docker`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use obuilder_core::Cancel;
use ocluster::{DockerBuild, Dockerfile, Secret};

use crate::docker_space::{DockerSpace, acquire};
use crate::job::Outcome;
use crate::job_log::JobLog;
use crate::metrics::Metrics;
use crate::process::{Failure, Program};

/// Most bytes that are read of what an image is known by.
const MOST_DIGESTS: usize = 1 << 20;

/// Builds Dockerfiles.
pub struct Docker {
    program: PathBuf,
    allow_push: Vec<String>,
    metrics: Arc<Metrics>,
    /// For files that are nobody else's.
    dir: PathBuf,
    /// Makes room for its images, if anybody is to.
    space: Option<DockerSpace>,
    /// One push at a time: an image is tagged before it is pushed, for all to see.
    pushing: Mutex<()>,
}

/// One build, and what it needs while it runs.
struct Build<'a> {
    docker: &'a Docker,
    descr: &'a DockerBuild,
    log: &'a JobLog,
    cancel: &'a Cancel,
    /// For files that are nobody else's.
    dir: &'a Path,
}

impl Docker {
    /// Builds by `program`, and pushes to the repositories `allow_push` alone. Files of builds, secrets among them, are in `dir`,
    /// which is nobody else's: what a killed worker left there is removed.
    pub fn open(
        program: impl Into<PathBuf>,
        allow_push: Vec<String>,
        metrics: Arc<Metrics>,
        dir: PathBuf,
    ) -> io::Result<Self> {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::DirBuilder::new().mode(0o700).create(&dir)?,
        }
        let (program, pushing) = (program.into(), Mutex::default());
        Ok(Self { program, allow_push, metrics, dir, space: None, pushing })
    }

    /// Has `percent` of the volume at `root` kept free of images.
    pub fn keep_free(mut self, root: &Path, percent: f64) -> Self {
        let (program, metrics) = (self.program.clone(), self.metrics.clone());
        self.space = Some(DockerSpace::new(program, root, percent, metrics));
        self
    }

    /// Makes room for images if there is too little.
    pub fn make_room(&self, log: &JobLog, cancel: &Cancel) {
        // The build asks for a place again, as it has to when it is cancelled.
        drop(self.space.as_ref().map(|space| space.place(log, cancel)));
    }

    /// Does the job `descr` with the context `src`; gives what the pushed image is known by, or nothing.
    pub fn build(
        &self,
        descr: &DockerBuild,
        src: &Path,
        secrets: &[Secret],
        log: &JobLog,
        cancel: &Cancel,
    ) -> Outcome {
        let done = || {
            let place = self.space.as_ref().map(|space| space.place(log, cancel));
            if matches!(place, Some(None)) {
                return Err("cancelled".into());
            }
            let dir = tempfile::Builder::new()
                .prefix("build-worker-")
                .tempdir_in(&self.dir)
                .map_err(|e| e.to_string())?;
            let build = Build { docker: self, descr, log, cancel, dir: dir.path() };
            let image = build.image(src, secrets)?;
            if descr.push_target.is_empty() { Ok(String::new()) } else { build.push(&image) }
        };
        match done() {
            _ if cancel.is_cancelled() => Outcome::Cancelled,
            Ok(output) => Outcome::Succeeded(output),
            Err(why) => Outcome::Failed(why),
        }
    }
}

impl Build<'_> {
    fn run(&self, label: &'static str, args: &[String], stdin: &[u8]) -> Result<(), Failure> {
        let mut command = Command::new(&self.docker.program);
        command.args(args);
        if self.descr.buildkit {
            command.env("DOCKER_BUILDKIT", "1");
        }
        Program { label, command, stdin }.run(self.log, self.cancel)
    }

    /// Builds the image and gives its id.
    fn image(&self, src: &Path, secrets: &[Secret]) -> Result<String, String> {
        let dockerfile = match &self.descr.dockerfile {
            Dockerfile::Contents(contents) => self.file("Dockerfile", contents)?,
            Dockerfile::Path(path) => inside(src, path)?,
        };
        let id_file = self.dir.join("iid");
        let mut args = vec!["build".to_owned()];
        let each = |flag: &str, values: &[String]| {
            values.iter().flat_map(|value| [flag.to_owned(), value.clone()]).collect::<Vec<_>>()
        };
        // One without a value would be given that of the worker's own environment.
        if let Some(wrong) = self.descr.build_args.iter().find(|one| !one.contains('=')) {
            return Err(format!("the build argument {wrong:?} is not of the form NAME=VALUE"));
        }
        args.extend(each("--build-arg", &self.descr.build_args));
        args.extend(each("--ulimit", &self.descr.ulimit));
        args.extend(self.descr.squash.then(|| "--squash".to_owned()));
        for (number, secret) in secrets.iter().enumerate() {
            if secret.id.is_empty() || secret.id.contains([',', '=', '"']) {
                return Err(format!("the secret's id {:?} cannot be given to docker", secret.id));
            }
            let file = self.file(&format!("secret-{number}"), &secret.value)?;
            args.extend([
                "--secret".to_owned(),
                format!("id={},src={}", secret.id, file.display()),
            ]);
        }
        let (id, dockerfile) = (id_file.display().to_string(), dockerfile.display().to_string());
        let rest =
            ["--pull", "--iidfile", &id, "-f", &dockerfile, "--", &src.display().to_string()];
        args.extend(rest.map(str::to_owned));
        self.run("docker-build", &args, b"").map_err(|error| match error {
            Failure::Missing(_) => {
                "This worker cannot build Dockerfiles: there is no `docker` on it".to_owned()
            }
            error => error.to_string(),
        })?;
        let id = fs::read_to_string(&id_file)
            .map_err(|error| format!("docker-build left no image id: {error}"))?;
        Ok(id.trim().to_owned())
    }

    /// Pushes the image and gives its repository's name for it.
    fn push(&self, image: &str) -> Result<String, String> {
        let target = &self.descr.push_target;
        let (repository, tag) = target.rsplit_once(':').unwrap_or((target, ""));
        if repository.is_empty() || tag.is_empty() || tag.contains('/') {
            return Err(format!("{target:?} is not of the form REPOSITORY:TAG"));
        }
        let user = &self.descr.push_user;
        let by = if user.is_empty() { String::new() } else { format!(" as user {user:?}") };
        self.log.write(format!("Pushing {image:?} to {target:?}{by}\n").as_bytes());
        if !self.docker.allow_push.iter().any(|allowed| allowed == repository) {
            return Err(format!(
                "To allow pushing to this repository, start the worker with --allow-push {repository:?}"
            ));
        }
        let began = Instant::now();
        let _alone = acquire(self.cancel, || self.docker.pushing.try_lock()).ok_or("cancelled")?;
        let config = self.dir.display().to_string();
        let with = |args: &[&str]| {
            ["--config", &config].iter().chain(args).map(|&arg| arg.to_owned()).collect::<Vec<_>>()
        };
        if !user.is_empty() {
            let login = with(&["login", "--password-stdin", "--username", user]);
            self.run("docker-login", &login, self.descr.push_password.0.as_bytes())
                .map_err(|_| format!("Failed to docker-login as {user:?}"))?;
        }
        let text = |error: Failure| error.to_string();
        self.run("docker-tag", &with(&["tag", "--", image, target]), b"").map_err(text)?;
        self.run("docker-push", &with(&["push", "--", target]), b"").map_err(text)?;
        self.docker.metrics.pushed(began.elapsed());
        self.digest(repository)
    }

    /// What the pushed image is known by.
    fn digest(&self, repository: &str) -> Result<String, String> {
        let format = "{{ range index .RepoDigests }}{{ . }} {{ end }}";
        let mut command = Command::new(&self.docker.program);
        command.args(["image", "inspect", "-f", format, "--", &self.descr.push_target]);
        let inspect = Program { label: "docker-inspect", command, stdin: b"" };
        let found = inspect.read(MOST_DIGESTS, self.cancel).map_err(|error| error.to_string())?;
        let ids = String::from_utf8_lossy(&found).trim().to_owned();
        if ids.is_empty() {
            return Err("Failed to read RepoDigests for newly-pushed image!".into());
        }
        let prefix = format!("{repository}@");
        let id = ids.split(' ').find(|id| id.starts_with(&prefix)).map(str::to_owned);
        id.ok_or_else(|| {
            format!("Can't find target repository '{repository}@...' in list {ids:?}!")
        })
    }

    /// Makes a file that nobody else can read.
    fn file(&self, name: &str, contents: &[u8]) -> Result<PathBuf, String> {
        let path = self.dir.join(name);
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(contents)
        };
        write()
            .map_err(|error: io::Error| format!("failed to write `{}`: {error}", path.display()))?;
        Ok(path)
    }
}

/// The file `path` in `src`, if no part of it leads elsewhere.
fn inside(src: &Path, path: &str) -> Result<PathBuf, String> {
    let relative = Path::new(path);
    if path == "-" {
        return Err("Path cannot be '-'!".into());
    }
    if relative.is_absolute() {
        return Err(format!("{path} is an absolute path!"));
    }
    let (mut found, mut parts) = (src.to_owned(), relative.components().peekable());
    if parts.peek().is_none() {
        return Err("Empty path!".into());
    }
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else {
            return Err(format!("Relative segment in {path}"));
        };
        found.push(name);
        let kind = fs::symlink_metadata(&found).map(|metadata| metadata.file_type());
        match kind {
            Ok(kind) if kind.is_dir() && parts.peek().is_some() => {}
            Ok(kind) if kind.is_file() && parts.peek().is_none() => return Ok(found),
            Ok(_) => return Err(format!("{name:?} is not a directory (in {path})")),
            Err(_) => return Err(format!("{name:?} does not exist (in {path})")),
        }
    }
    Err(format!("{path} is a directory"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use std::time::Duration;

    use super::*;

    #[test]
    fn what_a_killed_worker_left_is_removed_and_arguments_have_values() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("docker");
        fs::create_dir_all(dir.join("build-worker-x")).unwrap();
        fs::write(dir.join("build-worker-x/secret-0"), "hunter2").unwrap();
        let docker = Docker::open("false", Vec::new(), Arc::default(), dir.clone()).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        let descr = DockerBuild {
            dockerfile: Dockerfile::Contents(b"FROM x".to_vec()),
            build_args: vec!["A=b".into(), "AWS_SECRET".into()],
            ..DockerBuild::default()
        };
        let log = JobLog::new(state.path(), 1000);
        let outcome = docker.build(&descr, state.path(), &[], &log, &Cancel::new());
        let why = "the build argument \"AWS_SECRET\" is not of the form NAME=VALUE";
        assert_eq!(outcome, Outcome::Failed(why.into()));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn a_question_that_docker_does_not_answer_is_called_off() {
        let state = tempfile::tempdir().unwrap();
        let (program, asked) = (state.path().join("docker"), state.path().join("asked"));
        let script = format!(
            "#!/bin/sh\n[ $1 != image ] || {{ : >'{}'; sleep 60; }}\n\
             while [ $# -gt 0 ]; do [ \"$1\" != --iidfile ] || echo id >\"$2\"; shift; done\n",
            asked.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let docker =
            Docker::open(program, vec!["o/r".into()], Arc::default(), state.path().join("d"));
        let docker = docker.unwrap();
        let descr = DockerBuild {
            dockerfile: Dockerfile::Contents(b"FROM x".to_vec()),
            push_target: "o/r:t".into(),
            ..DockerBuild::default()
        };
        let log = JobLog::new(state.path(), 1 << 20);
        let cancel = Cancel::new();
        let outcome = std::thread::scope(|scope| {
            let job = scope.spawn(|| docker.build(&descr, state.path(), &[], &log, &cancel));
            while !asked.exists() && !job.is_finished() {
                std::thread::sleep(Duration::from_millis(5));
            }
            cancel.cancel();
            job.join().unwrap()
        });
        assert!(asked.exists(), "it came to the question: {outcome:?}");
        assert_eq!(outcome, Outcome::Cancelled);
    }

    #[test]
    fn dockerfiles_lie_in_the_context() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/Dockerfile"), "").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let check = |path: &str| inside(dir.path(), path);
        assert_eq!(check("a/Dockerfile").unwrap(), dir.path().join("a/Dockerfile"));
        assert_eq!(check("./a/Dockerfile").unwrap_err(), "Relative segment in ./a/Dockerfile");
        for path in ["", "-", "/etc/passwd", "../x", "a/../../x", "etc/passwd", "link", "a", "none"]
        {
            assert!(check(path).is_err(), "{path}");
        }
    }
}
