//! The steps of a spec do what they say, with every kind of source and both layouts of Homebrew.
//!
//! They are run here without a sandbox: a prefix that lies in the home is its own `~/local`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use base_image::{Request, Sources, spec};
use obuilder_core::spec::{Op, Spec};
use tempfile::TempDir;

const BREW: &str = "#!/bin/sh\n[ \"$*\" = --prefix ] && cd \"$(dirname \"$0\")/..\" && pwd\n";

struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("home").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn spec(&self, homebrew: &str, repository: &str) -> Spec {
        let text = format!(
            "[homebrew]\nurl = 'file://{homebrew}'\n[opam.'2.1']\nurl = 'file:///opam'\n[repository]\nurl = 'file://{repository}'\n"
        );
        let sources = Sources::read(Path::new("s.toml"), &text, "arm64-macos").unwrap();
        let request = Request {
            name: "macos-homebrew-ocaml-5.4".to_owned(),
            ocaml: "5.4.1".parse().unwrap(),
            opam: vec!["2.1".parse().unwrap()],
            default_opam: "2.1".parse().unwrap(),
            prefix: self.path("local"),
            default: false,
        };
        spec(&request, &sources).unwrap()
    }

    /// Runs the steps of `spec` that have one of `words` in them.
    fn run(&self, spec: &Spec, words: &[&str]) -> Result<(), String> {
        fs::create_dir_all(self.path("")).unwrap();
        for op in &spec.ops {
            let Op::Run(run) = op else { continue };
            let script = run.shell.to_string();
            if !words.iter().any(|word| script.contains(word)) {
                continue;
            }
            let mut command = Command::new("/usr/bin/env");
            command
                .args(["bash", "-c", &script])
                .current_dir(self.path(""))
                .env("HOME", self.path(""));
            command.env("PATH", format!("{}:/usr/bin:/bin", self.path("local/bin").display()));
            let output = command.output().unwrap();
            if !output.status.success() {
                return Err(format!("{script}: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        Ok(())
    }

    /// Makes an archive at `name` of everything in the directory `of`.
    fn archive(&self, name: &str, of: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-czf").arg(self.path(name)).arg("-C").arg(self.path(of)).arg(".");
        assert!(tar.status().unwrap().success());
    }
}

const HOMEBREW: [&str; 3] = ["mkdir -p local/bin", ".obuild-shown", "brew --prefix"];

#[test]
fn homebrew_is_unpacked_from_an_archive_or_a_directory() {
    for around in ["", "brew-4.6.0/"] {
        let home = Home::new();
        home.write(&format!("made/{around}bin/brew"), BREW);
        home.write(&format!("made/{around}.gitignore"), "x");
        home.archive(".obuild-base/homebrew.tar", "made");
        let spec = home.spec("/brew.tgz", "/index.tgz");
        // The last step, the check, looks for brew too; it stands behind what is looked at here.
        let first: Vec<_> = spec.ops.iter().take(7).cloned().collect();
        home.run(&Spec { ops: first, ..spec }, &HOMEBREW).unwrap();
        assert!(home.path("local/bin/brew").is_file());
        assert!(!around.is_empty() || home.path("local/.gitignore").is_file());
        assert!(!home.path(".obuild-base").exists());
    }
    let home = Home::new();
    home.write(".obuild-base/homebrew/bin/brew", BREW);
    let spec = home.spec("/", "/index.tgz");
    let first: Vec<_> = spec.ops.iter().take(7).cloned().collect();
    home.run(&Spec { ops: first, ..spec }, &HOMEBREW).unwrap();
    assert!(home.path("local/bin/brew").is_file());
}

#[test]
fn a_prefix_that_does_not_show_the_home_is_told() {
    let home = Home::new();
    let mut spec = home.spec("/brew.tgz", "/index.tgz");
    for op in &mut spec.ops {
        let Op::Run(run) = op else { continue };
        run.shell =
            run.shell.to_string().replace(home.path("local").to_str().unwrap(), "/usr/lib").into();
    }
    let error = home.run(&spec, &["mkdir -p local/bin", ".obuild-shown"]).unwrap_err();
    assert!(error.contains("/usr/lib does not show ~/local to this step"), "{error}");
}

#[test]
fn the_repository_is_unpacked_with_or_without_a_directory_around_it() {
    for around in ["", "opam-repository-main/"] {
        let home = Home::new();
        home.write(&format!("made/{around}packages/x/x.1/opam"), "");
        home.write(&format!("made/{around}repo"), "");
        home.archive(".obuild-base/repository.tar", "made");
        home.run(&home.spec("/brew.tgz", "/index.tgz"), &["repository.tar"]).unwrap();
        assert!(home.path("opam-repository/packages/x/x.1/opam").is_file());
        assert!(!home.path(".obuild-base").exists());
    }
}
