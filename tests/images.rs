//! Base images from elsewhere than directories, end to end.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::World;
use common::registry::{self, Registry};

/// Makes an OCI layout of one layer with the file `which`, by hand.
fn layout(path: &Path, which: &str) -> String {
    let _ = fs::remove_dir_all(path);
    fs::create_dir_all(path.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8]| {
        let digest = fetch_oci::Digest::of(bytes);
        fs::write(path.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        serde_json::json!({"digest": digest.as_str(), "size": bytes.len()})
    };
    let layer = tar_of("which", which);
    let diff_id = fetch_oci::Digest::of(&layer);
    let host = fetch_oci::Platform::host();
    let config = serde_json::json!({
        "os": host.os, "architecture": host.architecture,
        "config": {"Env": [format!("FROM_IMAGE={which}")], "WorkingDir": "/elsewhere"},
        "rootfs": {"type": "layers", "diff_ids": [diff_id.as_str()]},
    });
    let (config, layer) = (blob(config.to_string().as_bytes()), blob(&layer));
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [blob(manifest.to_string().as_bytes())]});
    fs::write(path.join("index.json"), index.to_string()).unwrap();
    fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    format!("oci:{}", path.display())
}

/// A tar archive with one file.
fn tar_of(name: &str, text: &str) -> Vec<u8> {
    let mut tar = vec![0; 512];
    tar[..name.len()].copy_from_slice(name.as_bytes());
    tar[100..107].copy_from_slice(b"0000644");
    tar[124..135].copy_from_slice(format!("{:011o}", text.len()).as_bytes());
    tar[148..156].fill(b' ');
    tar[156] = b'0';
    let sum: u32 = tar.iter().map(|byte| u32::from(*byte)).sum();
    tar[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    tar[154] = 0;
    tar.extend_from_slice(text.as_bytes());
    tar.resize(2048, 0);
    tar
}

const RUN: &str = "(run (shell \"cp which copy && echo $FROM_IMAGE > env && pwd > where\"))";

#[test]
fn a_build_stands_on_a_layout_and_sees_when_it_changes() {
    let world = World::new();
    let name = layout(&world.path("layout"), "first");
    let spec = format!("((from {name}) {RUN})");
    let id = world.build_ok(&spec);
    assert_eq!(fs::read_to_string(world.result_file(&id, "copy")).unwrap(), "first");
    assert_eq!(fs::read_to_string(world.result_file(&id, "env")).unwrap(), "first\n");
    let place = fs::read_to_string(world.result_file(&id, "where")).unwrap();
    assert!(!place.contains("elsewhere"), "the working directory is the spec's: {place}");
    world.build(&spec).success().prints("from cache");
    let plan = world.run(["plan", "spec.scm"]).success();
    plan.prints(&format!("(the OCI layout `{}`)", world.path("layout").display()));
    let base = world.run(["plan", "--json", "spec.scm"]).success();
    let rows: serde_json::Value = serde_json::from_str(&base.stdout).unwrap();
    assert_eq!(rows[0]["origin"], format!("the OCI layout `{}`", world.path("layout").display()));
    let inspected = world.run(["inspect", rows[0]["id"].as_str().unwrap()]).success();
    inspected.prints("the OCI layout").prints("digest      sha256:");
    layout(&world.path("layout"), "second");
    let id = world.build(&spec).success().says("has changed").got();
    assert_eq!(fs::read_to_string(world.result_file(&id, "copy")).unwrap(), "second");
    world.assert_clean();
}

#[test]
fn names_are_looked_up_in_order() {
    let world = World::new();
    let origin = |name: &str| {
        let spec = world.spec(&format!("((from {name}))"));
        let plan = world.run(["plan", "--json", spec.to_str().unwrap()]);
        let rows: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap_or_default();
        rows[0]["origin"].as_str().unwrap_or_default().to_owned()
    };
    world.write("images/busybox/file", "");
    let layout = layout(&world.path("layout"), "x");
    assert_eq!(origin("scratch"), "the empty tree");
    let dir = fs::canonicalize(world.path("images/busybox")).unwrap();
    assert_eq!(origin("busybox"), format!("the directory `{}`", dir.display()));
    assert_eq!(origin(&layout), format!("the OCI layout `{}`", world.path("layout").display()));
    // Registries are not asked in tests unless they say so.
    for name in ["alpine:3", "quay.io/x/y", "docker-archive:/no/such"] {
        world.build(&format!("((from {name}))")).code(2).says("there is no base image");
    }
    world.build("((from alpine))").says("registries are not to be asked").says("busybox");
    let spec = world.spec("((from busibox))");
    let args = ["build", "--pull", "missing", "--retries", "0", spec.to_str().unwrap()];
    let mut asked = world.command(args);
    // Nobody is there, so that no registry is asked.
    asked.env("HTTPS_PROXY", "http://127.0.0.1:1");
    let asked = common::Running::start(asked).finish().code(3);
    asked
        .says("which no directory of images has (did you mean `busybox`?)")
        .says("cannot be reached");
    world.build("((from Not+Valid))").code(2).says("there is no base image `Not+Valid`");
}

#[test]
fn an_image_that_is_too_large_is_refused() {
    let world = World::new();
    let name = layout(&world.path("layout"), &"x".repeat(500));
    let spec = world.spec(&format!("((from {name}))"));
    let args = ["build", "--max-image-size", "100", spec.to_str().unwrap()];
    world.run(args).code(3).says("the unpacked image is larger than the limit of 100 bytes");
    world.assert_clean();
}

/// A `docker` that knows one image, and complains of everything that the real one would not take.
fn docker(world: &World) -> PathBuf {
    let bin = world.path("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(world.path("export.tar"), tar_of("which", "docker's")).unwrap();
    let script = format!(
        r#"#!/bin/sh
state={0}
echo "$*" >> $state/docker.log
case "$*" in
"image inspect --format {{{{.Id}}}} -- known/image:1"|"image inspect --format {{{{json .Config.Env}}}} -- known/image:1")
    [ -e $state/pulled ] || {{ echo "Error: No such image: known/image:1" >&2; exit 1; }}
    case "$4" in *Env*) echo '["FROM_IMAGE=docker"]';; *) echo sha256:1234;; esac;;
"image inspect --format {{{{.Os}}}}/{{{{.Architecture}}}}/{{{{.Variant}}}} -- known/image:1")
    [ -e $state/pulled ] || {{ echo "Error: No such image: known/image:1" >&2; exit 1; }}
    cat $state/pulled;;
