//! The spec that makes an image: the list of what is in it.

use bstr::BString;
use obuilder_core::spec::{Cache, Copy, CopySource, Op, Run, Spec};

use crate::error::Result;
use crate::profile::path;
use crate::request::Request;
use crate::sources::{Source, Sources};

/// The names of the files in a [`crate::Context`], which the spec copies.
pub(crate) mod files {
    pub(crate) const HOMEBREW: &str = "homebrew";
    pub(crate) const REPOSITORY: &str = "repository";
    pub(crate) const PROFILE: &str = "profile.sh";
    /// What an archive's name ends with.
    pub(crate) const ARCHIVE: &str = ".tar";
    /// What the name of a repository's history ends with.
    pub(crate) const HISTORY: &str = ".git";
}

/// Where archives lie until they are unpacked.
const PARTS: &str = "/.obuild-base/";

/// The spec that makes the image of `request` out of `sources`.
///
/// What seldom changes comes first: a new patch release of OCaml rebuilds the switch and the small steps behind it, another
/// version of opam (but the default one) those alone. The last step checks the image, as a build user.
pub fn spec(request: &Request, sources: &Sources) -> Result<Spec> {
    request.check()?;
    let mut ops = vec![
        Op::Comment(format!("{}: a base image with OCaml {}", request.name, request.ocaml).into()),
        Op::Env("PATH".into(), path(&request.prefix()).into()),
        run(include_str!("steps/home.sh"), request),
        run(include_str!("steps/prefix.sh"), request),
    ];
    homebrew(request, sources, &mut ops);
    opam(request, sources, &mut ops)?;
    repository(request, &sources.repository, &mut ops);
    ops.push(online(run(include_str!("steps/switch.sh"), request), &OPAM_ARCHIVES));
    for version in request.opam.iter().filter(|version| **version != request.default_opam) {
        ops.push(from(&format!("opam {version}"), sources.opam(version)?));
        ops.push(copy(&version.program(), &format!("/local/bin/{}", version.program())));
    }
    ops.push(copy(files::PROFILE, "/.obuilder_profile.sh"));
    ops.push(run(include_str!("steps/finish.sh"), request));
    ops.push(run(include_str!("steps/check.sh"), request));
    Ok(Spec { builds: Vec::new(), from: "scratch".into(), ops })
}

/// A spec on the finished image of `request`, which goes by `name`, that checks it once more.
pub fn checks(request: &Request, name: &str) -> Spec {
    let ops = vec![run(include_str!("steps/check.sh"), request)];
    Spec { builds: Vec::new(), from: name.into(), ops }
}

/// The spec as a spec file has it: each operation, and each line of a script, on a line of its own.
pub fn to_text(spec: &Spec) -> String {
    let mut text = format!("((from {})", spec.from);
    for op in &spec.ops {
        text.push_str("\n ");
        push_lines(&op.to_sexp().to_string(), &mut text);
    }
    text.push_str(")\n");
    text
}

/// Adds `printed` to `text`, broken behind each `\n` of a quoted text: a backslash at the end of a line swallows the line's end and
/// the blanks at the beginning of the next one, so that a blank which belongs to the text is written by its number.
fn push_lines(printed: &str, text: &mut String) {
    let mut rest = printed.chars().peekable();
    while let Some(c) = rest.next() {
        text.push(c);
        if c != '\\' {
            continue;
        }
        let escaped = rest.next();
        text.extend(escaped);
        if escaped == Some('n') && rest.peek() != Some(&'"') {
            text.push_str("\\\n   ");
            if rest.next_if_eq(&' ').is_some() {
                text.push_str("\\032");
            }
        }
    }
}

fn homebrew(request: &Request, sources: &Sources, ops: &mut Vec<Op>) {
    let homebrew = &sources.homebrew;
    ops.push(from("Homebrew", &homebrew.source));
    ops.push(part(files::HOMEBREW, &homebrew.source));
    ops.push(run(include_str!("steps/homebrew.sh"), request));
    let export = |(name, value): (&String, &String)| format!("export {name}={}\n", quoted(value));
    let environment: String = homebrew.environment.iter().map(export).collect();
    let script = include_str!("steps/formulae.sh")
        .replace("@ENVIRONMENT@\n", &environment)
        .replace("@FORMULAE@", &homebrew.formulae.join(" "));
    ops.push(online(run(&script, request), &HOMEBREW));
}

fn opam(request: &Request, sources: &Sources, ops: &mut Vec<Op>) -> Result<()> {
    let (version, program) = (&request.default_opam, request.default_opam.program());
    ops.push(from(&format!("opam {version}"), sources.opam(version)?));
    ops.push(copy(&program, &format!("/local/bin/{program}")));
    ops.push(run(&include_str!("steps/opam.sh").replace("@PROGRAM@", &program), request));
    Ok(())
}

