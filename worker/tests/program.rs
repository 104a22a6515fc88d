//! The program with real builds, for a strict scheduler.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "../../tests/common/uid.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod uid;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Client, eventually, run, until, whole_log};
use nix::sys::signal::Signal;
use ocluster::admin::AdminClient;
use ocluster::connect::Options;
use ocluster::testing::{Scheduler, Security};
use ocluster::{Action, DockerBuild, Dockerfile, JobDescr, Secret};
use program::Place;

fn scheduler() -> Scheduler {
    Scheduler::start("p", Security::Tls)
}

/// `log` with each time replaced, which must stand before each note.
fn without_times(log: &str) -> String {
    let mut parts = log.split("\x1b[01;35m");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (time, rest) = part.split_at("2026-11-21 04:20.44".len());
        let shape = time.replace(|c: char| c.is_ascii_digit(), "0");
        assert_eq!(shape, "0000-00-00 00:00.00", "in {log}");
        text = format!("{text}\x1b[01;35mTIME{rest}");
    }
    text
}

#[test]
fn a_build_reads_as_the_originals() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let _worker = place.start(&[]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let spec = "((from scratch) (shell /bin/sh -c) (run (shell \"echo hello\")))";
        let job = client.submit(spec);
        let log = without_times(&whole_log(&job).await);
        let id = job.result().await.unwrap();
        let (heading, end) = ("\n\x1b[01;34m", "\x1b[0m\n");
        let note = "\x1b[01;2m\x1b[01;35mTIME ---> ";
        let base = log.split("saved as \"").nth(1).unwrap()[..64].to_owned();
        let expected = format!(
            "Building on w1\n{heading}(from scratch){end}{note}saved as \"{base}\"{end}\
             {heading}/: (shell /bin/sh -c){end}{heading}/: (run (shell \"echo hello\")){end}hello\n\
             {note}saved as \"{id}\"{end}Job succeeded\n"
        );
        assert_eq!(log, expected);
        let job = client.submit(spec);
        let log = without_times(&whole_log(&job).await);
        assert_eq!(
            log,
            expected
                .replace("saved as", "using")
                .replace(&format!("using \"{id}\""), &format!("using \"{id}\" from cache"))
                .replace(&format!("using \"{base}\""), &format!("using \"{base}\" from cache"))
        );
        assert_eq!(job.result().await.unwrap(), id);
        let job =
            client.submit("((from scratch) (shell /bin/sh -c) (run (shell \"echo no; exit 3\")))");
        let log = whole_log(&job).await;
        let last = "no\n\"/bin/sh\" \"-c\" \"echo no; exit 3\" failed with exit status 3\n";
        assert!(log.ends_with(last), "{log}");
        assert_eq!(job.result().await.unwrap_err().to_string(), "Build failed");
        let job = client.submit("((from scratch) (run");
        assert!(whole_log(&job).await.contains("The spec cannot be read"));
    });
    scheduler.wait_until("nothing but the worker is left", |live| {
        (live.connections, live.tickets) == (1, 0)
    });
    place.assert_clean();
    scheduler.check();
}

#[test]
fn a_build_nobody_wants_any_more_is_stopped() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let _worker = place.start(&[]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client
            .submit("((from scratch) (shell /bin/sh -c) (run (shell \"echo begun; sleep 1000\")))");
        let mut seen = String::new();
        let mut at = 0;
        while !seen.contains("begun\n") {
            let chunk = job.log(at).await.unwrap();
            at = chunk.next;
            seen.push_str(&String::from_utf8_lossy(&chunk.bytes));
        }
    });
    eventually("nothing runs", || place.processes().is_empty());
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("((from scratch))");
        assert!(whole_log(&job).await.contains("from cache"), "what was built stays");
    });
    eventually("nothing is left", || place.names("store/result-tmp").is_empty());
    scheduler.check();
}

