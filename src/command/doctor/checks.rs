//! What `obuild doctor` looks at.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{User, geteuid};
use rustix::fs::statvfs;

use super::Check;
use crate::error::CommandError;
use crate::settings::{Key, Settings};
use crate::{session, units};

/// Below this much free space a build is likely to fail.
const LOW_SPACE: u64 = 2 << 30;
/// Below this many free inodes likewise.
const LOW_INODES: u64 = 20_000;

/// Every check, in the order in which a person would ask.
pub(super) fn all(settings: &Settings) -> Result<Vec<Check>, CommandError> {
    let store = settings.store()?.path;
    let home = settings.home();
    let users = settings.users()?;
    let root = geteuid().is_root();
    let mut checks = vec![isolation(root)];
    if root {
        checks.extend(users.iter().map(|user| build_user(user.uid, &user.name)));
        checks.push(reachable(&home));
        checks.extend(users.iter().map(|user| leftovers(user.uid)));
        checks.push(network(settings));
    }
    checks.extend([shell(), store_dir(settings, &store), one_volume(&store, &home)]);
    checks.extend(space(&store));
    checks.push(images(settings));
    Ok(checks)
}

fn isolation(root: bool) -> Check {
    match root {
        true => Check::ok("isolation", "steps run as a build user of their own"),
        false => Check::weak(
            "isolation",
            "steps run as the calling user and can touch whatever it can",
            "run obuild as root to give steps a user of their own",
        ),
    }
}

fn network(settings: &Settings) -> Check {
    const NAME: &str = "network";
    match session::build_user_sandbox(settings) {
        Ok(sandbox) if sandbox.abilities().network => {
            Check::ok(NAME, "steps without `(network host)` have loopback alone")
        }
        Ok(_) => Check::weak(
            NAME,
            "steps without `(network host)` reach the network all the same",
            "network namespaces are refused to root here; a container may have to be given more rights",
        ),
        Err(error) => Check::broken(NAME, error.to_string(), "mend the settings named above"),
    }
}

fn build_user(uid: u32, name: &str) -> Check {
    const NAME: &str = "build user";
    let by_name = User::from_name(name).ok().flatten();
    let by_uid = User::from_uid(uid.into()).ok().flatten();
    match (by_name, by_uid) {
        (Some(user), _) if user.uid.as_raw() == uid => {
            Check::ok(NAME, format!("`{name}` ({uid}) is there"))
        }
        (Some(user), _) => Check::broken(
            NAME,
            format!("`{name}` has the number {}, not {uid}", user.uid),
            "choose another --uid or --user-prefix",
        ),
        (None, Some(user)) => Check::broken(
            NAME,
            format!("the number {uid} belongs to `{}`", user.name),
            "choose another --uid",
        ),
        (None, None) => Check::ok(NAME, format!("`{name}` ({uid}) is made by the first step")),
    }
}

/// The build user must be able to walk to its home.
fn reachable(home: &Path) -> Check {
    const NAME: &str = "path to home";
    let closed = home
        .ancestors()
        .skip(1)
        .find(|dir| dir.metadata().is_ok_and(|metadata| metadata.mode() & 0o001 == 0));
    match closed {
        None => Check::ok(NAME, format!("a build user can reach `{}`", home.display())),
        Some(dir) => Check::broken(
            NAME,
            format!("a build user cannot pass through `{}`", dir.display()),
            format!("chmod o+x {}, or choose another --home", dir.display()),
        ),
    }
}

