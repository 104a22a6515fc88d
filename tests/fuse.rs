//! `--fuse`: trees shown by the filesystem, at the home and at `/usr/local`.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Finished, Running, World, root_or_skip, skip};

/// Runs a script in which `$O` is obuild, with mounts that nobody else sees.
fn script(world: &World, text: &str) -> Finished {
    let obuild = world.command([""; 0]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "/bin/sh", "-ec", text]).env_clear();
    command.envs(obuild.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("O", obuild.get_program()).env("OBUILD_FUSE", world.path("homes"));
    command.current_dir(world.path("context")).stdin(std::process::Stdio::null());
    Running::start(command).finish()
}

#[test]
fn steps_of_two_users_share_paths_and_see_their_own() {
    if !root_or_skip("a filesystem for build users") {
        return;
    }
    if !Path::new("/dev/fuse").exists() {
        return skip("there is no /dev/fuse");
    }
    let world = World::with_slots(2);
    let nested = |name: &str| {
        let make = "mkdir -p ~/local/bin && printf '#!/bin/sh\\necho NAME\\n' > ~/local/bin/who && chmod +x ~/local/bin/who";
        let tell =
            "for i in 1 2 3 4 5; do /usr/local/bin/who; sleep 0.1; done; pwd > where; cat where";
        let make = make.replace("NAME", name);
        format!("(build {name} ((from scratch) (run (shell \"{make}\")) (run (shell \"{tell}\"))))")
    };
    let copy = |name: &str| format!("(copy (from (build {name})) (src where) (dst {name}))");
    let spec = world.spec(&format!(
        "({} {} (from scratch) {} {} (run (shell \"cat one two\")))",
        nested("one"),
        nested("two"),
        copy("one"),
        copy("two"),
    ));
    // All that serve are killed, so that nobody is left to unmount.
    let kill = format!(
        "for p in /proc/[0-9]*; do if tr '\\0' ' ' < $p/cmdline | grep -q '{}.[s]coreboard'; then kill -9 ${{p#/proc/}}; fi; done",
        world.path("homes").display()
    );
    let text = format!(
        "$O build {0}; $O doctor | grep 'on one volume'; {kill} 2>/dev/null; ! ls /usr/local 2>/dev/null; \
         $O build --no-cache {0}; ls /usr/local > /dev/null; $O setup --remove; ! mountpoint -q /usr/local",
        spec.display()
    );
    let home = world.path("homes/users/builder");
    let told = |name: &str| format!("{}{}\n", format!("{name}\n").repeat(5), home.display());
    script(&world, &text).success().prints(&told("one")).prints(&told("two"));
    assert_eq!(world.processes(), Vec::<String>::new());
}
