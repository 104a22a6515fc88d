//! A build of ten steps with caches and secrets, and what must hold after any of its processes was killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::pool::Pool;
use super::{Running, World, trees};

/// What no file of a store may hold.
pub const SECRET: &str = "an uncommonly secret word";

/// So large that its trees are kept warm.
const FIRST: &str = "(run (shell \"for n in $(seq 300); do echo $n > many-$n; done; echo 1 > a; mkdir d; echo x > d/f; ln d/f d/l\"))";
/// One of the steps runs long enough for its result to be begun meanwhile.
const REST: &str = "(copy (src data) (dst data))
    (run (cache (one (target one))) (shell \"echo more >> one/f; cat data/* > all\"))
    (run (secrets (token (target /run/token))) (shell \"test -s $OBUILDER_SECRETS_DIR/token; cat $OBUILDER_SECRETS_DIR/token\"))
    (run (shell \"rm d/l; echo 2 >> a; sleep 0.3\"))
    (run (cache (one (target one)) (two (target two))) (shell \"cp one/f two/f; ln -s a s\"))
    (run (cache (two (target two))) (secrets (token (target /run/token))) (shell \"chmod 600 all; echo eight\"))
    (run (shell \"seq 1 500\"))
    (run (shell \"seq 1 500 > numbers; rm -r data many-11*\"))";

/// Begins on the first step of the build, of which a warm tree may be some steps away.
const OTHER: &str = "(run (shell \"echo other > a\"))";
const SMALL: &str =
    "((from scratch) (run (shell \"echo small > file\")) (run (shell \"echo smaller >> file\")))";
const FAILING: &str = "((from scratch) (run (shell \"echo half > made; echo said; exit 3\")))";

/// What the commands make when nobody disturbs them.
pub struct Expected {
    /// What every result and its log hold.
    pub results: BTreeMap<String, BTreeMap<String, String>>,
    /// The last step of the build of ten steps.
    pub id: String,
    /// That of the small one.
    pub small: String,
}

/// A world with the files of the build, and its commands.
pub struct Ten {
    pub world: World,
    secret: String,
}

impl Ten {
    pub fn new() -> Self {
        let world = World::new();
        for n in 0..5 {
            world.write(&format!("context/data/{n}"), format!("{n}\n"));
        }
        for (name, text) in [
            ("ten", &format!("((from scratch) {FIRST} {REST})")[..]),
            ("other", &format!("((from scratch) {FIRST} {OTHER})")),
            ("small", SMALL),
            ("failing", FAILING),
        ] {
            world.write(&format!("context/{name}.scm"), text);
        }
        let token = world.write("token", format!("{SECRET}\n"));
        let secret = format!("--secret=token:{}", token.display());
        Self { world, secret }
    }

    /// The build of ten steps.
    pub fn build(&self) -> [&str; 3] {
        ["build", "ten.scm", &self.secret]
    }

    /// What it and the other commands here make when nobody disturbs them.
    pub fn undisturbed() -> Expected {
        let ten = Self::new();
        let small = ten.world.run(["build", "small.scm"]).success().got();
        let id = ten.world.run(ten.build()).success().got();
        ten.world.run(["build", "other.scm"]).success();
        Expected { results: trees::results(&ten.world.store()), id, small }
    }

    /// Commands that together do all that can be done to a store.
    pub fn commands<'a>(&'a self, expected: &'a Expected) -> Vec<Vec<&'a str>> {
        vec![
            vec!["build", "--keep-failed", "failing.scm"],
            vec!["build", "--keep-failed", "failing.scm"],
            vec!["build", "failing.scm"],
            vec!["build", "small.scm"],
            vec!["build", "--no-cache", "small.scm"],
            self.build().to_vec(),
            vec!["build", "other.scm"],
            vec!["gc", "--max-size=0"],
            vec!["build", "small.scm"],
            vec!["delete", &expected.small],
            vec!["clean"],
        ]
    }

    /// After a process was killed: every result is as it should be, the next build finishes, and then nothing is left.
    #[track_caller]
    pub fn check(&self, when: &str, expected: &Expected) {
        self.world.run(["ls"]).success();
        for (id, held) in trees::results(&self.world.store()) {
            assert_eq!(Some(&held), expected.results.get(&id), "{when}: {id}");
        }
        let sound = self.world.run(["build", "small.scm"]).success();
        let again = Running::start(self.world.command(self.build())).finish().success();
        assert_eq!(again.got(), expected.id, "{when}: {sound:#?}");
        self.world.run(["build", "other.scm"]).success();
        assert_eq!(trees::results(&self.world.store()), expected.results, "{when}");
        let checked = self.world.run(["fsck", "--digest"]);
        assert_eq!(checked.status.code(), Some(0), "{when}: {checked:#?}");
        self.world.assert_clean();
        assert_eq!(with_secret(&self.world.store()), "", "{when}");
    }
}

/// Files below the store's directory `dir`, and in its pool, that hold the secret.
pub fn with_secret(dir: &Path) -> String {
    let grep = |dir: &Path| {
        let grep = Command::new("grep").args(["-r", "-a", "-l", SECRET]).arg(dir).output();
        String::from_utf8(grep.unwrap().stdout).unwrap()
    };
    let mut found = grep(dir);
    if let Some(pool) = Pool::of(dir) {
        pool.results(|_, tree, dir| found += &(grep(tree) + &grep(dir)));
    }
    found
}
