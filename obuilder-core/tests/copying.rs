//! The operation `copy`: what arrives, and what must never happen.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use obuilder_core::bstr::BStr;
use obuilder_core::contracts::Capabilities;
use obuilder_core::error::SandboxError;
use obuilder_core::interpreter::Kind;
use obuilder_core::spec::User;
use obuilder_core::step::{Outcome, Owner, Step};
use obuilder_core::testing::strict_sandbox::StrictSandbox;
use obuilder_core::{BuildLog, Cancel, Sandbox, Store};
use support::{World, chain};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn files_arrive_with_obuilders_modes_and_their_own_times() {
    let world = World::echo();
    world.write("dir/plain", "p");
    world.write("dir/tool", "t");
    world.write("dir/skip/x", "x");
    let context = world.context_dir();
    fs::set_permissions(context.join("dir/plain"), fs::Permissions::from_mode(0o4600)).unwrap();
    fs::set_permissions(context.join("dir/tool"), fs::Permissions::from_mode(0o610)).unwrap();
    fs::set_permissions(context.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("../nowhere", context.join("dir/link")).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000, 123_456_789);
    fs::File::open(context.join("dir/plain")).unwrap().set_modified(then).unwrap();
    fs::File::open(context.join("dir")).unwrap().set_modified(then).unwrap();

    let tree = world.tree("((from image) (workdir /w) (copy (src dir) (dst sub/) (exclude skip)) (copy (src dir/plain) (dst /at)))");
    let dir = tree.join("w/sub/dir");
    assert_eq!(
        (mode(&dir), mode(&dir.join("plain")), mode(&dir.join("tool"))),
        (0o755, 0o644, 0o755)
    );
    assert_eq!((mode(&tree.join("w")), mode(&tree.join("w/sub"))), (0o755, 0o755));
    assert_eq!(fs::read_link(dir.join("link")).unwrap(), Path::new("../nowhere"));
    assert!(!dir.join("skip").exists());
    for path in [dir.join("plain"), dir.clone(), tree.join("at")] {
        assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), then);
    }
}

#[test]
fn the_whole_context_goes_into_the_directory_itself() {
    let world = World::echo();
    world.write("a", "1");
    world.write("b/c", "2");
    let tree = world.tree("((from image) (copy (src .) (dst /src/)) (copy (src ./b//c) (dst /d)))");
    assert_eq!(fs::read_to_string(tree.join("src/b/c")).unwrap(), "2");
    assert_eq!(fs::read_to_string(tree.join("src/a")).unwrap(), "1");
    assert_eq!(fs::read_to_string(tree.join("d")).unwrap(), "2");
}

#[test]
fn copies_belong_to_whom_the_sandbox_says() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: only root can give files away");
        return;
    }
    let world = World::new(StrictSandbox::echo().with_owner(Owner { uid: 4711, gid: 4712 }));
    world.write("d/f", "1");
    symlink("x", world.context_dir().join("d/l")).unwrap();
    let tree = world.tree("((from image) (copy (src d) (dst /new/deep/)))");
    for path in ["new", "new/deep", "new/deep/d", "new/deep/d/f", "new/deep/d/l"] {
        let found = fs::symlink_metadata(tree.join(path)).unwrap();
        assert_eq!((found.uid(), found.gid()), (4711, 4712), "{path}");
    }
}

fn fails(world: &World, spec: &str) -> (String, Option<String>, Kind) {
    let error = world.build(spec).0.unwrap_err();
    world.store.assert_nothing_held();
    (chain(&error), error.hint(), error.kind())
}

