//! Results become images, and the images are the results.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::World;
use common::registry::{Registry, tool};
use fetch_oci::{Exporter, Plan, Step};
use obuilder_core::Cancel;

/// A spec whose steps add, change, remove and replace.
const SPEC: &str = r#"((from scratch)
 (env GREETING "hello, world")
 (workdir /src)
 (run (shell "mkdir a b; echo one > a/one; echo two > a/two; ln a/one hard; ln -s a/one soft; mkfifo fifo; printf x > 'odd name'"))
 (run (shell "rm a/two; echo more >> a/one; rm -r b; echo file > b; chmod 700 a"))
 (run (shell "true"))
 (run (shell "ln a/one again; rm soft; mkdir soft; echo in > soft/in; mkdir -p $(printf 'd/%.0s' $(seq 60)); cd d/d/d && echo $GREETING > deep")))"#;

/// Everything of a tree as one archive: names, kinds, owners (but that of the root itself, which is whoever unpacks an image),
/// modes, times to the nanosecond, hard links, contents.
fn everything(tree: &Path) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flat.tar");
    let steps = vec![Step { tree: tree.to_owned(), heading: String::new() }];
    let cancel = Cancel::new();
    let (env, workdir) = (Vec::new(), String::new());
    let (user, owner) = (None, None);
    let plan = Plan { steps, squash: false, env, workdir, user, owner, cancel: &cancel };
    Exporter { plan }.to_tar(&path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    let root = bytes.chunks_mut(512).find(|block| block.starts_with(b"./\0")).unwrap();
    root[108..124].fill(0);
    root[148..156].fill(0);
    bytes
}

fn rootfs(world: &World, id: &str) -> PathBuf {
    world.store().join("result").join(id).join("rootfs")
}

/// Imports `source` as the image `name`; gives its tree.
fn import(world: &World, source: &str, name: &str) -> PathBuf {
    world.run(["import", "--replace", source, name]).success();
    world.path("images").join(name)
}

/// The digest that an export said.
fn exported(world: &World, id: &str, to: &str, more: &[&str]) -> String {
    let args = ["export", id, "--to", to];
    let finished = world.run(args.iter().chain(more)).success();
    finished.stdout.trim().rsplit(", ").next().unwrap().to_owned()
}

#[test]
fn what_is_exported_comes_back_unchanged() {
    let world = World::new();
    let id = world.build_ok(SPEC);
    let before = everything(&rootfs(&world, &id));
    let layout = format!("oci:{}:v1", world.path("layout").display());
    let archive = format!("docker-archive:{}:tests/app:v1", world.path("saved.tar").display());
    let squashed = format!("oci:{}:v1", world.path("squashed").display());
    let digest = exported(&world, &id, &layout, &[]);
    assert!(digest.starts_with("sha256:"));
    exported(&world, &id, &archive, &[]);
    exported(&world, &id, &squashed, &["--squash"]);
    for source in [&layout, &archive, &squashed] {
        let tree = import(&world, source, "back");
        assert!(everything(&tree) == before, "{source}");
        let env = fs::read_to_string(world.path("images/back.env")).unwrap();
        assert_eq!(env, "GREETING=hello, world\n", "{source}");
    }
    let again = format!("oci:{}:v1", world.path("again").display());
    assert_eq!(exported(&world, &id, &again, &[]), digest, "the same result is the same image");
    let tree = import(&world, &again, "back");
    assert!(everything(&tree) == before);
    let layers = |path: &str| {
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(world.path(path).join("index.json")).unwrap())
                .unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap().replace("sha256:", "");
        let manifest = fs::read(world.path(path).join("blobs/sha256").join(digest)).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        manifest["layers"].as_array().unwrap().len()
    };
    assert_eq!(
        (layers("layout"), layers("squashed")),
        (4, 1),
        "one for each step that changed something"
    );
}

