//! The command lines that OBuilder's users have.

#![allow(clippy::unwrap_used)]

mod common;

use common::World;

#[test]
fn build_takes_obuilders_flags() {
    let world = World::new();
    world.spec("((from scratch) (copy (src spec.scm) (dst s)) (run (secrets (one (target /run/one))) (shell \"tr a-z A-Z < $OBUILDER_SECRETS_DIR/one\")))");
    let secret = world.write("secret", "hidden");
    let other = world.path("other");
    let mut command = world.command(["build", "-f", "spec.scm", "."]);
    command
        .env_remove("OBUILD_STORE")
        .arg(format!("--store=rsync:{}", other.display()))
        .args([
            "--rsync-mode=copy",
            "--no-fuse",
            "--brew-path",
            "/opt",
            "--fallback",
            "/x",
            "--fuse-path",
            "/y",
        ])
        .args(["--scoreboard", "/z"])
        .arg(format!("--secret=one:{}", secret.display()));
    let finished = common::Running::start(command).finish().success().prints("HIDDEN---> saved as");
    let warning = "warning: without effect in this version: --fallback, --fuse-path, --scoreboard, --no-fuse, --brew-path\n";
    let finished = finished.says(warning);
    assert!(other.join("result").join(finished.got()).is_dir());
}

#[test]
fn build_takes_the_flags_of_obuilders_log() {
    let world = World::new();
    world.spec("((from scratch) (run (shell \"echo x\")))");
    let mut said = Vec::new();
    for flags in [
        &["-v"][..],
        &["-vv", "--color=never"],
        &["--verbose", "--color", "auto"],
        &["-q"],
        &["--quiet", "--verbosity=debug"],
        &["--verbosity", "app"],
    ] {
        let args = [&["build", "-f", "spec.scm", "."][..], flags].concat();
        said.push(world.run(args).success().stderr);
    }
    assert!(said.iter().all(|text| !text.contains("without effect")), "{said:?}");
    let args = ["build", "-f", "spec.scm", ".", "--progress=tty"];
    let coloured = world.run([&args[..], &["--color=always"]].concat()).success();
    assert!(coloured.stderr.contains('\u{1b}'), "{coloured:#?}");
    let plain = world.run([&args[..], &["--color=never"]].concat()).success();
    assert!(!plain.stderr.contains('\u{1b}'), "{plain:#?}");
    world.run([&args[..], &["--verbosity=loud"]].concat()).code(2).says("loud");
}

#[test]
fn the_user_may_be_chosen() {
    if !common::root_or_skip("a build user") {
        return;
    }
    let world = World::new();
    let uid = world
        .command(["x"])
        .get_envs()
        .find(|(name, _)| *name == "OBUILD_UID")
        .unwrap()
        .1
        .unwrap()
        .to_owned();
    world.spec("((from scratch) (run (shell \"id -u\")))");
    let mut command = world.command(["build", "-f", "spec.scm", ".", "--uid"]);
    command.arg(&uid).env_remove("OBUILD_UID");
    common::Running::start(command)
        .finish()
        .success()
        .prints(&format!("\n{}\n", uid.to_str().unwrap()));
    world.run(["build", "-f", "spec.scm", ".", "--uid", "0"]).code(2).says("must not be root");
}

#[test]
fn the_other_commands() {
    let world = World::new();
    let store = format!("--store=rsync:{}", world.store().display());
    world.run(["healthcheck", &store]).success().prints("Healthcheck passed\n");
    world.run(["healthcheck", &store]).success().prints("Healthcheck passed\n");
    let id = world.build_ok("((from scratch) (run (shell \"echo x\")))");
    world.run(["delete", &store, &id]).success();
    world.run(["clean", &store]).success();
    world.assert_clean();
}
