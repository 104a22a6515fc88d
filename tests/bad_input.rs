//! What bad input gets: the message, the exit code, and that nothing is lost or left.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{Finished, Volume, World};

const GOOD: &str = "((from scratch) (run (shell \"echo good > file\")))";

/// A world with one result, to see that it survives.
struct Survivor {
    world: World,
    id: String,
}

impl Survivor {
    fn new() -> Self {
        let world = World::new();
        let id = world.build_ok(GOOD);
        Self { world, id }
    }

    /// The result is still there and nothing else is.
    fn check(self) {
        let again = self.world.build(GOOD).success();
        assert_eq!((again.saved().len(), again.got()), (0, self.id), "{again:#?}");
        self.world.assert_clean();
    }
}

#[test]
fn a_missing_file() {
    let it = Survivor::new();
    it.world
        .run(["build", "nowhere.scm"])
        .code(2)
        .says("error: failed to read the spec `nowhere.scm`\ncaused by: No such file");
    it.world
        .run(["build"])
        .code(2)
        .says("no spec is given")
        .says("hint: write `obuild build SPEC`");
    it.world
        .run(["build", "."])
        .code(2)
        .says("failed to read the spec `.`")
        .says("hint: name the spec first");
    it.check();
}

#[test]
fn a_spec_with_errors_of_syntax() {
    let it = Survivor::new();
    for (text, place) in [
        ("((from scratch)", "spec.scm:"),
        ("((from scratch))\n((from scratch))", "spec.scm:2:1: "),
        ("((from \"scratch))", "spec.scm:"),
        ("", "spec.scm:"),
        ("((from scratch)))", "spec.scm:1:17: "),
    ] {
        let finished = it.world.build(text).code(2).says("error: ").says(place);
        assert_eq!(finished.stdout, "", "{text}");
    }
    it.check();
}

#[test]
fn a_spec_with_errors_of_meaning() {
    let it = Survivor::new();
    for (text, place, hint) in [
        ("((from scratch)\n (runn (shell true)))", "spec.scm:2:3: ", "`run`"),
        ("((from scratch) (run (shel true)))", "spec.scm:1:23: ", "`shell`"),
        ("((from scratch) (run (shell a) (shell b)))", "spec.scm:1:", "shell"),
        ("((from scratch) (run (network host)))", "spec.scm:1:", "shell"),
        (
            "((build dev ((from scratch))) (from scratch) (copy (from (build dve)) (src a) (dst b)))",
            "spec.scm:1:",
            "`dev`",
        ),
        ("((run (shell true)))", "spec.scm:1:", "from"),
    ] {
        let finished = it.world.build(text).code(2).says(place).says(hint);
        assert!(finished.stderr.contains(" | "), "the place is not drawn: {finished:#?}");
    }
    it.check();
}

#[test]
fn an_unknown_store() {
    let it = Survivor::new();
    let store = |url: &str| it.world.run(["build", "spec.scm", "--store", url]);
    store("rsnyc:/tmp/x")
        .code(2)
        .says("error: --store: there is no kind of store `rsnyc`")
        .says("`rsync`");
    store("btrfs:/a").code(2).says("`btrfs:/path` are not served yet").says("`rsync:/path`");
    store("zfs:/").code(2).says("names no pool").says("`zfs:pool`");
    store("nonsense").code(2).says("is not a store such as `rsync:/path`");
    store("rsync:relative").code(2).says("is not absolute");
    it.world
        .run(["ls", "--rsync-mode", "teleport"])
        .code(2)
        .says("there is no mode `teleport`; it is one of `auto`, `copy`, `hardlink`");
    it.check();
}

#[test]
fn a_store_that_is_a_file() {
    let it = Survivor::new();
    let file = it.world.write("file", "precious");
    let store = format!("--store=rsync:{}", file.display());
    it.world.run(["build", "spec.scm", &store]).code(3).says("error: ").says("file");
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
    it.check();
}