fn repository(request: &Request, source: &Source, ops: &mut Vec<Op>) {
    let mut kind = "local";
    ops.push(from("opam's repository", source));
    match source {
        Source::Git { commit, .. } => {
            kind = "git";
            let name = format!("{}{}", files::REPOSITORY, files::HISTORY);
            ops.push(copy(&name, "/opam-repository/.git"));
            let script = include_str!("steps/repository_git.sh").replace("@COMMIT@", commit);
            ops.push(run(&script, request));
        }
        Source::Url { .. } if source.directory().is_some() => {
            ops.push(copy(files::REPOSITORY, "/opam-repository"));
        }
        Source::Url { .. } => {
            ops.push(part(files::REPOSITORY, source));
            ops.push(run(include_str!("steps/repository_archive.sh"), request));
        }
    }
    ops.push(run(&include_str!("steps/init.sh").replace("@KIND@", kind), request));
}

/// A step that runs `script`, with what it asks for filled in.
fn run(script: &str, request: &Request) -> Op {
    let programs: Vec<_> = request.opam.iter().map(|version| version.program()).collect();
    let script = script
        .replace("@NAME@", &request.name)
        .replace("@PREFIX@", &request.prefix())
        .replace("@OCAML@", &request.ocaml.to_string())
        .replace("@PACKAGE@", &request.ocaml.package())
        .replace("@REPORTED@", &request.ocaml.reported())
        .replace("@REST@", if request.ocaml.reports_exactly() { "" } else { "*" })
        .replace("@PROGRAMS@", &programs.join(" "))
        .replace("@DEFAULT@", &request.default_opam.program());
    Op::Run(Run { shell: script.trim_end().into(), ..Run::default() })
}

/// The cache of downloads, and its place in the home, as builds of a fleet have them.
const OPAM_ARCHIVES: (&str, &str) = ("opam-archives", ".opam/download-cache");
const HOMEBREW: (&str, &str) = ("homebrew", "Library/Caches/Homebrew");

/// The same step, with the network and a cache for what it downloads.
fn online(step: Op, (id, target): &(&str, &str)) -> Op {
    let Op::Run(run) = step else { return step };
    let buildkit_options = Vec::new();
    let cache = vec![Cache { id: (*id).into(), target: (*target).into(), buildkit_options }];
    Op::Run(Run { cache, network: vec!["host".into()], ..run })
}

fn copy(src: &str, dst: &str) -> Op {
    let (src, exclude) = (vec![BString::from(src)], Vec::new());
    Op::Copy(Copy { from: CopySource::Context, src, dst: dst.into(), exclude })
}

/// Copies an archive or a directory to where it is unpacked.
fn part(name: &str, source: &Source) -> Op {
    let suffix = if source.directory().is_some() { "" } else { files::ARCHIVE };
    copy(&format!("{name}{suffix}"), &format!("{PARTS}{name}{suffix}"))
}

/// Says where the next file comes from; for people, and no part of any id.
fn from(what: &str, source: &Source) -> Op {
    let digest = match source {
        Source::Url { sha256: Some(digest), .. } => format!(" (sha256 {digest})"),
        Source::Url { .. } => String::new(),
        Source::Git { commit, .. } => format!(" (commit {commit})"),
    };
    Op::Comment(format!("{what} is from {}{digest}", source.url()).into())
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::request;
    use crate::sources::tests::{example, read};

    fn made(ocaml: &str) -> Spec {
        let sources = read(&example()).unwrap();
        spec(&request(ocaml), &sources).unwrap()
    }

    /// Every script of `spec`.
    fn scripts(spec: &Spec) -> Vec<String> {
        let script = |op: &Op| match op {
            Op::Run(run) => Some(run.shell.to_string()),
            _ => None,
        };
        spec.ops.iter().filter_map(script).collect()
    }

    #[test]
    fn the_printed_spec_is_the_spec() {
        let spec = made("5.4.1");
        let text = to_text(&spec);
        assert_eq!(Spec::parse(text.as_bytes()).unwrap(), spec, "{text}");
        assert!(text.lines().count() > 80 && text.lines().all(|line| line.len() < 200), "{text}");
    }

    #[test]
    fn every_script_is_valid_shell_with_nothing_left_open() {
        for ocaml in ["4.02.3", "5.1.0~beta1", "5.2.0+trunk", "5.4.1"] {
            for script in scripts(&made(ocaml)) {
                assert!(!script.contains('@'), "{script}");
                for shell in ["sh", "bash"] {
                    let args = ["-n", "-c", &script];
                    let output = std::process::Command::new(shell).args(args).output().unwrap();
                    assert!(output.status.success() && output.stderr.is_empty(), "{script}");
                }
            }
        }
    }

    #[test]
    fn a_patch_release_changes_nothing_before_the_switch() {
        let (old, new) = (made("5.4.1"), made("5.4.2"));
        let plain = |spec: &Spec| {
            let shown = spec.ops.iter().filter(|op| !matches!(op, Op::Comment(_)));
            shown.cloned().collect::<Vec<_>>()
        };
        let (old, new) = (plain(&old), plain(&new));
        let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
        let Op::Run(run) = &new[same] else { panic!("{:?}", new[same]) };
        assert!(run.shell.to_string().contains("opam switch create 5.4.2"), "{run:?}");
    }

    #[test]
    fn words_of_a_shell_are_quoted() {
        assert_eq!(quoted("a'b $c"), r"'a'\''b $c'");
    }
}