"pull --quiet -- known/image:1") echo linux/amd64/ > $state/pulled; echo known/image:1;;
"pull --platform=linux/s390x --quiet -- known/image:1") echo linux/s390x/ > $state/pulled; echo known/image:1;;
"pull --quiet -- "*) echo "Error response from daemon: manifest for $4 not found" >&2; exit 1;;
"create -- known/image:1 true"|"create --platform=linux/s390x -- known/image:1 true") [ -e $state/pulled ] || exit 1; touch $state/container; echo c0ffee;;
"export -- c0ffee") [ -e $state/container ] || exit 1; cat $state/export.tar
    [ ! -e $state/broken ] || {{ echo "export broke off" >&2; exit 1; }};;
"rm -- c0ffee") rm $state/container;;
*) echo "unknown: $*" >&2; exit 125;;
esac
"#,
        world.path("").display()
    );
    let program = bin.join("docker");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

#[test]
fn an_installed_docker_brings_images_as_for_obuilder() {
    let world = World::new();
    let bin = docker(&world);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let build = |name: &str, pull: &str| {
        let spec = world.spec(&format!("((from {name}) {RUN})"));
        let args = ["build", "--fetcher", "docker", "--pull", pull, spec.to_str().unwrap()];
        let mut command = world.command(args);
        command.env("PATH", &path);
        common::Running::start(command).finish()
    };
    build("known/image:1", "never").code(2).says("registries are not to be asked");
    let id = build("known/image:1", "missing").success().got();
    assert_eq!(fs::read_to_string(world.result_file(&id, "copy")).unwrap(), "docker's");
    assert_eq!(fs::read_to_string(world.result_file(&id, "env")).unwrap(), "docker\n");
    assert!(!world.path("container").exists(), "the container is removed");
    build("known/image:1", "never").success().prints("from cache");
    let pulls = || {
        let log = fs::read_to_string(world.path("docker.log")).unwrap();
        log.lines().filter(|line| line.starts_with("pull --platform=linux/s390x")).count()
    };
    let other = || {
        let spec = world.spec(&format!("((from known/image:1) {RUN})"));
        let mut command = world.command(["build", "--fetcher", "docker", spec.to_str().unwrap()]);
        command.args(["--pull", "missing", "--platform", "linux/s390x"]).env("PATH", &path);
        common::Running::start(command).finish()
    };
    other().success().says("has changed: it and");
    other().success().prints("from cache");
    assert_eq!(pulls(), 1, "docker had it for another platform");
    build("unknown/image", "missing").code(3).says("manifest for unknown/image not found");
    fs::write(world.path("broken"), "").unwrap();
    world.run(["clean"]).success();
    build("known/image:1", "missing").code(3).says("export broke off");
    assert!(!world.path("container").exists(), "the container is removed after a failure, too");
    world.assert_clean();
}

