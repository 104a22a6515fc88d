//! What a wrong spec is told.

use obuilder_core::spec::{CopySource, Op, Spec, User};

/// The error of `source`, with its hint behind it.
#[track_caller]
fn refuse(source: &str, expected: &str) {
    let error = Spec::parse(source.as_bytes()).expect_err("it is wrong");
    let hint = error.hint.iter().map(|hint| format!(" [{hint}]")).collect::<String>();
    assert_eq!(format!("{error}{hint}"), expected);
}

/// The error of the operation `op`, without its place.
#[track_caller]
fn refuse_op(op: &str, expected: &str) {
    let error = Spec::parse(format!("((from x)\n{op})").as_bytes()).expect_err("it is wrong");
    let hint = error.hint.iter().map(|hint| format!(" [{hint}]")).collect::<String>();
    assert_eq!(format!("{}{hint}", error.message), expected);
}

#[test]
fn a_spec_has_one_base() {
    refuse("", "1:1: found the end of the text where an S-expression should stand");
    refuse("busybox", "1:1: expected a spec, found `busybox`");
    refuse("()", "1:1: this spec lacks its `(from BASE)`");
    refuse("((build a ((from x))))", "1:1: this spec lacks its `(from BASE)`");
    refuse("((from))", "1:2: expected `(from BASE)`, found `(from)`");
    refuse(
        "((from a b))",
        "1:2: expected `(from BASE)`, found `(from a b)` [put text that holds blanks between `\"`]",
    );
    refuse("((from a)\n (from b))", "2:2: found a second `(from …)`");
    refuse(
        "(\n (form x))",
        "2:2: expected `(build NAME SPEC)` or `(from BASE)`, found `(form x)`; \
         operations come after `(from BASE)` [did you mean `from`?]",
    );
    refuse(
        "((run (shell x)) (from a))",
        "1:2: expected `(build NAME SPEC)` or `(from BASE)`, found `(run (shell x))`; \
         operations come after `(from BASE)`",
    );
}

#[test]
fn builds_come_first_and_have_names_of_their_own() {
    refuse(
        "((from x) (build a ((from x))))",
        "1:11: found `(build …)` behind `(from …)`: builds come first",
    );
    refuse("((build a) (from x))", "1:2: expected `(build NAME SPEC)`, found `(build a)`");
    refuse(
        "((build (a) ((from x))) (from x))",
        "1:9: expected the name of a build, found the list `(a)`",
    );
    refuse(
        "((build a ((from x)))\n (build a ((from y)))\n (from z))",
        "2:9: a second build is called `a`",
    );
    refuse(
        "((build a ((form x))) (from x))",
        "1:12: expected `(build NAME SPEC)` or `(from BASE)`, found `(form x)`; \
         operations come after `(from BASE)` [did you mean `from`?]",
    );
}

#[test]
fn copy_names_an_earlier_build() {
    let copy = |name: &str| format!("(copy (from (build {name})) (src a) (dst b))");
    refuse(
        &format!("((from x) {})", copy("dev")),
        "1:30: no build is called `dev`; there is none before this",
    );
    refuse(
        &format!("((build dev ((from x))) (build été ((from x))) (from x)\n{})", copy("deb")),
        "2:20: no build is called `deb`; those before this are `dev` and `été` [did you mean `dev`?]",
    );
    // Not its own, not a later one, and not one that is nested in another.
    refuse(
        &format!("((build a ((from x) {})) (build b ((from x))) (from x))", copy("a")),
        "1:40: no build is called `a`; there is none before this",
    );
    refuse(
        &format!("((build a ((build b ((from x))) (from x))) (from x) {})", copy("b")),
        "1:72: no build is called `b`; those before this are `a` [did you mean `a`?]",
    );
    // But one that is finished before the build around this is.
    let source =
        format!("((build a ((from x))) (build b ((from x) {})) (from x) {})", copy("a"), copy("b"));
    let spec = Spec::parse(source.as_bytes()).expect("both are in scope");
    let Op::Copy(inner) = &spec.builds[1].1.ops[0] else { panic!("a copy") };
    assert_eq!(inner.from, CopySource::Build("a".into()));
}

#[test]
fn operations_are_known() {
    refuse(
        "((from x)\n (runn (shell y)))",
        "2:3: unknown operation `runn`; allowed are `comment`, `workdir`, `shell`, `run`, `copy`, `user` and `env` \
         [did you mean `run`?]",
    );
    refuse_op(
        "(Env A b)",
        "unknown operation `Env`; allowed are `comment`, `workdir`, `shell`, `run`, `copy`, `user` and `env` [did you mean `env`?]",
    );
    let list = "allowed are `comment`, `workdir`, `shell`, `run`, `copy`, `user` and `env`";
    refuse_op("run", &format!("expected an operation, found `run`; {list}"));
    refuse_op("()", &format!("expected an operation, found `()`; {list}"));
    refuse_op("((a))", &format!("expected an operation, found `((a))`; {list}"));
    refuse_op(
        "(comment a b)",
        "expected `(comment TEXT)`, found `(comment a b)` [put text that holds blanks between `\"`]",
    );
    refuse_op("(workdir)", "expected `(workdir DIR)`, found `(workdir)`");
    refuse_op("(shell (a))", "expected an argument of the shell, found the list `(a)`");
    refuse_op("(env A)", "expected `(env NAME VALUE)`, found `(env A)`");
    refuse_op("(env A (b))", "expected a value, found the list `(b)`");
}

