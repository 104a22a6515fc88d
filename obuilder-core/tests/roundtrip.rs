//! Whatever is printed is read back as it was.

use obuilder_core::bstr::{BString, ByteSlice};
use obuilder_core::dockerfile::{Options, dockerfile};
use obuilder_core::sexp::Sexp;
use obuilder_core::spec::{Cache, Copy, CopySource, Op, Run, Secret, Spec, User, op_heading};
use proptest::collection::vec;
use proptest::prelude::*;

/// Any bytes, with those that matter to the reader and the printers far more often than by chance.
fn text() -> impl Strategy<Value = BString> {
    let awkward =
        proptest::sample::select(b" \t\r\n\x08\x0c\"'\\;()#|#|az09/.\0\x7f\xc3\xa9".as_slice());
    prop_oneof![
        "[a-z/._-]{0,40}".prop_map(BString::from),
        vec(awkward, 0..12).prop_map(BString::from),
        vec(any::<u8>(), 0..12).prop_map(BString::from),
    ]
}

fn texts(most: usize) -> impl Strategy<Value = Vec<BString>> {
    vec(text(), 0..=most)
}

fn sexp() -> impl Strategy<Value = Sexp> {
    text()
        .prop_map(Sexp::Atom)
        .prop_recursive(6, 60, 6, |item| vec(item, 0..6).prop_map(Sexp::List))
}

fn mount() -> impl Strategy<Value = (BString, BString, Vec<(BString, BString)>)> {
    (text(), text(), vec((text(), text()), 0..3))
}

fn run() -> impl Strategy<Value = Op> {
    let mounts = || vec(mount(), 0..3);
    (mounts(), texts(2), mounts(), text()).prop_map(|(caches, network, secrets, shell)| {
        let cache = |(id, target, buildkit_options)| Cache { id, target, buildkit_options };
        let secret = |(id, target, buildkit_options)| Secret { id, target, buildkit_options };
        let (cache, secrets) =
            (caches.into_iter().map(cache).collect(), secrets.into_iter().map(secret).collect());
        Op::Run(Run { cache, network, secrets, shell })
    })
}

/// A copy from the context or from one of `builds`.
fn copy(builds: Vec<BString>) -> impl Strategy<Value = Op> {
    let from = proptest::option::of(any::<prop::sample::Index>());
    (from, vec(text(), 1..4), text(), texts(2)).prop_map(move |(from, src, mut dst, exclude)| {
        let from = match from {
            Some(index) if !builds.is_empty() => CopySource::Build(index.get(&builds).clone()),
            _ => CopySource::Context,
        };
        if src.len() > 1 {
            dst.push(b'/');
        }
        Op::Copy(Copy { from, src, dst, exclude })
    })
}

fn op(builds: Vec<BString>) -> impl Strategy<Value = Op> {
    let ids = (any::<u32>(), any::<u32>()).prop_map(|(uid, gid)| User::Ids { uid, gid });
    prop_oneof![
        text().prop_map(Op::Comment),
        text().prop_map(Op::Workdir),
        texts(4).prop_map(Op::Shell),
        run(),
        copy(builds),
        ids.prop_map(Op::User),
        text().prop_map(User::Name).prop_map(Op::User),
        (text(), text()).prop_map(|(name, value)| Op::Env(name, value)),
    ]
}

/// A spec with builds nested `depth` deep, which may copy from those in `scope` too.
fn spec(depth: usize, scope: Vec<BString>) -> BoxedStrategy<Spec> {
    let most = if depth == 0 { 0 } else { 2 };
    texts(most)
        .prop_flat_map(move |mut names| {
            names.sort();
            names.dedup();
            let mut scope = scope.clone();
            let mut children = Vec::new();
            for name in &names {
                children.push(spec(depth - 1, scope.clone()));
                scope.push(name.clone());
            }
            (Just(names), children, text(), vec(op(scope), 0..6))
        })
        .prop_map(|(names, children, from, ops)| Spec {
            builds: names.into_iter().zip(children).collect(),
            from,
            ops,
        })
        .boxed()
}

proptest! {
    #[test]
    fn expressions_are_read_as_printed(sexp in sexp()) {
        for printed in [sexp.to_machine(), sexp.to_string()] {
            prop_assert_eq!(&Sexp::parse(printed.as_bytes()).unwrap(), &sexp);
            prop_assert!(printed.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
        }
    }

    #[test]
    fn specs_are_read_as_printed(spec in spec(2, Vec::new())) {
        let sexp = spec.to_sexp();
        for printed in [sexp.to_machine(), sexp.to_string()] {
            let read = Spec::parse(printed.as_bytes()).unwrap();
            prop_assert_eq!(&read, &spec);
            prop_assert_eq!(read.to_sexp(), sexp.clone());
        }
        // Never a panic; refused only for a mount of a user without number.
        let _ = dockerfile(&spec, Options { buildkit: true, ..Options::default() });
    }

    #[test]
    fn headings_are_the_operation_with_other_blanks(workdir in "/[a-z]{0,90}", op in op(Vec::new())) {
        let heading = op_heading(workdir.as_bytes(), &op);
        let text = heading.strip_prefix(&format!("{workdir}: ")).unwrap();
        prop_assert_eq!(Sexp::parse(text.as_bytes()).unwrap(), op.to_sexp());
    }

    #[test]
    fn any_text_is_read_or_refused_in_its_place(source in text()) {
        if let Err(error) = Spec::parse(&source) {
            let lines = source.lines_with_terminator().count().max(1) + 1;
            prop_assert!(error.position.line <= lines);
            prop_assert_eq!(error.excerpt(&source).lines().count(), 3);
        }
    }
}