/// Processes of the build user while no step runs should not be.
fn leftovers(uid: u32) -> Check {
    const NAME: &str = "leftovers";
    let listed = Command::new("ps").args(["-A", "-o", "uid=,stat=,pid=,comm="]).output();
    let Ok(output) = listed else {
        return Check::weak(NAME, "`ps` cannot be run", "install procps");
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let of_user = |line: &&str| {
        let mut words = line.split_whitespace();
        // The dead that nobody has buried yet do no harm.
        words.next() == Some(&uid.to_string()) && !words.next().unwrap_or_default().starts_with('Z')
    };
    let found: Vec<_> = text.lines().filter(of_user).map(str::trim).collect();
    match found.len() {
        0 => Check::ok(NAME, "no process of the build user is running"),
        count => Check::weak(
            NAME,
            format!("{count} processes of the build user are running"),
            format!("unless a build runs now, end them with `pkill -KILL -u {uid}`"),
        ),
    }
}

fn shell() -> Check {
    let found = Command::new("/usr/bin/env").args(["bash", "-c", "exit 0"]).output();
    match found {
        Ok(output) if output.status.success() => Check::ok("shell", "`/usr/bin/env bash` works"),
        _ => Check::broken(
            "shell",
            "`/usr/bin/env bash`, the shell of specs that name no other, does not work",
            "install bash, or give specs a (shell …)",
        ),
    }
}

fn store_dir(settings: &Settings, path: &Path) -> Check {
    const NAME: &str = "store";
    if let Ok(metadata) = path.metadata()
        && !metadata.is_dir()
    {
        let text = format!("`{}` is no directory", path.display());
        return Check::broken(NAME, text, "choose another --store");
    }
    let (_, source) = settings.of(Key::Store);
    match path.exists() {
        false => {
            Check::ok(NAME, format!("`{}` ({source}) is made by the first build", path.display()))
        }
        true => match session::describe_store(settings) {
            Ok(text) => Check::ok(NAME, format!("{text} ({source})")),
            Err(error) => {
                let (finding, hint) = error.brief();
                Check::broken(NAME, finding, hint.unwrap_or("choose another --store"))
            }
        },
    }
}

/// A tree takes the home's place by a rename, which never leaves a volume.
fn one_volume(store: &Path, home: &Path) -> Check {
    const NAME: &str = "one volume";
    let device = |path: &Path| existing(path).metadata().map(|metadata| metadata.dev());
    match (device(store), device(home)) {
        (Ok(a), Ok(b)) if a == b => {
            Check::ok(NAME, format!("store and home `{}` are on one volume", home.display()))
        }
        (Ok(_), Ok(_)) => Check::broken(
            NAME,
            format!("the home `{}` is on another volume than the store", home.display()),
            "choose a --home on the store's volume",
        ),
        (Err(error), _) | (_, Err(error)) => unknown(NAME, &error),
    }
}

fn space(store: &Path) -> [Check; 2] {
    let usage = match statvfs(existing(store)) {
        Ok(usage) => usage,
        Err(error) => {
            return ["free space", "free inodes"].map(|name| unknown(name, &error.into()));
        }
    };
    let free = usage.f_bavail * usage.f_frsize;
    let text = format!("{} free on the store's volume", units::size(free));
    let hint = "make room: `obuild gc --min-free SIZE`";
    let bytes = match free {
        LOW_SPACE.. => Check::ok("free space", text),
        _ => Check::weak("free space", text, hint),
    };
    // Filesystems that make inodes as they go say 0 of 0.
    let (all, left) = (usage.f_files, usage.f_favail);
    let inodes = match (all, left) {
        (0, _) => Check::ok("free inodes", "the filesystem has no limit"),
        (_, LOW_INODES..) => Check::ok("free inodes", format!("{left} free")),
        _ => Check::weak("free inodes", format!("only {left} free"), hint),
    };
    [bytes, inodes]
}

fn images(settings: &Settings) -> Check {
    let dirs = settings.images();
    let (there, missing): (Vec<PathBuf>, Vec<PathBuf>) =
        dirs.into_iter().partition(|dir| dir.is_dir());
    let names = |dirs: &[PathBuf]| {
        dirs.iter().map(|dir| format!("`{}`", dir.display())).collect::<Vec<_>>().join(", ")
    };
    match there.is_empty() {
        false => {
            Check::ok("base images", format!("`scratch`, and the directories in {}", names(&there)))
        }
        true => {
            Check::ok("base images", format!("`scratch` only; {} is not there", names(&missing)))
        }
    }
}

fn unknown(name: &'static str, error: &io::Error) -> Check {
    Check::weak(name, format!("cannot be told: {error}"), "look at the store's path")
}

/// The nearest directory on the way to `path` that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"))
}
