//! Specs as Dockerfiles.
//!
//! The result aims to do what the spec does, as far as a Dockerfile can say it: `exclude` and `network` are left
//! out, and so are caches and secrets unless BuildKit may be used. Text is not checked for what Docker makes of it.

use bstr::{BString, ByteSlice, ByteVec};

use crate::spec::{Copy, CopySource, Op, Run, Spec, User};

/// How a Dockerfile is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Whether BuildKit's extensions may be used, which know caches and secrets.
    pub buildkit: bool,
    /// What it is for.
    pub escape: Escape,
}

/// The escape character, and with it the system that the image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Escape {
    /// A backslash.
    #[default]
    Unix,
    /// A backtick, because a backslash separates directories.
    Windows,
}

/// Why a spec cannot be said in a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerfileError {
    /// BuildKit gives mounts to users by number only.
    #[error("a cache or secret needs a user by number, but `{user}` runs `{cmd}`")]
    NamedUser {
        /// The user.
        user: BString,
        /// The command that wants the mount.
        cmd: BString,
    },
}

/// The Dockerfile of `spec`: one stage for each nested build, then the build itself.
pub fn dockerfile(spec: &Spec, options: Options) -> Result<BString, DockerfileError> {
    let mut out = BString::default();
    if options.escape == Escape::Windows {
        out.push_str("#escape=`\n");
    }
    stage(spec, None, options, &mut out)?;
    Ok(out)
}

fn stage(
    spec: &Spec,
    name: Option<&BString>,
    options: Options,
    out: &mut BString,
) -> Result<(), DockerfileError> {
    for (name, child) in &spec.builds {
        stage(child, Some(name), options, out)?;
        out.push_str("\n");
    }
    put(out, &[b"FROM ", &spec.from]);
    if let Some(name) = name {
        put(out, &[b" as ", name]);
    }
    out.push_str("\n");
    let mut user = match options.escape {
        Escape::Unix => User::ROOT,
        Escape::Windows => windows_root(),
    };
    for op in &spec.ops {
        instruction(op, &user, options, out)?;
        out.push_str("\n");
        if let Op::User(next) = op {
            user = next.clone();
        }
    }
    Ok(())
}

fn instruction(
    op: &Op,
    user: &User,
    options: Options,
    out: &mut BString,
) -> Result<(), DockerfileError> {
    match op {
        Op::Comment(text) => put(out, &[b"# ", text]),
        Op::Workdir(dir) => put(out, &[b"WORKDIR ", dir]),
        Op::Shell(args) => {
            let args: Vec<_> =
                args.iter().map(|arg| [b"\"", arg.as_slice(), b"\""].concat()).collect();
            put(out, &[b"SHELL [ ", &args.join(&b", "[..]), b" ]"]);
        }
        Op::Run(run) => return run_instruction(run, user, options, out),
        Op::Copy(copy) => copy_instruction(copy, user, options.escape, out),
        Op::User(User::Ids { uid, gid }) => {
            put(out, &[b"USER ", format!("{uid}:{gid}").as_bytes()]);
        }
        Op::User(User::Name(name)) => put(out, &[b"USER ", name]),
        Op::Env(name, value) => {
            put(out, &[b"ENV ", name, b"=\"", &quote(value, options.escape), b"\""]);
        }
    }
    Ok(())
}

fn run_instruction(
    run: &Run,
    user: &User,
    options: Options,
    out: &mut BString,
) -> Result<(), DockerfileError> {
    out.push_str("RUN ");
    if options.buildkit {
        mounts(run, user, out)?;
    }
    for (at, line) in run.shell.split(|byte| *byte == b'\n').enumerate() {
        if at > 0 {
            put(out, &[b" ", &[escape_byte(options.escape)], b"\n    "]);
        }
        out.push_str(trim(line));
    }
    Ok(())
}

fn mounts(run: &Run, user: &User, out: &mut BString) -> Result<(), DockerfileError> {
    let secrets = run.secrets.iter().map(|s| ("secret", &s.id, &s.target, &s.buildkit_options));
    let caches = run.cache.iter().map(|c| ("cache", &c.id, &c.target, &c.buildkit_options));
    for (kind, id, target, more) in secrets.chain(caches) {
        let uid = match user {
            User::Ids { uid, .. } => uid.to_string(),
            User::Name(user) => {
                let (user, cmd) = (user.clone(), run.shell.clone());
                return Err(DockerfileError::NamedUser { user, cmd });
            }
        };
        put(out, &[b"--mount=type=", kind.as_bytes(), b",id=", id, b",target=", target]);
        put(out, &[b",uid=", uid.as_bytes()]);
        for (name, value) in more {
            put(out, &[b",", name, b"=", value]);
        }
        out.push_str(" ");
    }
    Ok(())
}

fn copy_instruction(copy: &Copy, user: &User, escape: Escape, out: &mut BString) {
    out.push_str("COPY ");
    match user {
        root if *root == User::ROOT || *root == windows_root() => {}
        User::Ids { uid, gid } => put(out, &[format!("--chown={uid}:{gid} ").as_bytes()]),
        User::Name(name) if escape == Escape::Unix => put(out, &[b"--chown=", name, b" "]),
        User::Name(_) => {}
    }
    if let CopySource::Build(name) = &copy.from {
        put(out, &[b"--from=", name, b" "]);
    }
    for src in &copy.src {
        put(out, &[src, b" "]);
    }
    out.push_str(&copy.dst);
}

fn windows_root() -> User {
    User::Name(BString::from("ContainerAdministrator"))
}

fn escape_byte(escape: Escape) -> u8 {
    match escape {
        Escape::Unix => b'\\',
        Escape::Windows => b'`',
    }
}

fn quote(text: &[u8], escape: Escape) -> Vec<u8> {
    let escape = escape_byte(escape);
    let mut quoted = Vec::with_capacity(text.len());
    for byte in text {
        if *byte == b'"' || *byte == escape {
            quoted.push(escape);
        }
        quoted.push(*byte);
    }
    quoted
}

fn trim(line: &[u8]) -> &[u8] {
    line.trim_with(|character| matches!(character, ' ' | '\t' | '\r' | '\n' | '\x0c'))
}

fn put(out: &mut BString, parts: &[&[u8]]) {
    for part in parts {
        out.push_str(part);
    }
}