/// A repository with one commit.
fn repository(place: &Place) -> (std::path::PathBuf, String) {
    let repository = place.path("repository");
    std::fs::create_dir(&repository).unwrap();
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@b", "-C"]).arg(&repository).args(args);
        let output = git.env("HOME", "/nowhere").env("GIT_CONFIG_NOSYSTEM", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q", "-b", "main"]);
    std::fs::write(repository.join("file"), "from git\n").unwrap();
    git(&["add", "file"]);
    git(&["commit", "-q", "-m", "one"]);
    let commit = git(&["rev-parse", "HEAD"]);
    (repository, commit)
}

#[test]
fn who_shares_a_step_keeps_its_sources_when_another_goes() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let (repository, commit) = repository(&place);
    let root = repository.display().to_string();
    let _worker = place.start(&["--git-file-root", &root]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let spec = "((from scratch) (shell /bin/sh -c) (run (shell \"echo begun; sleep 1\")) \
                    (copy (src file) (dst file)) (run (shell \"cat file\")))";
        let job = JobDescr {
            repository: format!("file://{root}"),
            commits: vec![commit],
            ..JobDescr::obuilder(spec)
        };
        let (first, second) = (client.submit_job(&job), client.submit_job(&job));
        for job in [&first, &second] {
            let mut seen = String::new();
            while !seen.contains("\nbegun\n") {
                let at = i64::try_from(seen.len()).unwrap();
                seen.push_str(&String::from_utf8_lossy(&job.log(at).await.unwrap().bytes));
            }
        }
        first.cancel().await.unwrap();
        assert_eq!(first.result().await.unwrap_err().to_string(), "Build cancelled");
        let log = whole_log(&second).await;
        assert!(log.contains("\nfrom git\n") && log.ends_with("Job succeeded\n"), "{log}");
    });
    place.assert_clean();
    scheduler.check();
}

#[test]
fn sources_come_from_git_and_secrets_with_the_job() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let (repository, commit) = repository(&place);
    let root = repository.display().to_string();
    let _worker = place.start(&["--git-file-root", &root]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let spec = "((from scratch) (shell /bin/sh -c) (copy (src file) (dst file)) \
                    (run (secrets (token (target /run/secrets/token))) \
                     (shell \"cat file; wc -c <$OBUILDER_SECRETS_DIR/token; cat $OBUILDER_SECRETS_DIR/token\")))";
        let job = JobDescr {
            repository: format!("file://{root}"),
            commits: vec![commit.clone()],
            secrets: vec![Secret { id: "token".into(), value: b"hunter2222".to_vec() }],
            ..JobDescr::obuilder(spec)
        };
        let sent = client.submit_job(&job);
        let log = whole_log(&sent).await;
        assert!(log.contains("from git\n10\n***"), "{log}");
        assert!(!log.contains("hunter2222"));
        sent.result().await.unwrap();
        let wrong = |repository: &str, commit: &str| JobDescr {
            repository: repository.into(),
            commits: vec![commit.into()],
            ..JobDescr::obuilder(spec)
        };
        let hostile = [
            wrong("file:///etc", &commit),
            wrong("--upload-pack=touch /tmp/x", &commit),
            wrong("ext::sh -c touch% /tmp/x", &commit),
            wrong(&format!("file://{root}"), "--output=/tmp/x"),
            wrong(&format!("file://{root}"), "HEAD"),
            wrong(&format!("file://{root}"), &"0".repeat(40)),
        ];
        for job in hostile {
            let sent = client.submit_job(&job);
            assert_eq!(sent.result().await.unwrap_err().to_string(), "Build failed", "{job:?}");
        }
    });
    place.assert_clean();
    scheduler.check();
}

#[test]
fn jobs_of_other_kinds_fail_with_a_reason() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let empty = place.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let mut command = place.command(&[]);
    let mut worker =
        command.env("PATH", &empty).stderr(std::process::Stdio::null()).spawn().unwrap();
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let docker = DockerBuild {
            dockerfile: Dockerfile::Contents(b"FROM x".to_vec()),
            ..DockerBuild::default()
        };
        for (action, why) in [
            (
                Action::Docker(docker),
                "This worker cannot build Dockerfiles: there is no `docker` on it",
            ),
            (Action::Custom { kind: "day10".into() }, "Unsupported custom job"),
        ] {
            let job = client.submit_job(&JobDescr { action, ..JobDescr::obuilder("") });
            assert_eq!(whole_log(&job).await, format!("Building on w1\n{why}\n"));
            assert_eq!(job.result().await.unwrap_err().to_string(), "Build failed");
        }
    });
    worker.kill().unwrap();
    worker.wait().unwrap();
    scheduler.check();
}

