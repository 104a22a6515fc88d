//! Dockerfiles beyond the recorded ones, as OBuilder wrote them when the table was made.

use obuilder_core::dockerfile::{DockerfileError, Escape, Options, dockerfile};
use obuilder_core::spec::Spec;

const UNIX: Options = Options { buildkit: true, escape: Escape::Unix };
const WINDOWS: Options = Options { buildkit: true, escape: Escape::Windows };

/// The Dockerfile of a build of `ops` on the base `x`, without its first line.
#[track_caller]
fn check(ops: &str, options: Options, expected: &str) {
    let spec = Spec::parse(format!("((from x) {ops})").as_bytes());
    let spec = spec.unwrap_or_else(|error| panic!("{error}"));
    let printed = dockerfile(&spec, options).expect("a Dockerfile can say it").to_string();
    let head = if options.escape == Escape::Windows { "#escape=`\nFROM x\n" } else { "FROM x\n" };
    assert_eq!(printed.strip_prefix(head), Some(expected), "{printed}");
}

#[test]
fn values_are_quoted_with_the_escape_character() {
    check(r#"(env A "a \"b\" \\c `d`")"#, UNIX, "ENV A=\"a \\\"b\\\" \\\\c `d`\"\n");
    check(r#"(env A "a \"b\" \\c `d`")"#, WINDOWS, "ENV A=\"a `\"b`\" \\c ``d``\"\n");
    check("(shell cmd /S \"a \\\"b\")", UNIX, "SHELL [ \"cmd\", \"/S\", \"a \"b\" ]\n");
    check("(shell)", UNIX, "SHELL [  ]\n");
}

#[test]
fn commands_are_wrapped_where_they_have_lines() {
    check(
        "(run (shell \"  a \\t\\n\\n  b\\r\\nc\"))",
        UNIX,
        "RUN a \\\n     \\\n    b \\\n    c\n",
    );
    check("(run (shell \"a\\nb\"))", WINDOWS, "RUN a `\n    b\n");
    check("(comment \"a\\nb\")", UNIX, "# a\nb\n");
}

#[test]
fn mounts_are_buildkits_and_secrets_come_first() {
    let run = "(run (cache (c (target /c) (buildkit_options ((mode 1) (sharing locked))))) \
               (secrets (s (target /s)) (t (target \"/t u\"))) (network host) (shell x))";
    check(
        &format!("(user (uid 7) (gid 8)) {run}"),
        UNIX,
        concat!(
            "USER 7:8\n",
            "RUN --mount=type=secret,id=s,target=/s,uid=7 --mount=type=secret,id=t,target=/t u,uid=7 ",
            "--mount=type=cache,id=c,target=/c,uid=7,mode=1,sharing=locked x\n",
        ),
    );
    check(run, Options { buildkit: false, ..UNIX }, "RUN x\n");
    let spec = format!("((from x) (user (name me)) {run})");
    let spec = Spec::parse(spec.as_bytes()).expect("it reads");
    let refused = DockerfileError::NamedUser { user: "me".into(), cmd: "x".into() };
    assert_eq!(dockerfile(&spec, UNIX), Err(refused));
    assert!(dockerfile(&spec, Options { buildkit: false, ..UNIX }).is_ok());
}

#[test]
fn copies_belong_to_the_user() {
    let copy = "(copy (src a \"b c\") (dst d/) (exclude e))";
    check(copy, UNIX, "COPY a b c d/\n");
    for (user, options, expected) in [
        ("(uid 1) (gid 2)", UNIX, "USER 1:2\nCOPY --chown=1:2 a b c d/\n"),
        ("(uid 0) (gid 2)", UNIX, "USER 0:2\nCOPY --chown=0:2 a b c d/\n"),
        ("(name me)", UNIX, "USER me\nCOPY --chown=me a b c d/\n"),
        ("(name me)", WINDOWS, "USER me\nCOPY a b c d/\n"),
        ("(name ContainerAdministrator)", UNIX, "USER ContainerAdministrator\nCOPY a b c d/\n"),
        ("(uid 0) (gid 0)", WINDOWS, "USER 0:0\nCOPY a b c d/\n"),
    ] {
        check(&format!("(user {user}) {copy}"), options, expected);
    }
}

#[test]
fn nested_builds_are_stages_and_start_as_root() {
    let spec = Spec::parse(
        b"((build b ((build c ((from x) (user (uid 1) (gid 1)))) (from y) (copy (from (build c)) (src a) (dst b))))
           (from z))",
    );
    let printed = dockerfile(&spec.expect("it reads"), WINDOWS).expect("a Dockerfile can say it");
    let expected = "#escape=`\nFROM x as c\nUSER 1:1\n\nFROM y as b\nCOPY --from=c a b\n\nFROM z\n";
    assert_eq!(printed, expected);
}
