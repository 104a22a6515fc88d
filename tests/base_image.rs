//! Base images: made from mirrors on disk by Debian's opam, built on, replaced, and refused.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::pool::Pool;
use common::{Finished, Running, World, names, root_or_skip, skip};

/// What the images are made of.
struct Mirror {
    world: World,
    /// The version of the system's compiler.
    ocaml: String,
}

impl Mirror {
    /// In `world`; `None` where this machine has no opam or compiler, or nobody may run build users.
    fn new(world: World) -> Option<Self> {
        for program in ["/usr/bin/opam", "/usr/bin/ocamlc", "/usr/bin/patch", "/usr/bin/git"] {
            if !Path::new(program).exists() {
                skip(&format!("base images need {program}"));
                return None;
            }
        }
        let version = said(Command::new("/usr/bin/ocamlc").arg("-vnum"));
        let mirror = Self { world, ocaml: version.trim().to_owned() };
        run(Command::new("tar")
            .args(["-czf"])
            .arg(mirror.path("brew.tgz"))
            .arg("-C")
            .arg(fixtures())
            .arg("brew"));
        mirror.repository();
        mirror.sources("", "");
        Some(mirror)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.path(name)
    }

    /// The patch release after the present one.
    fn next(&self) -> String {
        let (release, patch) = self.ocaml.rsplit_once('.').unwrap();
        format!("{release}.{}", patch.parse::<u32>().unwrap() + 1)
    }

    fn release(&self) -> &str {
        self.ocaml.rsplit_once('.').unwrap().0
    }

    fn image(&self) -> String {
        format!("macos-homebrew-ocaml-{}", self.release())
    }

    /// A git repository with the tests' packages.
    fn repository(&self) {
        let packages = self.path("repository/packages");
        fs::create_dir_all(&packages).unwrap();
        self.world.write("repository/repo", "opam-version: \"2.0\"\n");
        let copy = |name: &str, version: &str| {
            let (from, to) = (
                fixtures().join("packages").join(name),
                packages.join(name).join(format!("{name}.{version}")),
            );
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            run(Command::new("cp").arg("-R").args([from, to]));
        };
        copy("ocaml-base-compiler", &self.ocaml);
        copy("ocaml-base-compiler", &self.next());
        copy("tiny-lib", "1.0");
        copy("tiny-app", "1.0");
        self.git(&["init", "-q"]);
        self.git(&["add", "-A"]);
        self.git(&[
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "commit",
            "-qm",
            "packages",
        ]);
    }

    fn git(&self, args: &[&str]) -> String {
        let mut git = Command::new("/usr/bin/git");
        git.arg("-C").arg(self.path("repository")).args(args);
        said(&mut git)
    }

    /// Writes the sources, with `from` replaced by `to`.
    fn sources(&self, from: &str, to: &str) {
        let brew = self.path("brew.tgz");
        let text = format!(
            "[homebrew]\nurl = \"file://{}\"\nsha256 = \"{}\"\nenvironment = {{ HOMEBREW_TEST_MIRROR = \"it's here\" }}\n\
             [opam.'2.1']\nurl = \"file:///usr/bin/opam\"\nsha256 = \"{opam}\"\n\
             [opam.dev]\nurl = \"file:///usr/bin/opam\"\nsha256 = \"{opam}\"\n\
             [repository]\ngit = \"file://{}\"\ncommit = \"{}\"\n",
            brew.display(),
            sha256(&brew),
            self.path("repository").display(),
            self.git(&["rev-parse", "HEAD"]).trim(),
            opam = sha256(Path::new("/usr/bin/opam")),
        );
        let text = if from.is_empty() { text } else { text.replacen(from, to, 1) };
        self.world.write("base-images.toml", text);
    }

    /// Makes the repository a plain directory, and names that in the sources instead of `git`.
    fn plain_repository(&self, git: &str) {
        let plain = self.path("plain");
        run(Command::new("cp").arg("-R").args([&self.path("repository"), &plain]));
        fs::remove_dir_all(plain.join(".git")).unwrap();
        self.sources(git, &format!("url = \"file://{}\"", plain.display()));
    }

    fn run(&self, args: &[&str]) -> Finished {
        let mut command = self.world.command([&["base-image"], args].concat());
        command.env("OBUILD_SOURCES", self.path("base-images.toml"));
        Running::start(command).finish()
    }