#[test]
fn the_first_signal_drains_and_the_second_stops() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let mut worker = place.start(&[]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("((from scratch) (shell /bin/sh -c) (run (shell \"sleep 1000\")))");
        until("it runs", || !place.processes().is_empty() || !nix::unistd::geteuid().is_root())
            .await;
        assert!(!job.log(0).await.unwrap().bytes.is_empty());
        worker.signal(Signal::SIGTERM);
        until("it wants no jobs", || scheduler.active_workers().is_empty()).await;
        assert!(!worker.has_ended());
        worker.signal(Signal::SIGTERM);
        assert_eq!(job.result().await.unwrap_err().to_string(), "Build cancelled");
    });
    assert_eq!(worker.ended().code(), Some(0));
    place.assert_clean();
    scheduler.check();
}

#[test]
fn after_an_update_the_program_asks_to_be_started_again() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let mut worker = place.start(&[]);
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    run(async {
        let session = ocluster::connect(scheduler.admin(), &Options::default()).await.unwrap();
        AdminClient::of(&session).pool("p").worker("w1").self_update().await.unwrap();
    });
    assert_eq!(worker.ended().code(), Some(1));
    let _again = place.start(&[]);
    scheduler.wait_until("it is back", |live| live.registrations == 2);
    scheduler.check();
}

#[test]
fn a_killed_worker_leaves_nothing_that_the_next_does_not_remove() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let mut worker = place.start(&[]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let spec = "((from scratch) (shell /bin/sh -c) (run (shell \"echo on; sleep 1000\")))";
        let job = client.submit(spec);
        let mut at = 0;
        let mut seen = String::new();
        while !seen.contains("on\n") || !seen.contains("run (shell") {
            let chunk = job.log(at).await.unwrap();
            at = chunk.next;
            seen.push_str(&String::from_utf8_lossy(&chunk.bytes));
        }
        worker.signal(Signal::SIGKILL);
        assert!(job.result().await.is_err());
    });
    worker.ended();
    let _again = place.start(&[]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("((from scratch) (shell /bin/sh -c) (run (shell \"echo again\")))");
        assert!(whole_log(&job).await.contains("again\n"));
        job.result().await.unwrap();
    });
    eventually("nothing is left", || place.processes().is_empty());
    place.assert_clean();
    scheduler.check();
}

#[test]
fn one_state_directory_serves_one_worker() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let _first = place.start(&[]);
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    let second = place.command(&[]).output().unwrap();
    assert_eq!(second.status.code(), Some(3));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another obuild-worker is using it"), "{said}");
    scheduler.check();
}

#[test]
fn a_check_says_what_works_and_what_fails() {
    let mut scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let check_with = |cap: &str, args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_obuild-worker"))
            .arg("check")
            .arg(place.path(cap))
            .args(args)
            .output();
        let output = output.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let check = |cap: &str| check_with(cap, &[]);
    let (code, out, err) = check("pool.cap");
    assert_eq!((code, &*err), (Some(0), ""));
    assert_eq!(out.lines().filter(|line| line.starts_with("ok: ")).count(), 3, "{out}");
    let expect = |what: &str| check_with("pool.cap", &["--name", "w1", "--expect", what]);
    let codes = |expected: [i32; 3]| {
        let said = ["absent", "present", "any"].map(|what| {
            let said = expect(what);
            scheduler.wait_until("it has gone", |live| {
                live.connections == usize::from(expected[0] != 0)
            });
            said
        });
        assert_eq!(said.each_ref().map(|said| said.0.unwrap()), expected, "{said:?}");
    };
    codes([0, 3, 0]);
    let mut worker = place.start(&[]);
    eventually("it is there", || scheduler.active_workers() == ["w1"]);
    codes([3, 0, 0]);
    let (_, _, err) = expect("absent");
    assert!(err.contains("does not register `w1`: Worker already registered!"), "{err}");
    worker.signal(Signal::SIGTERM);
    worker.ended();
    std::fs::write(place.path("bad.cap"), "capnp://nonsense").unwrap();
    let (code, _, err) = check("bad.cap");
    assert_eq!(code, Some(2));
    assert!(err.contains("bad.cap` holds no capability"), "{err}");
    scheduler.check();
    scheduler.stop();
    let (code, out, err) = check("pool.cap");
    assert_eq!(code, Some(3));
    assert_eq!(out.lines().count(), 1);
    assert!(err.contains("failed to connect to `127.0.0.1:"), "{err}");
}