#[test]
fn other_tools_see_the_same() {
    let world = World::new();
    let id = world.build_ok(SPEC);
    let before = everything(&rootfs(&world, &id));
    let layout = format!("oci:{}:v1", world.path("layout").display());
    exported(&world, &id, &layout, &[]);
    let copied = format!("oci:{}:v1", world.path("copied").display());
    let archive = format!("docker-archive:{}:tests/app:v1", world.path("copied.tar").display());
    for target in [&copied, &archive] {
        if !tool("skopeo", &["--insecure-policy", "copy", "-q", &layout, target]) {
            return;
        }
        assert!(everything(&import(&world, target, "back")) == before, "{target}");
    }
    let ours = format!("docker-archive:{}:tests/app:v1", world.path("ours.tar").display());
    exported(&world, &id, &ours, &[]);
    let copied = format!("oci:{}:v2", world.path("copied").display());
    assert!(tool("skopeo", &["--insecure-policy", "copy", "-q", &ours, &copied]));
    assert!(everything(&import(&world, &copied, "back")) == before);
    if !common::root_or_skip("unpacking with owners by umoci") {
        return;
    }
    let (image, bundle) = (world.path("layout"), world.path("bundle"));
    let image = format!("{}:v1", image.display());
    assert!(tool("umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]));
    assert!(everything(&bundle.join("rootfs")) == before, "umoci unpacks the same");
}

#[test]
fn a_result_goes_by_a_registry_to_another_machine() {
    let Some(registry) = Registry::start() else { return };
    let (here, there) = (World::new(), World::new());
    let id = here.build_ok(SPEC);
    let before = everything(&rootfs(&here, &id));
    let name = format!("{}/tests/app:v1", registry.host);
    let digest = exported(&here, &id, &name, &["--owner", "0:0"]);
    assert_eq!(exported(&here, &id, &name, &["--owner", "0:0"]), digest, "pushed again");
    if common::root_or_skip("owners of an exported image") {
        assert!(everything(&rootfs(&here, &id)) == before, "the result is as it was");
    }
    let spec = format!(
        "((from {name}) (run (shell \"cat src/d/d/d/deep > copy; echo $GREETING >> copy\")))"
    );
    let spec = there.spec(&spec);
    let build = || there.run(["build", "--pull", "missing", spec.to_str().unwrap()]);
    let built = build().success().got();
    let copy = fs::read_to_string(there.result_file(&built, "copy")).unwrap();
    assert_eq!(copy, "hello, world\nhello, world\n");
    let again = build().success();
    assert_eq!(again.stdout.matches("from cache").count(), 2, "{}", again.stdout);
    let pinned = format!("{}/tests/app@{digest}", registry.host);
    there.run(["import", "--pull", "missing", &pinned, "pinned"]).success();
    assert!(there.path("images/pinned/src/a/one").exists());
    if tool("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{name}")]) {
        let layout = format!("oci:{}:v1", there.path("pulled").display());
        let source = format!("docker://{name}");
        let args = ["--insecure-policy", "copy", "-q", "--src-tls-verify=false", &source, &layout];
        assert!(tool("skopeo", &args));
        let (one, two) = (import(&there, &layout, "one"), there.path("images/pinned"));
        assert!(everything(&one) == everything(&two));
    }
}

#[test]
fn a_tree_goes_and_comes_as_an_archive_or_a_directory() {
    let world = World::new();
    let id = world.build_ok(SPEC);
    let before = everything(&rootfs(&world, &id));
    for to in ["tar:out.tar", "tar:out.tar.gz"] {
        world.run(["export", &id, "--to", to]).success();
        assert!(everything(&import(&world, to, "back")) == before, "{to}");
    }
    let dir = world.path("images/exported");
    let to = format!("dir:{}", dir.display());
    world.run(["export", &id, "--to", &to]).success();
    assert!(everything(&dir) == before);
    world.run(["export", &id, "--to", &to]).code(3).says("exists");
    assert!(everything(&import(&world, &to, "back")) == before);
    let again = world.build_ok(
        "((from exported) (run (shell \"cat src/b; test \\\"$GREETING\\\" = 'hello, world'\")))",
    );
    assert!(world.result_file(&again, "src/a/one").exists());
}

#[test]
fn mistakes_are_explained() {
    let world = World::new();
    let id = world.build_ok("((from scratch) (run (shell \"touch .wh.bad\")))");
    let export = |to: &str| world.run(["export", &id, "--to", to]);
    export("layout").code(2).says("does not say where the image goes");
    export("oci:").code(2).says("the path is missing");
    export("tar:").code(2).says("lacks the path");
    export("tar:/no/such/directory/x.tar").code(3).says("/no/such/directory");
    export("oci:layout").code(2).says("hide others");
    let digest = format!("localhost:1/x@sha256:{}", "0".repeat(64));
    export(&digest).code(2).says("pushed by a tag");
    world.run(["export", "feedface", "--to", "tar:x"]).code(2).says("there is no result");
    world.run(["export", &id, "--to", "tar:x", "--owner", "root"]).code(2).says("UID:GID");
    world.write("images/there/file", "");
    let import = |source: &str, name: &str| world.run(["import", source, name]);
    import("oci:layout", "a/b").code(2).says("cannot be the name");
    import("oci:layout", ".hidden").code(2).says("cannot be the name");
    import("dir:nowhere", "there").code(2).says("--replace");
    import("dir:nowhere", "new").code(2).says("there is no directory");
    import("tar:nowhere", "new").code(3).says("nowhere");
    let bad = world.write("context/bad.tar", vec![7; 4096]);
    import(&format!("tar:{}", bad.display()), "new").code(3).says("damaged");
    assert_eq!(common::names(&world.path("images")), [".base-image", "there"]);
    let workshop = common::names(&world.path("images/.base-image"));
    assert_eq!(workshop, ["new.lock"], "nothing half-made stays");
    assert!(!world.path("context/layout/index.json").exists());
}