#[test]
fn wrong_sources_are_named() {
    let world = World::echo();
    world.write("program.ml", "");
    world.write("dir/f", "");
    symlink("dir", world.context_dir().join("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, world.context_dir().join("pipe"), 0o600.into()).unwrap();
    let copy = |src: &str, dst: &str| {
        fails(&world, &format!("((from image) (copy (src {src}) (dst {dst})))"))
    };

    let (text, hint, kind) = copy("progam.ml", "/x");
    assert!(text.contains("there is no `progam.ml` in `"), "{text}");
    assert_eq!((hint.as_deref(), kind), (Some("did you mean `program.ml`?"), Kind::Spec));
    assert!(copy("../secret", "/x").0.ends_with("the source `../secret` contains `..`"));
    let (text, ..) = copy("link/f", "/x");
    assert!(
        text.ends_with("the source `link/f` leads through `link`, which is a symbolic link"),
        "{text}"
    );
    assert!(copy("pipe", "/x").0.ends_with("`pipe` is a FIFO"));
    assert!(copy("dir/f/g", "/x").0.contains("failed to enter"));
}

#[test]
fn a_source_too_deep_to_copy_is_an_error_and_no_crash() {
    let world = World::echo();
    let deep = "d/".repeat(150);
    world.write(&format!("{deep}f"), "");
    let (text, hint, _) = fails(&world, "((from image) (copy (src d) (dst /x)))");
    assert!(text.ends_with("lies more than 100 directories deep"), "{text}");
    assert_eq!(hint.as_deref(), Some("leave it out with `exclude`"));
}

/// A build whose first step plants something in the tree.
fn planting(plant: impl Fn(&Path) + Send + Sync + 'static) -> World {
    let world = World::new(StrictSandbox::new(move |call| {
        if call.command() == "plant" {
            plant(call.tree);
        }
        Ok(Outcome::Exited(0))
    }));
    world.write("f", "new");
    world.write("d/f", "new");
    world
}

#[test]
fn planted_links_lead_nowhere_but_the_tree() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_owned();
    fs::write(target.join("f"), "precious").unwrap();
    let world = planting(move |tree: &Path| {
        symlink(&target, tree.join("absolute")).unwrap();
        symlink("../../../../../../../..", tree.join("up")).unwrap();
        symlink(target.join("f"), tree.join("file")).unwrap();
        symlink("loop", tree.join("loop")).unwrap();
        fs::create_dir(tree.join("real")).unwrap();
        symlink("real", tree.join("inside")).unwrap();
    });
    let text = |copy: &str| format!("((from image) (run (shell plant)) (copy {copy}))");
    let tree = world.tree(&text("(src f) (dst /absolute/)"));
    let inside: PathBuf = outside.path().components().skip(1).collect();
    assert_eq!(
        fs::read_to_string(tree.join(inside).join("f")).unwrap(),
        "new",
        "as if the tree were the root"
    );
    assert!(world.tree(&text("(src f) (dst /up/f)")).join("f").exists());
    assert!(world.tree(&text("(src d) (dst /up/)")).join("d/f").exists());
    let tree = world.tree(&text("(src f) (dst /file)"));
    assert!(
        fs::symlink_metadata(tree.join("file")).unwrap().is_file(),
        "the link itself is replaced"
    );
    let tree = world.tree(&text("(src f) (dst /inside/)"));
    assert_eq!(fs::read_to_string(tree.join("real/f")).unwrap(), "new");
    let (text, ..) = fails(&world, &text("(src f) (dst /loop/)"));
    assert!(text.contains("failed to make the directory"), "{text}");
    assert_eq!(fs::read_to_string(outside.path().join("f")).unwrap(), "precious");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn what_is_in_the_way_is_named() {
    let world = planting(|tree: &Path| {
        fs::create_dir(tree.join("dir")).unwrap();
        fs::write(tree.join("file"), "").unwrap();
    });
    let text = |copy: &str| format!("((from image) (run (shell plant)) (copy {copy}))");
    let (message, _, kind) = fails(&world, &text("(src f) (dst /dir)"));
    assert!(message.ends_with("cannot copy to `dir`: there is a directory"), "{message}");
    assert_eq!(kind, Kind::Step);
    let (message, ..) = fails(&world, &text("(src f) (dst /file/)"));
    assert!(
        message.ends_with("cannot copy to `file`: `file` on the way is not a directory"),
        "{message}"
    );
}

/// Changes a source each time the copying itself is about to begin.
struct Meddling {
    inner: StrictSandbox,
    file: Mutex<Option<PathBuf>>,
    times: Mutex<u32>,
}

impl Sandbox for Meddling {
    fn owner(&self, user: &User) -> Result<Option<Owner>, SandboxError> {
        let mut times = self.times.lock().unwrap();
        // The first call is the check before the build.
        if let Some(file) = &*self.file.lock().unwrap() {
            *times += 1;
            if (2..5).contains(&*times) {
                fs::write(file, format!("version {times}")).unwrap();
            }
        }
        self.inner.owner(user)
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn check(&self, step: &Step) -> Result<(), SandboxError> {
        self.inner.check(step)
    }
    fn locate(&self, path: &BStr) -> Result<PathBuf, SandboxError> {
        self.inner.locate(path)
    }
    fn run(
        &self,
        s: &Step,
        t: &Path,
        l: &BuildLog,
        c: &Cancel,
        w: &dyn Fn(&str),
    ) -> Result<Outcome, SandboxError> {
        self.inner.run(s, t, l, c, w)
    }
    fn run_on_terminal(
        &self,
        step: &Step,
        tree: &Path,
        waiting: &dyn Fn(&str),
    ) -> Result<Outcome, SandboxError> {
        self.inner.run_on_terminal(step, tree, waiting)
    }
}

#[test]
fn an_id_always_describes_the_bytes_that_were_copied() {
    let meddling =
        Meddling { inner: StrictSandbox::echo(), file: Mutex::default(), times: Mutex::default() };
    let sandbox = std::sync::Arc::new(meddling);
    let mut world = World::echo();
    world.builder.sandbox = sandbox.clone();
    world.write("f", "version 1");
    *sandbox.file.lock().unwrap() = Some(world.context_dir().join("f"));
    let text = "((from image) (copy (src f) (dst /f)))";
    let (text_of_failure, hint, kind) = fails(&world, text);
    assert!(
        text_of_failure.ends_with("`f` changed while it was being copied"),
        "{text_of_failure}"
    );
    assert_eq!(
        (hint.as_deref(), kind),
        (Some("build again when nothing writes to the context"), Kind::Step)
    );
    let (result, _) = world.build(text);
    let tree = world.store.result(&result.unwrap()).unwrap().unwrap().rootfs();
    assert_eq!(fs::read_to_string(tree.join("f")).unwrap(), "version 4");

    // Changed once and then left alone: the copy is made again, under the id of what was copied.
    *sandbox.times.lock().unwrap() = 3;
    world.write("f", "version 5");
    *sandbox.times.lock().unwrap() = 0;
    sandbox.times.lock().unwrap().clone_from(&2);
    let (result, said) = world.build(text);
    let tree = world.store.result(&result.unwrap()).unwrap().unwrap().rootfs();
    assert_eq!(fs::read_to_string(tree.join("f")).unwrap(), "version 4");
    assert!(said.text().contains("warning: the sources changed"), "{}", said.text());
    drop(tree);
}
