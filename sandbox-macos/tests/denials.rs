//! What a step may not do, each tried on the real thing; and what it may do all the same.
//!
//! Every test here holds as root, in a world of mounts; as a root who may have no namespaces, by Landlock; and as an ordinary user.
//! What one of them cannot keep says so with a visible skip.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "only tests are here")]

mod common;

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use common::{TestUser, is_root, needs_root};
use obuilder_core::step::{Outcome, SecretMount, Step};
use obuilder_core::testing::sandbox::{Fixture, step};
use obuilder_core::{BuildLog, Cancel};
use tempfile::TempDir;

/// Where an ordinary user may put what is no temporary file, and a file in a home that is not theirs.
const PLACES: &str = "OBUILD_TEST_PLACES";

/// A machine with something to keep from steps.
struct Host {
    user: TestUser,
    fixture: Fixture,
    /// Anybody may write here, but for the sandbox; outside of all temporary directories.
    open: TempDir,
}

impl Host {
    fn new() -> Self {
        Self::with(TestUser::new())
    }

    fn with(mut user: TestUser) -> Self {
        let place = std::env::var(PLACES)
            .ok()
            .and_then(|places| Some(places.split_once(':')?.0.to_owned()));
        let usual = if is_root() { "/var/lib".into() } else { std::env::temp_dir() };
        let open = tempfile::tempdir_in(place.map_or(usual, PathBuf::from)).unwrap();
        fs::set_permissions(open.path(), Permissions::from_mode(0o777)).unwrap();
        for dir in ["store/result/one", "store/trash/cache"] {
            fs::create_dir_all(open.path().join(dir)).unwrap();
        }
        for file in ["store/result/one/log", "store/trash/cache/old", "worker.cap", "file"] {
            let file = open.path().join(file);
            fs::write(&file, "precious").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
        }
        for dir in ["store", "store/result", "store/result/one", "store/trash", "store/trash/cache"]
        {
            fs::set_permissions(open.path().join(dir), Permissions::from_mode(0o777)).unwrap();
        }
        user.config.hidden = vec![open.path().join("store"), open.path().join("worker.cap")];
        Self { fixture: user.fixture(), user, open }
    }

    fn path(&self, name: &str) -> String {
        self.open.path().join(name).display().to_string()
    }

    fn has_world(&self) -> bool {
        self.user.sandbox().abilities().unwrap().world
    }

    /// What a script says in a step of its own. Its result does not matter: it tries what must fail.
    fn sh(&self, script: &str) -> String {
        self.run(&step(script), &self.fixture.tree("scripts")).1
    }

    /// Runs a step, without what the sandbox itself says in the log.
    fn run(&self, step: &Step, tree: &Path) -> (Outcome, String) {
        let (outcome, text) = self.fixture.run(step, tree);
        let own = |line: &&str| !line.starts_with("obuild: this step reaches the host's network");
        (outcome, text.split_inclusive('\n').filter(own).collect())
    }

    /// Asserts that nothing of what is to be kept has changed.
    fn is_unharmed(&self) {
        for file in ["store/result/one/log", "store/trash/cache/old", "worker.cap", "file"] {
            assert_eq!(fs::read_to_string(self.path(file)).unwrap(), "precious", "{file}");
        }
        let names = |dir: &str| {
            let entries = fs::read_dir(self.path(dir)).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names("."), ["file", "store", "worker.cap"]);
        assert_eq!([names("store"), names("store/trash")].concat(), ["result", "trash", "cache"]);
    }
}

/// A visible skip where a step has no world of its own.
fn needs_world(host: &Host) -> bool {
    if !host.has_world() {
        eprintln!("SKIP: only in a world of its own is a step kept from this");
    }
    host.has_world()
}

/// A process that is killed in the end.
struct Victim(Child);