#[test]
fn an_image_is_pulled_from_a_registry_and_built_on() {
    let world = World::new();
    let Some(registry) = Registry::start() else { return };
    let layout = layout(&world.path("layout"), "pulled");
    let target = format!("docker://{}/tests/image:1", registry.host);
    let args = ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", &layout, &target];
    if !registry::tool("skopeo", &args) {
        return;
    }
    let name = format!("{}/tests/image:1", registry.host);
    let spec = world.spec(&format!("((from {name}) {RUN})"));
    let build =
        |pull: &str| world.run(["build", "--retries", "0", "--pull", pull, spec.to_str().unwrap()]);
    build("never").code(2);
    let first = build("missing").success().prints(&format!("Pulling {name}: image")).got();
    assert_eq!(fs::read_to_string(world.result_file(&first, "copy")).unwrap(), "pulled");
    let plan = world.run(["plan", spec.to_str().unwrap()]).success();
    plan.prints("cached").prints(&format!("(the registry image {name})"));
    // The same tag, another image.
    let layout = self::layout(&world.path("layout"), "changed");
    let args = ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", &layout, &target];
    assert!(registry::tool("skopeo", &args));
    assert_eq!(build("missing").success().got(), first);
    let second = build("always").success().says("has changed").got();
    assert_eq!(fs::read_to_string(world.result_file(&second, "copy")).unwrap(), "changed");
    drop(registry);
    build("always").code(3).says("cannot be reached");
    build("missing").success().prints("from cache");
    // Without its results, but with its layers, the image is still here; without both it is not.
    world.run(["delete", "--recursive", &base_of(&world, &second)]).success();
    build("missing").success();
    world.run(["clean"]).success().says("deleted layers of images");
    build("missing").code(3).says("cannot be reached");
    world.assert_clean();
}

/// A `docker-credential-obuildtest` that knows one registry, and a configuration of Docker's that names it; gives `PATH` and the
/// configuration's directory.
fn helper(world: &World, host: &str) -> (String, PathBuf) {
    let (bin, config) = (world.path("helpers"), world.path("docker-config"));
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&config).unwrap();
    let answer = r#"{"ServerURL":"x","Username":"ann","Secret":"secret"}"#;
    let script = format!(
        "#!/bin/sh\ncase \"$1 $(cat)\" in\n\"get {host}\") echo '{answer}';;\n\
         *) echo 'credentials not found in native keychain'; exit 1;;\nesac\n"
    );
    let program = bin.join("docker-credential-obuildtest");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(config.join("config.json"), r#"{"credsStore": "obuildtest"}"#).unwrap();
    (format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()), config)
}

#[test]
fn a_helper_gives_the_password_for_pulling_and_pushing() {
    let Some(registry) = Registry::for_ann() else { return };
    let world = World::new();
    let id = world.build_ok("((from scratch) (run (shell \"echo hello > which\")))");
    let name = format!("{}/private/app:1", registry.host);
    let (path, config) = helper(&world, &registry.host);
    let run = |args: &[&str], known: bool| {
        let mut command = world.command(args);
        command.env("PATH", &path);
        if known {
            command.env("DOCKER_CONFIG", &config);
        }
        common::Running::start(command).finish()
    };
    let export = ["export", id.as_str(), "--to", name.as_str()];
    run(&export, false).code(3).says("does not let us");
    run(&export, true).success();
    let spec = world.spec(&format!("((from {name}) (run (shell \"cp which copy\")))"));
    let build = ["build", "--pull", "always", spec.to_str().unwrap()];
    run(&build, false).code(3).says("does not let us");
    let built = run(&build, true).success().got();
    assert_eq!(fs::read_to_string(world.result_file(&built, "copy")).unwrap(), "hello\n");
}

#[test]
fn a_registry_that_is_not_loopback_needs_a_certificate_that_is_trusted() {
    let Some(registry) = Registry::with_tls() else { return };
    let world = World::new();
    let id = world.build_ok("((from scratch) (run (shell \"echo hello > which\")))");
    let (name, trusted) = (format!("{}/app:1", registry.host), registry.authority());
    let export = ["export", &id, "--to", &name, "--retries", "0"];
    world.run(export).code(3).says("certificate");
    world.run([&export[..], &["--ca-file", &trusted]].concat()).success();
    let spec = world.spec(&format!("((from {name}) (run (shell \"cp which copy\")))"));
    let build = ["build", "--pull", "missing", "--retries", "0", spec.to_str().unwrap()];
    world.run(build).code(3).says("certificate");
    let built = world.run([&build[..], &["--ca-file", &trusted]].concat()).success().got();
    assert_eq!(fs::read_to_string(world.result_file(&built, "copy")).unwrap(), "hello\n");
    // In the clear, which it does not speak, only when that is asked for.
    let plain = [
        "import",
        "--pull",
        "always",
        "--retries",
        "0",
        "--plain-http",
        &registry.host,
        &name,
        "x",
    ];
    world.run(plain).code(3).says("400");
}

/// What a result stands on.
fn base_of(world: &World, id: &str) -> String {
    let facts = world.run(["inspect", "--json", id]).success();
    let facts: serde_json::Value = serde_json::from_str(&facts.stdout).unwrap();
    facts["ancestors"].as_array().unwrap().last().unwrap().as_str().unwrap().to_owned()
}