#[test]
fn a_store_that_cannot_be_written() {
    let it = Survivor::new();
    let dir = it.world.path("readonly");
    fs::create_dir(&dir).unwrap();
    let volume = Volume::readonly(&dir);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap_or_default();
    if nix::unistd::geteuid().is_root() && volume.is_none() {
        return common::skip("root writes everywhere");
    }
    let store = format!("--store=rsync:{}", dir.join("store").display());
    let finished = it.world.run(["build", "spec.scm", &store]);
    drop(volume);
    finished.code(3).says("error: the store cannot be written").says("caused by: ").says("hint: ");
    it.check();
}

#[test]
fn a_home_or_a_user_that_cannot_be_had() {
    let it = Survivor::new();
    let run = "((from scratch) (run (shell \"echo never\")))";
    it.world.spec(run);
    let precious = it.world.write("taken/precious", "");
    let home = format!("--home={}", precious.parent().unwrap().display());
    it.world.run(["build", "spec.scm", &home]).code(2).says("error: ").says("choose another home");
    assert!(precious.exists());
    if common::root_or_skip("a build user") {
        it.world.run(["build", "spec.scm", "--uid=1"]).code(2).says("cannot have a build user");
    }
    it.check();
}

#[test]
fn a_context_that_is_no_directory() {
    let it = Survivor::new();
    it.world
        .run(["build", "spec.scm", "spec.scm"])
        .code(2)
        .says("the context `spec.scm` is no directory");
    it.world
        .run(["build", "spec.scm", "nowhere"])
        .code(2)
        .says("the context `nowhere` does not exist");
    it.check();
}

#[test]
fn a_secret_that_was_not_given() {
    let it = Survivor::new();
    let spec = "((from scratch) (run (shell \"echo before\")) (run (secrets (token (target /t))) (shell \"cat /t\")))";
    let finished =
        it.world.build(spec).code(2).says("asks for the secret `token`, which was not given");
    let finished = finished.says("hint: give it with `--secret token:FILE`").prints_not("before");
    assert_eq!(finished.saved(), [""; 0]);
    let secret = |text: &str| it.world.run(["build", "spec.scm", "--secret", text]).code(2);
    secret("token").says("`token` is not a secret of the form ID:FILE");
    secret("token:nowhere")
        .says("failed to read the secret `token` from `nowhere`\ncaused by: No such file")
        .says("hint: write the secret to that file, or name its file: `--secret token:FILE`");
    secret("token:/").says("failed to read the secret `token` from `/`\ncaused by: Is a directory");
    it.check();
}

#[test]
fn a_base_that_does_not_exist() {
    let it = Survivor::new();
    for name in ["debian-12", "macos-homebrew"] {
        it.world.write(&format!("images/{name}/file"), "");
    }
    let finished = it.world.build("((from debian-13) (run (shell true)))").code(2);
    finished
        .says("there is no base image `debian-13`")
        .says("debian-12")
        .says("macos-homebrew")
        .says("scratch");
    it.check();
}

#[test]
fn a_source_that_is_not_there() {
    let it = Survivor::new();
    it.world.write("context/main.c", "");
    let copy = |src: &str| it.world.build(&format!("((from scratch) (copy (src {src}) (dst x)))"));
    copy("mian.c").code(2).says("there is no `mian.c`").says("hint: did you mean `main.c`?");
    copy("../main.c").code(2).says("contains `..`");
    it.check();
}

#[test]
fn an_id_that_is_unknown_or_ambiguous() {
    let it = Survivor::new();
    for command in ["log", "inspect", "shell", "delete"] {
        let run = |id: &str| it.world.run([command, id]).code(2);
        run("feedfacefeedface")
            .says("there is no result or failed step `feedfacefeedface`")
            .says("`obuild ls`");
        run("not-an-id").says("`not-an-id` is not an id");
    }
    // Of seventeen results two share their first digit.
    for n in 0..16 {
        it.world.build_ok(&format!("((from scratch) (run (shell \"echo {n}\")))"));
    }
    let ids = common::names(&it.world.store().join("result"));
    let shared = ids.windows(2).find(|pair| pair[0][..1] == pair[1][..1]).unwrap();
    it.world
        .run(["inspect", &shared[0][..1]])
        .code(2)
        .says(&format!("`{}` is short for ", &shared[0][..1]))
        .says(&shared[0])
        .says(&shared[1]);
    it.world.run(["inspect", &it.id[..10]]).success().prints(&it.id);
    it.check();
}