impl Victim {
    /// Of the calling user; as root, of somebody who is not the step's user.
    fn new() -> Self {
        let mut sleep = Command::new("sleep");
        if is_root() {
            sleep.uid(65533);
        }
        Self(sleep.arg("1000").env("TOKEN", "precious").spawn().unwrap())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_store_deleted_caches_and_keys_are_not_seen() {
    let host = Host::new();
    let (store, key) = (host.path("store"), host.path("worker.cap"));
    let text = host.sh(&format!(
        "ls -R {store}; cat {store}/*/*/* {store}/trash/cache/old {store}/result/one/log {key} {key}; \
         cd {store}/trash/cache && cat old; cp -r {store} copy; cat /proc/self/root{key}; \
         echo worse > {key}; echo worse > {store}/result/one/log; rm -rf {store}; mkdir {store}/new; \
         ln {store}/trash/cache/old linked; mv {store} moved; mv {key} moved; cat copy/*/*/* moved linked"
    ));
    assert!(!text.contains("precious"), "{text}");
    assert!(!text.contains("result:\n") && !text.contains("trash:\n"), "{text}");
    host.is_unharmed();
}

#[test]
fn no_namespace_of_its_own_uncovers_what_is_hidden() {
    let host = Host::new();
    let (store, file) = (host.path("store"), host.path("file"));
    let text = host.sh(&format!(
        "unshare -Urm sh -c 'umount -l {store}; mount -o remount,bind,rw /; mount --bind / $HOME; umount -l /proc; \
         cat {store}/trash/cache/old; echo worse > {file}; mount -t tmpfs none /mnt; ls {store}'"
    ));
    assert!(!text.contains("precious") && !text.lines().any(|line| line == "trash"), "{text}");
    host.is_unharmed();
}

#[test]
fn nothing_of_the_system_can_be_written() {
    let host = Host::new();
    if host.open.path().starts_with(std::env::temp_dir()) {
        return eprintln!("SKIP: only root has a place for this that is not temporary");
    }
    let open = host.open.path().display();
    let text = host.sh(&format!(
        "for dir in /etc /usr /usr/lib /var /var/lib /opt /home /root /srv /mnt /run /sys /proc/sys/kernel / {open}; do \
         touch $dir/made && echo $dir: made; mkdir $dir/made && echo $dir: made; done; \
         cd {open}; echo worse > file; echo worse >> file; truncate -s 0 file; rm -f file; mv file moved; ln file linked; \
         ln -s x symlink; mkfifo fifo; mv store moved; rm -rf store; ln file $HOME/linked && echo worse > $HOME/linked"
    ));
    assert!(!text.contains(": made"), "{text}");
    assert_eq!(fs::metadata(host.path("file")).unwrap().len(), 8);
    host.is_unharmed();
}

#[test]
fn homes_of_people_are_not_read() {
    if is_root() {
        return eprintln!("SKIP: build users are kept from them by plain permissions");
    }
    let Some(file) =
        std::env::var(PLACES).ok().and_then(|places| Some(places.split_once(':')?.1.to_owned()))
    else {
        return eprintln!("SKIP: root must have put something into /home");
    };
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let text = Host::new().sh(&format!("cat {file}; cp {file} here && cat here; ls /home /root"));
    assert!(!text.contains("precious") && text.contains("Permission denied"), "{text}");
}

/// The ways of `denials/ways.c` to make a setuid file, and what came of them.
#[test]
fn no_call_makes_a_setuid_file() {
    let host = Host::new();
    let tree = host.fixture.tree("tree");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/denials/ways.c");
    let built = Command::new("cc").arg("-o").arg(tree.join("ways")).arg(&source).status();
    match built {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return eprintln!("SKIP: there is no C compiler");
        }
        built if !source.exists() => return eprintln!("SKIP: the source has gone: {built:?}"),
        built => assert!(built.unwrap().success()),
    }
    let (outcome, text) = host.run(&step("mkdir out && cd out && ../ways </dev/null"), &tree);
    assert_eq!(outcome, Outcome::Exited(0), "{text}");
    for line in text.lines().filter(|line| !line.starts_with("SKIP")) {
        let (way, result) = line.split_once(": ").unwrap();
        let expected = match way {
            "open of what is there" | "mkdir" | "sticky" => "made",
            "openat2" | "io_uring" | "x32 chmod" => "ENOSYS",
            _ => "EPERM",
        };
        assert_eq!(result, expected, "{text}");
    }
    assert_eq!(set_id(&tree), Vec::<PathBuf>::new());
}

#[test]
fn no_tool_leaves_a_setuid_file() {
    let host = Host::new();
    let tree = host.fixture.tree("tree");
    fs::write(tree.join("given"), "").unwrap();
    fs::set_permissions(tree.join("given"), Permissions::from_mode(0o4755)).unwrap();
    let packed =
        Command::new("tar").args(["-cf", "archive.tar", "given"]).current_dir(&tree).status();
    assert!(packed.unwrap().success());
    fs::remove_file(tree.join("given")).unwrap();
    let script = "touch a; for mode in u+s g+s 4755 2755 6755; do chmod $mode a && echo made; done; \
                  install -m 4755 a b && echo made; tar xpf archive.tar && echo made; perl -e 'chmod 04755, \"a\"'; \
                  mkdir d; chmod g+s d && echo made; echo done; rm -f given; tar xf archive.tar --no-same-permissions && ls given";
    let (_, text) = host.run(&step(script), &tree);
    assert!(!text.contains("made"), "{text}");
    assert!(text.contains("done\n") && text.ends_with("\ngiven\n"), "{text}");
    assert_eq!(set_id(&tree), Vec::<PathBuf>::new());
}

/// What in `dir` is setuid or setgid.
fn set_id(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let metadata = entry.symlink_metadata().unwrap();
        if metadata.is_dir() {
            found.extend(set_id(&entry));
        }
        if metadata.mode() & 0o6000 != 0 {
            found.push(entry);
        }
    }
    found
}

