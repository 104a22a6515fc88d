//! What is executed for a step: arguments, environment and working directory.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bstr::{BStr, BString, ByteSlice};
use obuilder_core::error::SandboxError;
use obuilder_core::step::{Owner, Step};

use crate::config::Config;
use crate::launch::{Launch, Session};
use crate::platform::confine::Confinement;
use crate::slot::Slot;

/// Where commands are looked for unless the step says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Sourced before each command, when the home has it.
const PROFILE: &str = ".obuilder_profile.sh";
/// Sources the profile, which is `$0`, and becomes the command.
const WITH_PROFILE: &str = r#". "$0"; exec "$@""#;

/// Who runs a command, and how it is kept apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Actor<'a> {
    pub(crate) name: &'a str,
    /// `None` for the calling user.
    pub(crate) owner: Option<Owner>,
    pub(crate) isolate_network: bool,
    pub(crate) session: Session,
}

impl Launch {
    /// Makes `step` ready to be started in the home, where its tree is by now.
    pub(crate) fn new(
        config: &Config,
        slot: &Slot,
        step: &Step,
        actor: Actor<'_>,
        confinement: Confinement,
    ) -> Result<Self, SandboxError> {
        let env = environment(config, step, actor.name);
        let argv = confinement.wrap(with_profile(slot, step));
        let program = argv.first().ok_or_else(|| SandboxError::Unsupported {
            what: "there is no command to run".to_owned(),
            hint: "give the step a shell and a command".to_owned(),
        })?;
        let path = env
            .iter()
            .find(|(name, _)| name == "PATH")
            .map_or(PATH.into(), |(_, path)| path.as_bstr());
        let programs = candidates(program.as_bstr(), path);
        let envp = env.iter().map(|(name, value)| [name.as_slice(), b"=", value].concat());
        Ok(Self {
            programs: programs.into_iter().map(string).collect::<Result<_, _>>()?,
            argv: argv.into_iter().map(|arg| string(arg.into())).collect::<Result<_, _>>()?,
            envp: envp.map(string).collect::<Result<_, _>>()?,
            workdirs: workdirs(config, step)?,
            owner: actor.owner,
            isolate_network: actor.isolate_network,
            confinement,
            session: actor.session,
        })
    }
}

/// The clean environment, with the step's own over it. Of two entries of one name the first counts.
fn environment(config: &Config, step: &Step, user: &str) -> Vec<(BString, BString)> {
    let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    let path = |path: &Path| BString::from(path.as_os_str().as_bytes());
    let mut defaults: Vec<(&str, BString)> = vec![
        ("HOME", path(&config.home)),
        ("USER", user.into()),
        ("LOGNAME", user.into()),
        ("SHELL", shell.into()),
        ("TMPDIR", path(&config.beside(".tmp"))),
        ("PATH", PATH.into()),
    ];
    if !step.secrets.is_empty() {
        defaults.push(("OBUILDER_SECRETS_DIR", path(&config.beside(".secrets"))));
    }
    let mut env: Vec<(BString, BString)> = Vec::new();
    let defaults = defaults.into_iter().map(|(name, value)| (name.into(), value));
    for (name, value) in step.env.iter().cloned().chain(defaults) {
        if !env.iter().any(|(other, _)| *other == name) {
            env.push((name, value));
        }
    }
    env
}

fn with_profile(slot: &Slot, step: &Step) -> Vec<BString> {
    if slot.place.join(PROFILE).symlink_metadata().is_err() {
        return step.argv.clone();
    }
    let profile = slot.home.join(PROFILE);
    // Profiles are written for bash; where there is none, the system's shell has to do.
    let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    let wrapper =
        [shell.into(), "-c".into(), WITH_PROFILE.into(), profile.as_os_str().as_bytes().into()];
    wrapper.into_iter().chain(step.argv.iter().cloned()).collect()
}

/// The files that a program's name may mean.
fn candidates(program: &BStr, path: &BStr) -> Vec<Vec<u8>> {
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let dirs = path.split_str(":").map(|dir| if dir.is_empty() { b"." } else { dir });
    dirs.map(|dir| [dir, b"/", program].concat()).collect()
}

/// The working directory and its parents from the home on, outermost first.
fn workdirs(config: &Config, step: &Step) -> Result<Vec<CString>, SandboxError> {
    let mut dir = config.home.clone();
    let mut dirs = vec![string(dir.as_os_str().as_bytes().to_vec())?];
    for part in config.locate(step.workdir.as_bstr())?.components() {
        dir.push(part);
        dirs.push(string(dir.as_os_str().as_bytes().to_vec())?);
    }
    Ok(dirs)
}

fn string(bytes: Vec<u8>) -> Result<CString, SandboxError> {
    CString::new(bytes).map_err(|_| SandboxError::Unsupported {
        what: "the command, its environment or its directory has a null byte in it".to_owned(),
        hint: "take the null byte out".to_owned(),
    })
}