#[test]
fn a_wrong_command_line_says_so_at_once() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let said = |args: &[&str]| {
        let output = place.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said(&["--job-timeout", "soon"]).contains("`soon` is not a time"));
    assert!(said(&["--isolation", "none"]).contains("neither full nor users"));
    assert!(said(&["--no-such-option"]).contains("--no-such-option"));
    assert_eq!(scheduler.live().registrations, 0);
}

#[test]
fn the_worker_shows_its_metrics() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _worker = place.start(&["--metrics-listen", &free.to_string()]);
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    run(async {
        // The scheduler knows of it a moment before it hears so itself.
        let healthy = async || {
            let page = obuild_worker::http::get(&format!("http://{free}/healthz")).await;
            page.is_ok_and(|page| page.body == "ok\n")
        };
        while !healthy().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let page = obuild_worker::http::get(&format!("http://{free}/metrics")).await.unwrap();
        assert!(page.body.contains("obuild_worker_registered 1"));
    });
    scheduler.check();
}

#[test]
fn room_is_made_when_there_is_too_little() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Never is a whole volume free.
    let args = ["--metrics-listen", &free.to_string(), "--obuilder-prune-threshold", "100"];
    let _worker = place.start(&args);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit("((from scratch) (shell /bin/sh -c) (run (shell \"echo one\")))");
        job.result().await.unwrap();
        let pruned = async || {
            let page = obuild_worker::http::get(&format!("http://{free}/metrics")).await;
            page.is_ok_and(|page| page.body.contains("obuild_worker_prunes_total 1\n"))
        };
        while !pruned().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    scheduler.check();
}

#[test]
fn a_worker_that_cannot_build_takes_no_jobs_until_it_can() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!(
            "SKIP: a worker that becomes unhealthy: only root gives steps a home that breaks"
        );
        return;
    }
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let _worker = place.start(&["--obuilder-healthcheck", "0.05"]);
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    // A store without a place for results cannot take any.
    let (dir, away) = (place.path("store/result-tmp"), place.path("away"));
    eventually("results are made there", || dir.exists());
    std::fs::rename(&dir, &away).unwrap();
    std::fs::write(&dir, "").unwrap();
    eventually("it wants no jobs", || scheduler.active_workers().is_empty());
    std::fs::remove_file(&dir).unwrap();
    std::fs::rename(&away, &dir).unwrap();
    eventually("it wants jobs again", || scheduler.active_workers() == ["w1"]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        client.submit("((from scratch))").result().await.unwrap();
    });
    scheduler.check();
}

#[test]
fn only_a_machine_that_can_build_is_registered_when_that_is_asked_for() {
    let obuild = Path::new(env!("CARGO_BIN_EXE_obuild-worker")).with_file_name("obuild");
    if !obuild.exists() {
        eprintln!("SKIP: the doctor's gate: `obuild` is not built beside `obuild-worker`");
        return;
    }
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let mut worker = place.start(&["--require-healthy"]);
    scheduler.wait_until("it is there", |live| live.registrations == 1);
    worker.signal(Signal::SIGKILL);
    worker.ended();
    // A home on another volume than the store keeps builds from running.
    let mut worker = place.start(&["--require-healthy", "--home", "/proc/obuild-home"]);
    assert_eq!(worker.ended().code(), Some(3), "{}", worker.said());
    assert!(worker.said().contains("error: "), "{}", worker.said());
    assert_eq!(scheduler.live().registrations, 1);
    scheduler.check();
}