fn database(world: &World) -> std::path::PathBuf {
    world.store().join("state/db/db.sqlite")
}

#[test]
fn a_store_made_by_a_newer_version() {
    let it = Survivor::new();
    let set = |format: &str| {
        let db = rusqlite::Connection::open(database(&it.world)).unwrap();
        db.execute("UPDATE obuild_meta SET value = ?1 WHERE name = 'format'", [format]).unwrap();
    };
    set("99");
    it.world.run(["ls"]).code(3).says("99").says("format");
    it.world.build(GOOD).code(3).says("99");
    set("1");
    it.check();
}

#[test]
fn a_damaged_database() {
    let it = Survivor::new();
    for name in ["db.sqlite-wal", "db.sqlite-shm"] {
        let _ = fs::remove_file(it.world.store().join("state/db").join(name));
    }
    fs::write(
        database(&it.world),
        "this is no database, and it is long enough to look like one".repeat(100),
    )
    .unwrap();
    let finished = it.world.build(GOOD).success();
    let finished = finished.says("the index was damaged").says("set aside");
    assert_eq!(finished.saved(), [""; 0], "what the store holds was found again");
    it.world.run(["ls"]).success().prints(&it.id[..12]).prints("echo good");
    it.check();
}

#[test]
fn a_full_disk() {
    let world = World::new();
    fs::create_dir(world.store()).unwrap();
    let Some(_volume) = Volume::small(&world.store(), "6m") else {
        return common::skip("a volume of its own needs root and Linux");
    };
    let id = world.build_ok(GOOD);
    world.write("context/large", vec![b'x'; 12 << 20]);
    let copy = world.build("((from scratch) (copy (src large) (dst large)))");
    copy.code(3).says("error: ").says("No space left").says("hint: make room");
    let run = world.build("((from scratch) (run (shell \"head -c 12000000 /dev/zero > large\")))");
    assert!(matches!(run.status.code(), Some(1 | 3)), "{run:#?}");
    // The store is as it was, and works.
    let again = world.build(GOOD).success();
    assert_eq!((again.saved().len(), again.got()), (0, id));
    world.build_ok("((from scratch) (run (shell \"echo small > file\")))");
    world.assert_clean();
}

#[test]
fn what_the_sandbox_cannot_do_is_said_before_anything_runs() {
    let it = Survivor::new();
    let never: fn(Finished) = |finished| drop(finished.code(2).says("hint: ").prints_not("before"));
    for step in [
        "(user (name opam)) (run (shell true))",
        "(run (cache (c (target /var/cache))) (shell true))",
    ] {
        never(it.world.build(&format!("((from scratch) (run (shell \"echo before\")) {step})")));
    }
    it.check();
}

#[test]
fn a_wrong_command_line() {
    let it = Survivor::new();
    it.world.run(["biuld"]).code(2).says("build");
    it.world.run(["build", "--stroe=rsync:/x"]).code(2).says("--store");
    it.world.run(["build", "-f", "spec.scm", ".", "more"]).code(2).says("one argument too many");
    it.world.run(["gc"]).code(2).says("no limit is set").says("--max-size");
    it.world.run(["gc", "--max-size", "lots"]).code(2).says("--max-size: `lots` is not a size");
    it.check();
}

#[test]
fn a_directory_of_other_things_is_not_made_a_store() {
    let world = World::new();
    world.write("home/letter", "dear");
    let home = world.path("home");
    let store = format!("--store=rsync:{}", home.display());
    let text = format!(
        "there is no store at `rsync:{}`, but other things, such as `letter`",
        home.display()
    );
    world.spec("((from scratch))");
    let refused = world.run(["build", &store, "spec.scm"]).code(3).says(&text);
    refused.says("name an empty directory for --store, or a new one in it");
    assert_eq!(common::names(&home), ["letter"]);
}