#[test]
fn no_program_gives_rights() {
    let host = Host::new();
    let tree = host.fixture.tree("tree");
    // Setuid root where root runs the test, and setgid in any case.
    for dir in [host.open.path(), &tree] {
        fs::copy("/usr/bin/id", dir.join("id")).unwrap();
        fs::set_permissions(dir.join("id"), Permissions::from_mode(0o6755)).unwrap();
    }
    let script = format!(
        "{} -u; ./id -u; id -u; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status",
        host.path("id")
    );
    let (_, text) = host.run(&step(&script), &tree);
    let numbers: Vec<_> = text.lines().filter(|line| line.parse::<u32>().is_ok()).collect();
    let uid = if is_root() { host.user.uid() } else { nix::unistd::geteuid().as_raw() };
    assert_eq!(numbers, [uid.to_string().as_str(); 3], "{text}");
    assert!(text.contains("NoNewPrivs:\t1") && text.contains("Seccomp:\t2"), "{text}");
}

#[test]
fn processes_of_others_are_left_alone() {
    let host = Host::new();
    let mut victim = Victim::new();
    let pid = victim.0.id();
    // 16: to attach. By its number, as perl's headers may be missing; that of the call is this processor's.
    let attach =
        format!("perl -e 'print syscall({}, 16, {pid}, 0, 0), qq(\\n)'", nix::libc::SYS_ptrace);
    let text = host.sh(&format!(
        "{attach}; kill -STOP {pid} && echo signalled; kill -9 {pid} && echo signalled; cat /proc/{pid}/environ; \
         readlink /proc/{pid}/fd/0 && echo looked; ls /proc/{pid}/root/ && echo looked; head -c 1 /proc/{pid}/mem && echo looked"
    ));
    assert!(text.starts_with("-1\n"), "{text}");
    for told in ["signalled", "looked", "precious"] {
        assert!(!text.contains(told), "{text}");
    }
    assert!(victim.0.try_wait().unwrap().is_none(), "{text}");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert!(!stat.contains(") T "), "it was stopped");
}

