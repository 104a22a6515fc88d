//! Base images: made from mirrors on disk by Debian's opam, built on, replaced, and refused.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

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

    fn start(&self, args: &[&str]) -> Running {
        let mut command = self.world.command([&["base-image"], args].concat());
        command.env("OBUILD_SOURCES", self.path("base-images.toml"));
        Running::start(command)
    }

    fn run(&self, args: &[&str]) -> Finished {
        self.start(args).finish()
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
    assert!(!next.stdout.contains("brew install"[..].trim()) || !built.is_empty());
    let asks = format!("((from {image}) (run (shell \"opam exec -- ocaml -version\")))");
    world.build(&asks).success().prints(&format!("version {}", mirror.next()));
    let removed = mirror.run(&["remove", &image]).success();
    removed.prints("removed `macos-homebrew`\n").prints(&format!("removed `{image}`\n"));
    assert_eq!(names(&world.path("images")), [".base-image"]);
    world.assert_clean();
}