#[test]
fn a_step_inherits_nothing_that_is_open_in_the_worker() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let _worker = place.start(&[]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit(
            "((from scratch) (shell /bin/sh -c) (run (shell \"cd /proc/self/fd && echo open *\")))",
        );
        let log = whole_log(&job).await;
        let line = log.lines().find(|line| line.starts_with("open ")).unwrap().to_owned();
        // The three that everybody has; a shell may hold one for itself.
        assert!(line.split(' ').count() <= 5, "{line}");
    });
    scheduler.check();
}

#[test]
fn hostile_jobs_do_not_harm_the_worker() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let _worker = place.start(&["--max-log-size", "100KiB", "--job-timeout", "60s"]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let deep = "(".repeat(100_000);
        let long = format!("((from scratch) (run (shell \"{}\")))", "x".repeat(1 << 20));
        for spec in ["", ")", &deep, &long, "((from /etc))", "((from ../../x))", "((from -x))"] {
            let job = client.submit(spec);
            let shown: String = spec.chars().take(40).collect();
            assert_eq!(job.result().await.unwrap_err().to_string(), "Build failed", "{shown}");
        }
        nix::unistd::mkfifo(&place.path("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        for image in ["docker-archive", "oci"] {
            let job = client.submit(&format!("((from {image}:{}))", place.path("pipe").display()));
            let log = whole_log(&job).await;
            assert!(log.contains("is refused") && log.contains("--image-file-root"), "{log}");
        }
        let secret = |id: &str, value: &[u8]| Secret { id: id.into(), value: value.to_vec() };
        let many: Vec<_> = (0..101).map(|number| secret(&number.to_string(), b"x")).collect();
        for secrets in [many, vec![secret("large", &vec![b'x'; 2 << 20])]] {
            let job =
                client.submit_job(&JobDescr { secrets, ..JobDescr::obuilder("((from scratch))") });
            assert!(whole_log(&job).await.contains("too many secrets, or too large"));
        }
        let commits = vec!["0".repeat(40); 999];
        let job = client.submit_job(&JobDescr {
            commits,
            repository: "https://127.0.0.1:1/x.git".into(),
            ..JobDescr::obuilder("((from scratch))")
        });
        assert!(job.result().await.is_err());
        let unknown = JobDescr { action: Action::Unknown(77), ..JobDescr::obuilder("") };
        scheduler.submit(&unknown);
        let flood = "((from scratch) (shell /bin/sh -c) (run (shell \"yes | head -c 10000000\")))";
        let job = client.submit(flood);
        let log = whole_log(&job).await;
        assert!(
            log.len() < 110_000 && log.contains("the log has reached its limit"),
            "{}",
            log.len()
        );
        assert!(log.ends_with("Job succeeded\n"));
        let kept = place.names("store/result").into_iter().map(|id| {
            let log = place.path(&format!("store/result/{id}/log"));
            std::fs::metadata(log).map_or(0, |metadata| metadata.len())
        });
        let longest = kept.max().unwrap();
        assert!((100_000..110_000).contains(&longest), "the store's log has {longest} bytes");
        // It still works.
        client.submit("((from scratch))").result().await.unwrap();
    });
    place.assert_clean();
    scheduler.check();
}

#[test]
fn steps_see_the_homes_local_where_homebrew_lives() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: what steps see at /usr/local: only root shows it to them");
        return;
    }
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let _worker = place.start(&[]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let (brew, see) =
            ("mkdir -p ~/local/bin; echo brewed > ~/local/bin/it", "cat /usr/local/bin/it");
        let run = |shell: &str| format!("(run (shell \"{shell}\"))");
        let spec = format!("((from scratch) (shell /bin/sh -c) {} {})", run(brew), run(see));
        let job = client.submit(&spec);
        let log = whole_log(&job).await;
        assert!(log.contains("\nbrewed\n") && log.ends_with("Job succeeded\n"), "{log}");
    });
    scheduler.check();
}