#[test]
fn sockets_of_the_host_are_not_reached() {
    let host = Host::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let name = format!("obuild-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    let by_perl = |address: &str| {
        format!(
            "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); print connect(S, {address}) ? qq(reached) : $!' "
        )
    };
    let hidden = by_perl(&format!("pack(q(Sa*), 1, qq(\\0{name}))"));
    assert_eq!(output(&hidden), "reached", "the test itself gets there");
    let text = host.sh(&hidden);
    assert!(!text.contains("reached"), "{text}");
    if !host.user.sandbox().abilities().unwrap().network {
        return eprintln!("SKIP: without a network of its own a step reaches TCP ports");
    }
    let text = host.sh(&format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached'"));
    assert!(!text.contains("reached"), "{text}");
    let dir = tempfile::tempdir_in("/run").unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    let named = by_perl(&format!("sockaddr_un(q({}))", path.display()));
    let text = host.sh(&named);
    assert!(!text.contains("reached"), "{text}");
    let mut open = step(&named);
    open.network = vec!["host".into()];
    assert_eq!(host.run(&open, &host.fixture.tree("open")).1, "reached");
}

fn output(script: &str) -> String {
    String::from_utf8(Command::new("sh").args(["-c", script]).output().unwrap().stdout).unwrap()
}

#[test]
fn shared_memory_of_the_host_is_not_seen() {
    let host = Host::new();
    if !needs_world(&host) {
        return;
    }
    let made = output("ipcmk -M 64 -p 0666");
    let id = made.trim().rsplit(' ').next().unwrap().to_owned();
    let text = host.sh(&format!(
        "ipcs -m | grep -c '^0x'; ipcrm -m {id} && echo removed; perl -e 'print shmread({id}, $x, 0, 4) ? qq(read) : qq(not)'"
    ));
    assert!(Command::new("ipcrm").args(["-m", &id]).status().unwrap().success(), "it has gone");
    assert!(
        text.starts_with("0\n") && text.ends_with("not") && !text.contains("removed"),
        "{text}"
    );
}

#[test]
fn message_queues_of_the_host_are_not_seen() {
    let host = Host::new();
    if !needs_world(&host) {
        return;
    }
    let name = format!("obuild-test-{}", std::process::id());
    let path = Path::new("/dev/mqueue").join(&name);
    let mounted = fs::read_to_string("/proc/mounts").unwrap().contains(" /dev/mqueue mqueue ");
    if !mounted || fs::File::create(&path).is_err() {
        return eprintln!("SKIP: message queues are shown nowhere");
    }
    let text = host.sh("ls /dev/mqueue; touch /dev/mqueue/own && ls /dev/mqueue");
    fs::remove_file(&path).unwrap();
    assert_eq!(text, "own\n");
}

#[test]
fn nothing_stays_in_temporary_directories() {
    let host = Host::new();
    if !needs_world(&host) {
        return;
    }
    let name = format!("obuild-test-{}", std::process::id());
    let all = format!("/tmp/{name} /var/tmp/{name} /dev/shm/{name} $TMPDIR/{name}");
    let (outcome, text) = host.fixture.sh(&format!("touch {all} && ls {all} | wc -l"));
    assert_eq!((outcome, text.trim()), (Outcome::Exited(0), "4"));
    for dir in ["/tmp", "/var/tmp", "/dev/shm"] {
        assert!(!Path::new(dir).join(&name).exists(), "{dir}");
    }
    let text = host.sh("ls -AR /tmp /var/tmp /dev/shm $TMPDIR | grep obuild-test");
    assert_eq!(text, "", "the next step sees something");
}

#[test]
fn secrets_of_another_slot_are_not_read() {
    if !needs_root() {
        return;
    }
    let user = TestUser::several(2);
    if !user.sandbox().abilities().unwrap().world {
        return eprintln!("SKIP: there is but one slot");
    }
    let host = Host::with(user);
    let mut keeps =
        step("cp $OBUILDER_SECRETS_DIR/token kept; chmod 644 kept; echo $$; sleep 1000");
    let value = "a precious token".into();
    keeps.secrets = vec![SecretMount { id: "s".into(), target: "token".into(), value }];
    let home = host.user.config.home.display().to_string();
    let spy = |pid: &str| {
        format!(
            "cat $HOME.secrets/token $HOME/token $HOME/kept {home}.slots/*/home/kept {home}.slots/*/*/token \
             /proc/{pid}/root{home}.secrets/token /proc/{pid}/cwd/kept /proc/{pid}/environ; kill {pid} && echo killed; \
             for uid in {} {}; do cat {home}.slots/$uid/home/kept; done; grep -ral precious /dev/shm /tmp /run",
            host.user.uid(),
            host.user.uid() + 1
        )
    };
    let text = beside(&host, &keeps, |pid| host.sh(&spy(pid)));
    assert!(!text.contains("precious") && !text.contains("killed"), "{text}");
    assert!(text.contains("No such file"), "{text}");
}

/// Runs `first` until it has printed a line, hands that over, and then cancels the step.
fn beside<T>(host: &Host, first: &Step, meanwhile: impl FnOnce(&str) -> T) -> T {
    let tree = host.fixture.tree("first");
    let log = BuildLog::create(&tree.with_file_name("log")).unwrap();
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let running =
            scope.spawn(|| host.fixture.sandbox.run(first, &tree, &log, &cancel, &|_| {}));
        let (mut line, mut byte, mut reader) = (String::new(), [0], log.reader());
        while reader.read(&mut byte, &Cancel::new()).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0].into());
        }
        let done = meanwhile(&line);
        cancel.cancel();
        assert_eq!(running.join().unwrap().unwrap(), Outcome::Cancelled);
        done
    })
}