#[test]
fn fields_are_known_and_stand_once() {
    let run = "`cache`, `network`, `secrets` and `shell`";
    refuse_op("(run)", "`run` lacks its `(shell …)`");
    refuse_op(
        "(run \"make all\")",
        &format!("expected a field of `run`, found `\"make all\"`; allowed are {run}"),
    );
    refuse_op(
        "(run (secret a) (shell x))",
        &format!("unknown field of `run` `secret`; allowed are {run} [did you mean `secrets`?]"),
    );
    refuse_op("(run (shell a) (shell b))", "`run` has `shell` twice");
    refuse_op(
        "(run (shell make all))",
        "expected `(shell COMMAND)`, found `(shell make all)` [put text that holds blanks between `\"`]",
    );
    refuse_op(
        "(run (network (host)) (shell x))",
        "expected the name of a network, found the list `(host)`",
    );
    refuse_op("(run (cache a) (shell x))", "expected `(ID (target PATH))`, found `a`");
    refuse_op("(run (cache (a)) (shell x))", "`cache` lacks its `(target …)`");
    refuse_op(
        "(run (secrets (a (targte /x))) (shell x))",
        "unknown field of `secrets` `targte`; allowed are `target` and `buildkit_options` [did you mean `target`?]",
    );
    refuse_op(
        "(run (cache (a (target /x) (buildkit_options (mode 1)))) (shell x))",
        "expected `((NAME VALUE)…)`, found `mode`",
    );
    refuse_op(
        "(run (cache (a (target /x) (buildkit_options (mode 1) (b 2)))) (shell x))",
        "expected `(buildkit_options ((NAME VALUE)…))`, found 2 values",
    );
}

#[test]
fn copies_and_users_are_whole() {
    refuse_op("(copy (dst b))", "`copy` lacks its `(src …)`");
    refuse_op("(copy (src a))", "`copy` lacks its `(dst …)`");
    refuse_op("(copy (src) (dst b))", "`src` names nothing to copy");
    refuse_op(
        "(copy (src a b) (dst c))",
        "several things are copied, so `dst` must be a directory [end `dst` with `/`]",
    );
    refuse_op(
        "(copy (src a) (dest b))",
        "unknown field of `copy` `dest`; allowed are `from`, `src`, `dst` and `exclude` [did you mean `dst`?]",
    );
    refuse_op(
        "(copy (from dev) (src a) (dst b))",
        "expected `context` or `(build NAME)`, found `dev`",
    );
    refuse_op("(user (uid 1))", "`user` lacks its `(gid …)`");
    refuse_op("(user (uid -1) (gid 1))", "expected a number from 0 to 4294967295, found `-1`");
    refuse_op("(user (uid me) (gid 1))", "expected a number from 0 to 4294967295, found `me`");
    refuse_op("(user (uid 1) (name me))", "`user` has a name and numbers; give one or the other");
    refuse_op(
        "(user root)",
        "expected a field of `user`, found `root`; allowed are `uid`, `gid` and `name`",
    );
}

#[test]
fn numbers_are_ocamls() {
    for (uid, expected) in [("0x3e8", 1000), ("0o17", 15), ("0b11", 3), ("1_000", 1000), ("007", 7)]
    {
        let spec = Spec::parse(format!("((from x) (user (uid {uid}) (gid 0)))").as_bytes());
        let user = User::Ids { uid: expected, gid: 0 };
        assert_eq!(spec.expect("it reads").ops, [Op::User(user)], "{uid}");
    }
}

#[test]
fn long_items_are_shown_by_their_beginning() {
    refuse_op(
        &format!("(env {})", "x".repeat(100)),
        &format!("expected `(env NAME VALUE)`, found `(env {}…`", "x".repeat(35)),
    );
}

#[test]
fn the_excerpt_points_at_the_place() {
    let source = "((from x)\n\t(comment é) (runn (shell y)))\n".as_bytes();
    let error = Spec::parse(source).expect_err("`runn` is wrong");
    let expected = "  |\n2 |  (comment é) (runn (shell y)))\n  |               ^\n";
    assert_eq!(error.excerpt(source), expected);

    let source = format!("((from {}) (runn) (comment {}))", "x".repeat(300), "y".repeat(300));
    let error = Spec::parse(source.as_bytes()).expect_err("`runn` is wrong");
    let shown = error.excerpt(source.as_bytes());
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() < 120), "{shown}");
    let caret = lines[2].find('^').expect("there is a caret");
    let pointed: String = lines[1].chars().skip(caret).take(4).collect();
    assert_eq!(pointed, "runn");

    let source = b"((from x)\n";
    let error = Spec::parse(source).expect_err("it is not closed");
    assert_eq!(error.excerpt(source), "  |\n1 | ((from x)\n  | ^\n");
    let error = Spec::parse(b"; nothing\n").expect_err("it is empty");
    assert_eq!(error.excerpt(b"; nothing\n"), "  |\n2 | \n  | ^\n");
}