#[test]
fn steps_have_limits() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let _worker = place.start(&["--max-file-size", "64KiB", "--timeout", "1m"]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        for (bytes, ends) in [(1000, "Job succeeded\n"), (100_000, "")] {
            let shell = format!("head -c {bytes} /dev/zero > x");
            let spec = format!("((from scratch) (shell /bin/sh -c) (run (shell \"{shell}\")))");
            let job = client.submit(&spec);
            let log = whole_log(&job).await;
            assert_eq!(log.ends_with("Job succeeded\n"), !ends.is_empty(), "{log}");
        }
    });
    place.assert_clean();
    scheduler.check();
}

#[test]
fn images_that_no_directory_has_are_looked_for_in_registries() {
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let _worker = place.start(&[]);
    // Registries of this machine are spoken to without TLS.
    let registry = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = registry.local_addr().unwrap().port();
    let asked = one_request(registry);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let job = client.submit(&format!("((from 127.0.0.1:{port}/a/b:c))"));
        until("the registry is asked", || asked.is_finished()).await;
        job.cancel().await.unwrap();
        assert!(job.result().await.is_err());
    });
    assert!(asked.join().unwrap().contains(" /v2/"));
    scheduler.check();
}

#[test]
fn repositories_are_reached_by_the_proxy_of_the_environment() {
    let scheduler = scheduler();
    for variable in ["http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        let place = Place::new(&scheduler, 1);
        let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", proxy.local_addr().unwrap());
        let asked = one_request(proxy);
        let mut worker = place.start_with(&[], &[(variable, &url)]);
        let scheme = if variable == "HTTPS_PROXY" { "https" } else { "http" };
        run(async {
            let client = Client::new(&scheduler, "p").await;
            let job = client.submit_job(&JobDescr {
                repository: format!("{scheme}://repository.invalid/r"),
                commits: vec!["1".repeat(40)],
                ..JobDescr::obuilder("((from scratch))")
            });
            until("the proxy is asked", || asked.is_finished()).await;
            assert!(job.result().await.is_err());
        });
        let request = asked.join().unwrap();
        assert!(request.contains("repository.invalid"), "{variable}: {request}");
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.ended().code(), Some(0));
    }
    scheduler.check();
}

/// Takes one request, answers nothing, and gives what was asked.
fn one_request(registry: std::net::TcpListener) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut stream, _) = registry.accept().unwrap();
        let mut buffer = [0; 1024];
        let count = std::io::Read::read(&mut stream, &mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    })
}

#[test]
fn dockerfiles_are_built_by_an_installed_docker() {
    let there =
        Command::new("docker").arg("info").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("SKIP: a Dockerfile built by docker: there is no docker daemon here");
        return;
    }
    let scheduler = scheduler();
    let place = Place::new(&scheduler, 1);
    let _worker = place.start(&[]);
    run(async {
        let client = Client::new(&scheduler, "p").await;
        let docker = |contents: &[u8], push_target: &str| {
            let dockerfile = Dockerfile::Contents(contents.to_vec());
            let push_target = push_target.into();
            let build = DockerBuild { dockerfile, push_target, ..DockerBuild::default() };
            JobDescr { action: Action::Docker(build), ..JobDescr::obuilder("") }
        };
        let job = client.submit_job(&docker(b"FROM scratch\nLABEL a=b\n", ""));
        let log = whole_log(&job).await;
        assert_eq!(job.result().await.as_deref(), Ok(""), "{log}");
        let job = client.submit_job(&docker(b"FROM nonsense nonsense\n", ""));
        assert!(whole_log(&job).await.ends_with("docker-build failed with exit-code 1\n"));
        let job = client.submit_job(&docker(b"FROM scratch\nLABEL a=b\n", "o/r:t"));
        let last =
            "To allow pushing to this repository, start the worker with --allow-push \"o/r\"\n";
        assert!(whole_log(&job).await.ends_with(last));
    });
    scheduler.check();
}
