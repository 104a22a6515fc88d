//! Programs that people use, on top of a mount.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by failing"
)]

mod common;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use common::{ANN, BEN, Stage, can_mount};

/// Runs a script in the mount as both users at once, if all that it needs is there. It works below the first level, where
/// the kernel knows the current directory whatever the other user does.
fn both(needs: &[&str], script: &str) {
    if !can_mount() {
        return;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for need in needs {
        if !std::env::split_paths(&path).any(|dir| dir.join(need).exists()) {
            eprintln!("SKIP: `{need}` is not installed");
            return;
        }
    }
    let stage = Stage::new();
    let start = |user: u32| {
        let mut command = Command::new("timeout");
        command
            .args(["60", "/bin/sh", "-euc", script])
            .current_dir("/")
            .uid(user)
            .gid(user)
            .env_clear();
        command
            .env("PATH", &path)
            .env("M", stage.at("mnt"))
            .env("HOME", stage.mnt("home"))
            .env("ME", user.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let started = [ANN, BEN].map(start);
    for child in started {
        let said = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(
            said.status.success(),
            "{}\n{}\n{text}",
            said.status,
            String::from_utf8_lossy(&said.stdout)
        );
    }
    assert!(fs::read_dir(stage.tree(ANN, "")).unwrap().count() > 0);
}

#[test]
fn git_clones_and_packs() {
    both(
        &["git"],
        r#"
        export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        mkdir -p $HOME $M/top/work; cd $M/top/work; git init -q one; cd one
        for n in 1 2 3 4 5; do mkdir -p d$n; for f in 1 2 3 4 5 6 7 8; do echo $ME $n $f > d$n/$f; done; git add .; git commit -qm $n; done
        git mv d1 moved; git commit -qm moved; git gc -q; git fsck --strict
        cd ..; git clone -q one two; cd two; test "$(git log --oneline | wc -l)" = 6; git status --porcelain > ../dirty
        test ! -s ../dirty; test "$(cat moved/1)" = "$ME 1 1"; cd ..; rm -rf one; git -C two fsck"#,
    );
}

#[test]
fn sqlite_keeps_a_write_ahead_log() {
    both(
        &["sqlite3"],
        r#"
        mkdir -p $M/top/db; cd $M/top/db
        sqlite3 x.db 'pragma journal_mode=wal; create table t(a, b);' >/dev/null
        for n in 1 2 3 4 5; do sqlite3 -cmd '.timeout 20000' x.db "with recursive c(n) as (select 1 union all select n+1 from c where n<200) insert into t select n, $ME from c" & done; wait
        test "$(sqlite3 x.db 'select count(*), min(b) = max(b) from t')" = '1000|1'
        test "$(sqlite3 x.db 'pragma integrity_check')" = ok"#,
    );
}

#[test]
fn archives_and_copies_come_out_the_same() {
    both(
        &["tar", "rsync", "find", "diff"],
        r#"
        M=$M/top; mkdir -p $M/a/deep/er; cd $M/a
        for n in 1 2 3 4 5 6 7 8 9; do echo $ME $n > deep/$n; ln deep/$n deep/er/hard$n; ln -s ../$n deep/er/soft$n; touch -h -d @1000000.5 deep/er/soft$n; done
        truncate -s 1M deep/holes; chmod 600 deep/1; touch -d @1000000.5 deep/2
        tar --format=posix -C $M -cf $M/a.tar a; mkdir $M/b; tar -C $M/b -xf $M/a.tar; cp -a $M/a $M/c; rsync -aH $M/a/ $M/d/
        look() { (cd $1; find . -printf '%p %y %m %n %s %l %T@\n' | sed 's/^\(. d.*\) [0-9]* /\1 /' | sort | grep -v ' d '); }
        look $M/a > $M/want
        for copy in b/a c d; do diff -r $M/a $M/$copy; look $M/$copy > $M/got; diff $M/want $M/got; done
        test "$(find $M/a -type f | wc -l)" = 19; rm -rf $M/a $M/b $M/c $M/d"#,
    );
}

#[test]
fn a_program_is_compiled_installed_and_run() {
    both(
        &["cc", "make"],
        r##"
        M=$M/top; mkdir -p $M/src $M/include/lib $M/bin; cd $M/src
        for n in 1 2 3 4 5 6; do echo "#define H$n $n" > $M/include/lib/h$n.h; printf '#include <stdio.h>\n#include "lib/h%s.h"\nint f%s(void){return H%s;}\n' $n $n $n > f$n.c; done
        printf 'int f1(void);int f6(void);int main(void){return f1()+f6()-7;}' > main.c
        printf 'OBJS=f1.o f2.o f3.o f4.o f5.o f6.o main.o\nprog: $(OBJS)\n\tcc -o $@ $(OBJS)\n%%.o: %%.c\n\tcc -I$(M)/include -c -o $@ $<\n' > Makefile
        make -s -j2 M=$M; install -m 755 prog $M/bin/prog; $M/bin/prog; make -q M=$M
        cp prog $M/bin/.prog.new; mv $M/bin/.prog.new $M/bin/prog; $M/bin/prog"##,
    );
}