    fn make(&self, ocaml: &str, more: &[&str]) -> Finished {
        self.run(&[&["homebrew-opam", "--ocaml", ocaml], more].concat())
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/base-image")
}

fn run(command: &mut Command) {
    said(command);
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn sha256(path: &Path) -> String {
    let text = said(Command::new("sha256sum").arg(path));
    text.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn an_image_is_made_and_a_package_is_built_on_it() {
    if !root_or_skip("making base images") {
        return;
    }
    let Some(mirror) = Mirror::new(World::new()) else { return };
    let (world, image) = (&mirror.world, mirror.image());
    let first = mirror.make(&mirror.ocaml, &["--default"]).success();
    let first = first.says(&format!("base image: `{image}` is made: "));
    let home = world.path("images").join(&image);
    for name in [
        "local/Homebrew/bin/brew",
        "local/bin/opam-2.1",
        "local/bin/opam-dev",
        "opam-repository/packages/tiny-lib",
        ".opam/download-cache",
        "Library/Caches/Homebrew",
        ".obuilder_profile.sh",
    ] {
        assert!(home.join(name).exists(), "no {name}: {:?}", names(&home));
    }
    assert_eq!(fs::read_link(home.join("local/bin/opam")).unwrap(), Path::new("opam-2.1"));
    assert_eq!(
        names(&home.join("Library/Caches/Homebrew")),
        [".fseventsd"],
        "the cache is in the image"
    );
    assert_eq!(fs::metadata(home.join("local/bin/opam-2.1")).unwrap().mode() & 0o777, 0o755);

    // All of it is known, and the image stays what it is.
    let inode = fs::metadata(&home).unwrap().ino();
    let second = mirror.make(&mirror.ocaml, &["--default"]).success();
    assert_eq!(second.saved(), [""; 0]);
    assert_eq!(second.got(), first.got());
    let second = second.says(&format!("`{image}` is unchanged"));
    assert!(!second.stderr.contains("bringing"), "{second:#?}");
    assert_eq!(fs::metadata(&home).unwrap().ino(), inode);

    // A package, by the image's own name and by that of the default image.
    let spec = |from: &str| {
        format!("((from {from}) (run (shell \"opam install tiny-app && opam exec -- tiny-app\")))")
    };
    world.build(&spec(&image)).success().prints("Hello, package");
    world.build(&spec("macos-homebrew")).success().prints("Hello, package");
    mirror.run(&["verify", &image]).success().says("is as it should be");
    mirror.run(&["verify", "macos-homebrew"]).success();
    let listed = mirror.run(&["list"]).success();
    let listed = listed.prints(&format!("macos-homebrew -> {image}"));
    listed.prints(&format!("{}  2.1,dev", mirror.ocaml));
    mirror
        .run(&["show", "macos-homebrew"])
        .success()
        .prints("opam-dev: file:///usr/bin/opam sha256 ");

    // A patch release: what comes before the compiler is known.
    let next = mirror.make(&mirror.next(), &["--default"]).success().says("is replaced");
    let (before, built) = (first.saved(), next.saved());
    assert!(built.len() < before.len() && built.len() <= 6, "{built:#?} after {before:#?}");
    let asks = format!("((from {image}) (run (shell \"opam exec -- ocaml -version\")))");
    world.build(&asks).success().prints(&format!("version {}", mirror.next()));
    let removed = mirror.run(&["remove", &image]).success();
    removed.prints("removed `macos-homebrew`\n").prints(&format!("removed `{image}`\n"));
    assert_eq!(names(&world.path("images")), [".base-image"]);
    world.assert_clean();
}

#[test]
fn a_table_of_versions_is_made_and_one_failure_keeps_no_other_from_being_made() {
    if !root_or_skip("making base images") {
        return;
    }
    let Some(mirror) = Mirror::new(World::with_slots(2)) else { return };
    // The repository need not be one of git's: a directory will do.
    let (git, commit) = (mirror.path("repository"), mirror.git(&["rev-parse", "HEAD"]));
    mirror.plain_repository(&format!(
        "git = \"file://{}\"\ncommit = \"{}\"",
        git.display(),
        commit.trim()
    ));
    let table = format!(
        "opam = ['2.1']\n[[image]]\nocaml = '4.99.9'\n[[image]]\nocaml = '{}'\ndefault = true\n",
        mirror.ocaml
    );
    let table = mirror.world.write("fleet.toml", table);
    let all = ["homebrew-opam", "--all", table.to_str().unwrap()];
    let made = mirror.run(&all).code(1);
    let made = made.says("base image: `macos-homebrew-ocaml-4.99` is not made");
    let made = made.says("error: 1 of 2 base images were not made: `macos-homebrew-ocaml-4.99`");
    made.says(&format!("base image: `{}` is made", mirror.image()));
    let image = mirror.image();
    let mut expected = [
        ".base-image".into(),
        "macos-homebrew".into(),
        image.clone(),
        format!("{image}.env"),
        "macos-homebrew.env".into(),
    ];
    expected.sort();
    assert_eq!(names(&mirror.path("images")), expected);
    let installs = format!("((from {image}) (run (shell \"opam install tiny-lib\")))");
    mirror.world.build(&installs).success();
}

/// In the pool of a store, which builds then begin on a clone of.
#[test]
fn an_image_is_put_into_the_pool_and_replaced_there() {
    if !root_or_skip("making base images") {
        return;
    }
    let Some(mirror) = Mirror::new(World::new()) else { return };
    let Some(pool) = Pool::new(&mirror.path("")) else { return };
    let image = mirror.image();
    let run = |args: &[&str]| {
        let mut command = mirror.world.command(args);
        command.env("OBUILD_SOURCES", mirror.path("base-images.toml"));
        command.env("OBUILD_STORE", pool.url());
        Running::start(command).finish()
    };
    let make = |ocaml: &str| {
        run(&["base-image", "homebrew-opam", "--opam", "2.1", "--into-pool", "--ocaml", ocaml])
    };
    let spec = mirror
        .world
        .spec(&format!("((from {image}) (run (shell \"opam exec -- ocaml -version\")))"));
    let build = || run(&["build", spec.to_str().unwrap()]).success();
    make(&mirror.ocaml).success().says(&format!("`{image}` in the pool is put there"));
    let whole = ["brew", "brew@snap", "home", "home@snap"];
    assert_eq!(pool.names(&format!("base-image/{image}")), whole);
    build().prints(&format!("version {}", mirror.ocaml));
    make(&mirror.ocaml).success().says(&format!("`{image}` in the pool is unchanged"));
    make(&mirror.next()).success().says(&format!("`{image}` in the pool is replaced"));
    build().says("has changed").prints(&format!("version {}", mirror.next()));
    let refused = mirror.make(&mirror.ocaml, &["--into-pool"]).code(2);
    refused.says("is no pool").says("zfs:POOL");
}

#[test]
fn builds_keep_the_image_that_they_began_with() {
    if !root_or_skip("making base images") {
        return;
    }
    let Some(mirror) = Mirror::new(World::with_slots(2)) else { return };
    mirror.make(&mirror.ocaml, &["--opam", "2.1"]).success();
    let (image, go) = (mirror.image(), mirror.path("go"));
    let asks = "opam exec -- ocaml -version";
    let wait =
        format!("for i in $(seq 1000); do test -e {} && break; sleep 0.05; done", go.display());
    let spec = |script: &str| format!("((from {image}) (run (shell \"{script}\")))");
    let waiting = mirror.world.write("waiting.scm", spec(&format!("echo begun; {wait}; {asks}")));
    // This step sees the files of the test.
    let args = ["build", "--isolation=users", waiting.to_str().unwrap()];
    let mut running = mirror.world.start(args);
    running.wait_for("begun\n");
    mirror.make(&mirror.next(), &["--opam", "2.1"]).success().says("is replaced");
    assert!(running.is_running());
    fs::write(&go, "").unwrap();
    running.finish().success().prints(&format!("version {}", mirror.ocaml));
    let new = mirror.world.build(&spec(asks)).success();
    new.prints(&format!("version {}", mirror.next()));
    mirror.world.assert_clean();
}

#[test]
fn what_fails_leaves_the_old_image() {
    if !root_or_skip("making base images") {
        return;
    }
    let Some(mirror) = Mirror::new(World::new()) else { return };
    mirror.make(&mirror.ocaml, &["--opam", "2.1"]).success();
    let image = mirror.image();
    let inode = || fs::metadata(mirror.path("images").join(&image)).unwrap().ino();
    let old = inode();
    // A mirror with other bytes.
    mirror.sources(
        "sha256 = \"",
        "sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\" #",
    );
    let failed = mirror.make(&mirror.next(), &["--opam", "2.1"]).code(2);
    failed
        .says("is not the Homebrew that was expected: its sha256 is ")
        .says("hint: if it was replaced on purpose");
    // A mirror without a digest.
    mirror.sources("sha256 = ", "#");
    let failed = mirror.make(&mirror.next(), &["--opam", "2.1"]).code(2);
    failed.says("there is no digest of Homebrew").says("compare that with what its makers publish");
    // A Homebrew that does not know a formula.
    mirror.sources("environment =", "formulae = [\"git\", \"gpatch\", \"cmake\"]\nenvironment =");
    let failed = mirror.make(&mirror.next(), &["--opam", "2.1"]).code(1);
    failed.prints("stand-in for brew: there is no formula cmake");
    // A compiler that is none: the image's last check finds it.
    mirror.sources("", "");
    let compiler =
        format!("repository/packages/ocaml-base-compiler/ocaml-base-compiler.{}", mirror.next());
    let opam = mirror.path(&compiler).join("opam");
    let text = fs::read_to_string(&opam).unwrap().replace("bin version", "bin \"0.0\"");
    fs::write(&opam, text).unwrap();
    mirror.git(&["add", "-A"]);
    mirror.git(&["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "broken"]);
    mirror.sources("", "");
    let failed = mirror.make(&mirror.next(), &["--opam", "2.1"]).code(1);
    failed.prints(&format!(
        "base image: the compiler says 'The OCaml toplevel, version 0.0', not version {}",
        mirror.next()
    ));
    assert_eq!(inode(), old);
    mirror.run(&["verify", &image]).success();
    // What is not as it should be is not made again as long as it is there.
    let anew = format!("hint: remove it (`obuild base-image remove {image}`), then make it anew");
    let spoilt = mirror.path("images").join(&image).join("spoilt");
    fs::write(&spoilt, format!("{}/result/x", mirror.world.store().display())).unwrap();
    mirror.run(&["verify", &image]).code(3).says(&anew);
    fs::remove_file(&spoilt).unwrap();
    fs::remove_dir_all(mirror.path("images").join(&image).join(".opam")).unwrap();
    mirror.run(&["verify", &image]).code(1).says(&anew);
    mirror.world.assert_clean();
}

#[test]
fn the_spec_is_shown_to_everybody() {
    let world = World::new();
    let digest = "0".repeat(64);
    let sources = format!(
        "[homebrew]\nurl = 'https://example.org/brew.tgz'\n[opam.'2.1']\nurl = 'https://example.org/opam'\n\
         sha256 = '{digest}'\n[repository]\nurl = 'https://example.org/index.tar.gz'\n"
    );
    let sources = world.write("sources.toml", sources);
    let run = |more: &[&str]| {
        let usual = ["base-image", "homebrew-opam", "--sources", sources.to_str().unwrap()];
        world.run([&usual, more].concat())
    };
    let shown = run(&["--ocaml", "5.4.1", "--print-spec"]).success();
    let shown = shown.prints(&format!(
        "(comment \"opam 2.1 is from https://example.org/opam (sha256 {digest})\")"
    ));
    let spec = world.spec(&shown.stdout);
    let planned = world.run(["plan", spec.to_str().unwrap()]);
    planned.says("homebrew.tar");
    run(&["--ocaml", "5.4.1", "--opam", "2.2", "--print-spec"])
        .code(2)
        .says("there is no source of opam 2.2 for");
    run(&["--ocaml", "5.4", "--print-spec"]).code(2).says("`5.4` is not a version of OCaml");
    run(&["--ocaml", "5.4.1", "--to", "x-ocaml-5.3"]).code(2).says("promises OCaml 5.3, not 5.4.1");
    run(&[]).code(2).says("--ocaml <VERSION>");
    if !nix::unistd::geteuid().is_root() {
        run(&["--ocaml", "5.4.1"]).code(2).says("base images are made by root alone");
    }
    let missing = world.run(["base-image", "homebrew-opam", "--ocaml", "5.4.1"]).code(2);
    missing.says("failed to read the sources of base images").says("docs/base-images.md");
    world.run(["base-image", "list"]).success().prints("no base images but `scratch`");
    world.run(["base-image", "show", "nothing"]).code(2).says("there is no base image `nothing`");
    assert_eq!(names(&world.path("images")), [""; 0]);
}

#[test]
fn prefixes_show_a_part_of_the_home() {
    if !root_or_skip("showing a part of the home elsewhere") {
        return;
    }
    let world = World::new();
    let spec = world.spec("((from scratch) (run (shell \"mkdir local && echo here > local/x\")) (run (shell \"cat /srv/x\")))");
    let args = ["build", "--prefixes", "/srv", spec.to_str().unwrap()];
    world.run(args).success().prints("here\n");
    world.assert_clean();
}
