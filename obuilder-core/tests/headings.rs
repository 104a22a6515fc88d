//! Headings, line breaks and all, as OBuilder printed them when the table was written.

use obuilder_core::spec::{Op, Spec, build_heading, from_heading, op_heading};

/// The heading of the operation `op` in `workdir`.
#[track_caller]
fn check(workdir: &str, op: &str, expected: &str) {
    let spec = Spec::parse(format!("((build b ((from x))) (from x) {op})").as_bytes());
    let spec = spec.unwrap_or_else(|error| panic!("{error}"));
    let ops: &[Op] = &spec.ops;
    assert_eq!(op_heading(workdir.as_bytes(), &ops[0]), expected);
}

#[test]
fn short_operations_stand_on_one_line() {
    check("/", "(comment \"a (b)\")", "/: (comment \"a (b)\")");
    check("/a b", "(workdir c)", "/a b: (workdir c)");
    check("/", "(shell)", "/: (shell)");
    check("/", "(user (gid 2)(uid 1))", "/: (user (uid 1) (gid 2))");
    check("/", "(user (name \"my name\"))", "/: (user (name \"my name\"))");
    check("/", "(env A \"\")", "/: (env A \"\")");
    check("/", "(run (network) (shell x))", "/: (run (shell x))");
    check("/", "(copy (exclude) (from context) (dst b) (src a))", "/: (copy (src a) (dst b))");
    let long = "x".repeat(200);
    check("/", &format!("(env {long} y)"), &format!("/: (env {long} y)"));
}

#[test]
fn run_has_a_line_for_each_field() {
    check(
        "/w",
        "(run (shell \"a b\") (secrets (s (target /s))) (network host) \
         (cache (c (target /c) (buildkit_options ((sharing locked) (mode 1))))))",
        concat!(
            "/w: (run (cache (c (target /c) (buildkit_options ((sharing locked) (mode 1)))))\n",
            "         (network host)\n",
            "         (secrets (s (target /s)))\n",
            "         (shell \"a b\"))",
        ),
    );
}

#[test]
fn copy_breaks_when_the_line_would_be_full() {
    // `/: (copy ` takes 9 of the 78 columns, and ` (dst d)` 8.
    let src = |length| "s".repeat(length);
    let fits = src(77 - 9 - 8 - "(src )".len());
    check("/", &format!("(copy (src {fits}) (dst d))"), &format!("/: (copy (src {fits}) (dst d))"));
    let full = src(fits.len() + 1);
    check(
        "/",
        &format!("(copy (src {full}) (dst d))"),
        &format!("/: (copy (src {full})\n         (dst d))"),
    );
    check(
        "/",
        &format!("(copy (from (build b)) (src {full}) (dst d) (exclude x y))"),
        &format!(
            "/: (copy (from (build b))\n         (src {full})\n         (dst d)\n         (exclude x y))"
        ),
    );
}

#[test]
fn long_workdirs_push_what_follows_to_the_next_line() {
    let dir = |length| "w".repeat(length);
    check(&dir(66), "(env A b)", &format!("{}: (env A b)", dir(66)));
    check(&dir(67), "(env A b)", &format!("{}: \n  (env A b)", dir(67)));
    let run = "(run (network n) (shell s))";
    check(&dir(61), run, &format!("{}: (run (network n)\n{}(shell s))", dir(61), " ".repeat(68)));
    check(&dir(62), run, &format!("{}: (run \n  (network n)\n  (shell s))", dir(62)));
    // Whether `copy` fits is decided before it moves.
    check(
        &dir(65),
        "(copy (src s) (dst d))",
        &format!("{}: (copy \n  (src s)\n  (dst d))", dir(65)),
    );
}

#[test]
fn newlines_stay_in_their_line() {
    check("/", "(run (shell \"a\nb\"))", "/: (run (shell \"a\\nb\"))");
}

#[test]
fn bases_and_builds() {
    assert_eq!(from_heading(b"busybox"), "(from busybox)");
    assert_eq!(from_heading(b"a b"), "(from \"a b\")");
    assert_eq!(build_heading(b"dev"), "(build \"dev\" …)");
    assert_eq!(build_heading("é\"".as_bytes()), "(build \"\\195\\169\\\"\" …)");
}
