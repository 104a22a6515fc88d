//! Flags, variables, the configuration file, help.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Running, World};

#[test]
fn the_configuration_file_gives_defaults() {
    let world = World::new();
    let other = world.path("other");
    world.write(
        "config.toml",
        format!("# ours\nstore = 'rsync:{}'\nprogress = 'json'\n", other.display()),
    );
    let spec = world.spec("((from scratch) (run (shell \"echo x\")))");
    let mut command = world.command(["build", spec.to_str().unwrap()]);
    command.env_remove("OBUILD_STORE").env_remove("OBUILD_PROGRESS");
    Running::start(command).finish().success().prints("{\"event\":\"result\"");
    assert!(other.join("result").is_dir() && !world.store().exists());
    // The environment is stronger, and the command line stronger still.
    let mut command = world.command(["build", spec.to_str().unwrap(), "--progress=plain"]);
    command.env("OBUILD_PROGRESS", "tty");
    Running::start(command).finish().success().prints("Got: \"");
    assert!(world.store().join("result").is_dir());
}

#[test]
fn help_says_what_is_in_force() {
    let world = World::new();
    world.write("config.toml", "rsync-mode = 'copy'\n");
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let finished = world.run(["build", "--help", "--timeout=5m"]).success();
    let help = squeeze(&finished.stdout);
    for part in [
        "[now: 5m, from the command line]".to_owned(),
        format!("[now: rsync:{}, from $OBUILD_STORE]", world.store().display()),
        format!("[now: copy, from {}:1]", world.path("config.toml").display()),
        format!("[OBUILD_HOME] [now: {}, the default]", world.store().join("home").display()),
    ] {
        assert!(help.contains(&part), "{part:?} is not in\n{help}");
    }
    for command in
        ["plan", "ls", "log", "inspect", "shell", "delete", "gc", "clean", "healthcheck", "doctor"]
    {
        let finished = world.run([command, "--help"]).success();
        assert!(
            squeeze(&finished.stdout).contains("from $OBUILD_STORE]"),
            "{command}: {finished:#?}"
        );
    }
    let top = world.run(["--help"]).success();
    let top = top.prints("130  interrupted");
    top.prints("Usage: obuild");
}

#[test]
fn mistakes_in_the_configuration_are_placed() {
    let world = World::new();
    let file = world.write("config.toml", "uid = 705\nsotre = 'rsync:/x'\n");
    world.run(["ls"]).code(2).says(&format!(
        "error: {}:2: there is no setting `sotre`\nhint: did you mean `store`?\n",
        file.display()
    ));
    world.write("config.toml", "uid = \n");
    world.run(["ls"]).code(2).says(&format!("{}:1: ", file.display()));
    world.write("config.toml", "home = 'relative'\n");
    world.run(["ls"]).code(2).says(":1: `home`: `relative` is not an absolute path");
    world
        .run(["ls", "--config", "nowhere.toml"])
        .code(2)
        .says("the configuration file `nowhere.toml`");
    let mut command = world.command(["ls"]);
    command.env("OBUILD_UID", "many").env("OBUILD_CONFIG", "");
    Running::start(command)
        .finish()
        .code(2)
        .says("`uid` (from $OBUILD_UID): `many` is not a user number");
    assert!(!world.store().exists());
}

#[test]
fn nothing_is_needed_to_begin() {
    let world = World::new();
    let spec = world.spec("((from scratch) (run (shell \"echo x\")))");
    if nix::unistd::geteuid().is_root() {
        // Root's place is the machine's; a test must not touch it.
        let help = world.command(["build", "--help"]).env_remove("OBUILD_STORE").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains("/var/"), "{help}");
        return;
    }
    let mut command = world.command(["build", spec.to_str().unwrap()]);
    let names = ["STORE", "IMAGES", "CONFIG", "UID", "USER_PREFIX", "PROGRESS"];
    for name in names {
        command.env_remove(format!("OBUILD_{name}"));
    }
    let id = Running::start(command).finish().success().got();
    let place = if cfg!(target_os = "macos") { ".obuild" } else { ".local/share/obuild" };
    assert!(world.path("user").join(place).join("store/result").join(id).is_dir());
}

#[test]
fn a_home_that_nobody_knows_is_named() {
    if nix::unistd::geteuid().is_root() {
        return common::skip("root needs no HOME");
    }
    let world = World::new();
    let mut command = world.command(["ls"]);
    command.env_remove("HOME").env_remove("OBUILD_STORE");
    Running::start(command).finish().code(2).says("error: HOME is not set").says("--store");
}

#[test]
fn weak_isolation_is_told_where_a_step_runs() {
    if nix::unistd::geteuid().is_root() {
        return common::skip("steps of root are isolated as far as this machine can");
    }
    let world = World::new();
    let text = "((from scratch) (run (shell \"echo x\")))";
    let first = world.build(text).success().says("warning: isolation is weak: without root ");
    assert_eq!(first.stderr.lines().count(), 1, "{first:#?}");
    assert_eq!(world.build(text).success().stderr, "");
}

#[test]
fn the_small_commands() {
    let world = World::new();
    let version = world.run(["--version"]).success();
    assert_eq!(version.stdout, format!("obuild {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        world.run(["completions", shell]).success().prints("healthcheck");
    }
    world.run(["man"]).success().prints(".TH");
    let pages = world.path("pages");
    world.run(["man", "--dir", pages.to_str().unwrap()]).success();
    let pages = common::names(&pages);
    assert!(pages.contains(&"obuild-build.1".to_owned()), "{pages:?}");
    world
        .run(["man", "--dir", "/dev/null/pages"])
        .code(3)
        .says("failed to write manual pages to `/dev/null/pages`");
    assert!(!world.store().exists(), "none of these needs a store");
}
