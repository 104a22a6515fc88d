//! Headings, ids and Dockerfiles of recorded OBuilder builds, see `compat/README.md`.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use obuilder_core::bstr::{BString, ByteSlice};
use obuilder_core::dockerfile::{Escape, Options, dockerfile};
use obuilder_core::id::{CopyKey, ResultId, RunKey, base_id};
use obuilder_core::manifest::CopyItems;
use obuilder_core::spec::{
    self, Copy, CopySource, Op, Run, Spec, User, build_heading, from_heading, op_heading,
};
use obuilder_core::step::SecretMount;
use tree::Tree;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat");
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    cases.sort();
    assert!(cases.len() >= 12, "cases are missing: {cases:?}");
    cases
}

fn read_spec(case: &Path) -> Spec {
    let source = fs::read(case.join("spec.scm")).unwrap();
    Spec::parse(&source).unwrap_or_else(|error| panic!("{}: {error}", case.display()))
}

#[test]
fn dockerfiles_are_obuilders() {
    for case in cases() {
        for (file, buildkit) in
            [("expected.Dockerfile", false), ("expected.buildkit.Dockerfile", true)]
        {
            let options = Options { buildkit, escape: Escape::Unix };
            let mut printed = dockerfile(&read_spec(&case), options).unwrap();
            // The program ends its output with one more newline.
            printed.push(b'\n');
            let expected = BString::from(fs::read(case.join(file)).unwrap());
            assert_eq!(printed, expected, "{}/{file}", case.display());
        }
    }
}

#[test]
fn specs_survive_printing() {
    for case in cases() {
        let spec = read_spec(&case);
        let sexp = spec.to_sexp();
        for printed in [sexp.to_string(), sexp.to_machine()] {
            assert_eq!(Spec::parse(printed.as_bytes()).unwrap(), spec, "{printed}");
        }
    }
}

#[test]
fn headings_and_ids_are_obuilders() {
    let mut ids = 0;
    for case in cases() {
        let log = BString::from(fs::read(case.join("expected.log")).unwrap());
        let mut walk = Walk { case: &case, log: &log, at: 0, ids: 0 };
        let last = walk.spec(&read_spec(&case));
        walk.line(format!("Got: \"{last}\""));
        assert_eq!(walk.at, log.len(), "{}: the log goes on", case.display());
        ids += walk.ids;
    }
    assert_eq!(ids, 35, "ids that were compared");
}

/// Follows a spec through the log it gave.
struct Walk<'a> {
    case: &'a Path,
    log: &'a [u8],
    at: usize,
    ids: usize,
}

impl Walk<'_> {
    /// The next bytes of the log are this line.
    fn line(&mut self, line: String) {
        let rest = &self.log[self.at..];
        let expected = format!("{line}\n");
        let shown = rest[..expected.len().min(rest.len())].as_bstr();
        assert_eq!(shown, expected.as_bytes(), "{}", self.case.display());
        self.at += expected.len();
    }

    /// The id in the next note, behind what a command printed.
    fn noted_id(&mut self) -> ResultId {
        let rest = &self.log[self.at..];
        let note = ["---> saved as \"", "---> using \""]
            .iter()
            .filter_map(|note| rest.find(note).map(|at| at + note.len()))
            .min()
            .expect("a note follows");
        let id = rest[note..note + ResultId::LEN].to_str().unwrap();
        self.at += note + rest[note..].find_byte(b'\n').unwrap() + 1;
        ResultId::parse(id).unwrap()
    }

    fn spec(&mut self, spec: &Spec) -> ResultId {
        for (name, child) in &spec.builds {
            self.line(build_heading(name));
            self.spec(child);
            self.line(format!("--> finished \"{name}\""));
        }
        self.line(from_heading(&spec.from));
        let mut base = self.noted_id();
        assert_eq!(base, base_id(spec.from.as_bstr()));
        let mut context = Context::new();
        for op in &spec.ops {
            self.heading(&context.workdir, op);
            let id = match op {
                Op::Run(run) => Some(context.run_id(self.case, &base, run)),
                Op::Copy(copy) => Some(context.copy_id(self.case, &base, copy)),
                _ => None,
            };
            if let Some(id) = id {
                base = self.noted_id();
                assert_eq!(id, base, "{}: {}", self.case.display(), op.to_sexp());
                self.ids += 1;
            }
            context.update(op);
        }
        base
    }

    fn heading(&mut self, workdir: &[u8], op: &Op) {
        match op {
            Op::Run(run) if run.shell.contains(&b'\n') => {
                assert!(!op_heading(workdir, op).contains('\n'), "ours stays on one line");
            }
            _ => self.line(op_heading(workdir, op)),
        }
    }
}

/// What the operations so far have set.
struct Context {
    workdir: BString,
    shell: Vec<BString>,
    user: User,
    env: Vec<(BString, BString)>,
}

impl Context {
    fn new() -> Self {
        let env = vec![("PATH".into(), PATH.into())];
        Self { workdir: "/".into(), shell: Vec::new(), user: User::ROOT, env }
    }

    fn update(&mut self, op: &Op) {
        match op {
            Op::Workdir(dir) => {
                self.workdir = spec::resolve(self.workdir.as_bstr(), dir.as_bstr());
            }
            Op::Shell(args) => self.shell.clone_from(args),
            Op::User(user) => self.user = user.clone(),
            Op::Env(name, value) => {
                self.env.retain(|(old, _)| old != name);
                self.env.insert(0, (name.clone(), value.clone()));
            }
            Op::Comment(_) | Op::Run(_) | Op::Copy(_) => {}
        }
    }

    fn run_id(&self, case: &Path, base: &ResultId, run: &Run) -> ResultId {
        let secret = |secret: &spec::Secret| SecretMount {
            id: secret.id.clone(),
            target: secret.target.clone(),
            value: fs::read(case.join("secrets").join(secret.id.to_string())).unwrap().into(),
        };
        let secrets: Vec<_> = run.secrets.iter().map(secret).collect();
        let key = RunKey {
            base,
            workdir: self.workdir.as_bstr(),
            user: &self.user,
            env: &self.env,
            cmd: run.shell.as_bstr(),
            shell: &self.shell,
            network: &run.network,
            secrets: &secrets,
        };
        key.id()
    }
    fn copy_id(&self, case: &Path, base: &ResultId, copy: &Copy) -> ResultId {
        let tree = match &copy.from {
            CopySource::Context => Tree::of_tar(&case.join("context.tar")),
            // What the nested builds of the one case that has any leave behind.
            CopySource::Build(_) => {
                let prog = b"#!/bin/sh\necho hi\n".as_slice();
                let built = b"built\n".as_slice();
                Tree::of_files(&[("out/prog", prog), ("out/result", built), ("seen", built)])
            }
        };
        let items = copy.src.iter().map(|src| tree.manifest(src, &copy.exclude)).collect();
        let dst = spec::resolve(self.workdir.as_bstr(), copy.dst.as_bstr());
        let items = CopyItems::new(items, dst).unwrap();
        CopyKey { base, user: &self.user, items: &items }.id()
    }
}