/// Each line is one thing that builds do; it prints its name if it worked.
const ORDINARY: &str = r#"
try() { name=$1; shift; if ! "$@" >out 2>&1; then echo "$name: $(cat out)"; fi; }
try shell sh -c 'a=$(echo x | cat); test "$a" = x; pwd -P; cd /usr/lib && ls >/dev/null'
try devices sh -c 'echo x >/dev/null; head -c 4 /dev/zero /dev/urandom /dev/random >/dev/null; echo x | cat /dev/stdin >/dev/stderr'
try modes sh -c 'touch m; chmod a+x m; chmod 755 m; chmod 1777 .; chmod 755 .; install -d -m 755 i; install -m 644 m i/m'
try links sh -c 'mkdir -p l/a l/b; touch l/a/x; ln l/a/x l/b/y; ln -s ../a/x l/b/z; mv l/a/x l/b/x; mv l/a l/b/a; rm -r l'
try fifo sh -c 'mkfifo f; cat f & echo x >f; wait'
try temporary sh -c 'echo x >$(mktemp); echo x >$(mktemp -p /dev/shm); rm -r $(mktemp -d)'
try heredoc sh -c 'cat <<X
x
X'
try tar sh -c 'mkdir t; echo x >t/x; tar cf t.tar t; tar xf t.tar -C /tmp/ --one-top-level=obuild-test-$$; rm -r /tmp/obuild-test-$$; tar xpf t.tar'
try processes sh -c 'sleep 10 & kill $!; kill -0 $$; ps -o pid= -p $$; cat /proc/self/status /proc/$$/environ >/dev/null'
try names sh -c 'getent passwd root; getent hosts localhost || grep localhost /etc/hosts'
try perl perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un("s")) or die $!; listen(S, 1) or die $!;
  socket(C, AF_UNIX, SOCK_STREAM, 0); connect(C, sockaddr_un("s")) or die $!;
  socket(A, AF_UNIX, SOCK_STREAM, 0); bind(A, pack("Sa*", 1, "\0obuild-test-own-$$")) or die $!; listen(A, 1);
  socket(C, AF_UNIX, SOCK_STREAM, 0); connect(C, pack("Sa*", 1, "\0obuild-test-own-$$")) or die $!;
  socket(T, AF_INET, SOCK_STREAM, 0); bind(T, sockaddr_in(0, INADDR_LOOPBACK)) or die $!; listen(T, 1);
  socket(C, AF_INET, SOCK_STREAM, 0); connect(C, getsockname(T)) or die $!;
  if (!($pid = fork)) { sleep 10 } kill "TERM", $pid or die $!; waitpid $pid, 0;'
if command -v cc >/dev/null; then
  printf 'int main(void) { return 0; }' >c.c
  try cc sh -c 'cc -pipe -o c c.c && ./c && cc -o c2 c.c && ./c2'
fi
if command -v make >/dev/null; then
  printf 'all: a b c\na b c: ; @+$(MAKE) -s x\nx: ; @echo made >$@\n.PHONY: all a b c\n' >Makefile
  try make make -j4
fi
if command -v git >/dev/null; then
  try git sh -c 'git init -q g && cd g && echo x >x && git add x && git -c user.name=a -c user.email=a@b commit -qm x &&
    git clone -q . ../h && git clone -q --no-local . ../j && git gc -q && git status'
fi
if command -v script >/dev/null; then
  try pty script -qec 'tty && test -t 0 && echo x >/dev/tty' typescript
fi
if command -v strace >/dev/null; then
  try ptrace strace -f -o trace sh -c 'true; true'
fi
echo done
"#;

#[test]
fn ordinary_builds_work() {
    let host = Host::new();
    let (outcome, text) = host.run(&step(ORDINARY), &host.fixture.tree("tree"));
    assert_eq!((outcome, text.as_str()), (Outcome::Exited(0), "done\n"));
}

#[test]
fn names_are_looked_up_with_the_network() {
    if !needs_root() {
        return;
    }
    let host = Host::new();
    // As `/run/systemd/resolve` is what `/etc/resolv.conf` often leads to.
    let dir = tempfile::tempdir_in("/run").unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let file = dir.path().join("resolv.conf");
    fs::write(&file, "nameserver").unwrap();
    let mut open = step(&format!("cat {}; cat /etc/resolv.conf > /dev/null", file.display()));
    open.network = vec!["host".into()];
    let (_, text) = host.run(&open, &host.fixture.tree("tree"));
    assert!(text.starts_with("nameserver"), "{text}");
}

/// Runs the suite again, but for the tests that do so.
fn again(mut with: Command, program: &Path) {
    with.arg("--").arg(program).args(["--skip", "all_this_holds"]);
    let output = with.output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}", text.concat());
    assert!(text[0].contains(" passed"), "{text:?}");
}

#[test]
fn all_this_holds_without_namespaces() {
    if !needs_root() {
        return;
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]);
    again(command, &std::env::current_exe().unwrap());
}

#[test]
fn all_this_holds_for_an_ordinary_user() {
    if !needs_root() {
        return;
    }
    let nobody = 65534;
    let [place, home] = ["/var/lib", "/home"].map(|dir| tempfile::tempdir_in(dir).unwrap());
    for dir in [&place, &home] {
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(dir.path(), Some(nobody), None).unwrap();
    }
    let key = home.path().join("key");
    fs::write(&key, "precious").unwrap();
    // The test's own program may be out of reach. By another process: a test that forks meanwhile would keep it open, and busy.
    let copy = place.path().join("denials");
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status();
    assert!(copied.unwrap().success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).current_dir(place.path());
    command.env(PLACES, format!("{}:{}", place.path().display(), key.display()));
    again(command, &copy);
}

#[test]
fn siblings_of_what_is_hidden_are_there() {
    let host = Host::new();
    let text = host.sh(&format!("cat {}", host.path("file")));
    assert_eq!(text, "precious");
}
