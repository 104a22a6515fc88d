//! Stands in for the command `zfs` where there is no ZFS: keeps a pool in a directory, and ZFS's rules. For tests alone.
//!
//! `zfs-stand-in DIR make POOL MOUNTPOINT` makes the pool; after that `zfs-stand-in DIR COMMAND…` is `zfs COMMAND…`, and
//! `zfs-stand-in DIR where SNAPSHOT` says in what directory in DIR a snapshot's files are.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

mod state;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use state::{Dataset, Done, NONE, Pool, Snapshot};
use tree_copy::{Options, copy_tree, remove_tree};

/// Options and what follows them.
struct Line {
    flags: Vec<char>,
    properties: Vec<(String, String)>,
    columns: Vec<String>,
    kinds: Vec<String>,
    depth: usize,
    names: Vec<String>,
}

impl Line {
    fn read(mut words: impl Iterator<Item = String>, command: &str) -> Done<Self> {
        let mut line = Self {
            flags: vec![],
            properties: vec![],
            columns: vec![],
            kinds: vec![],
            depth: 0,
            names: vec![],
        };
        let list = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or("missing argument for option");
            match word.as_str() {
                "-o" if command == "list" => line.columns = list(value()?),
                // What is mounted here is moved there, and can be written to all the same.
                "-o" if command == "mount" => drop(value()?),
                "-o" => line.properties.push(property(&value()?)?),
                "-t" => line.kinds = list(value()?),
                "-d" if command == "list" => {
                    line.depth = value()?.parse().map_err(|_| "bad depth")?
                }
                _ if word.starts_with('-') => {
                    if word.contains('r') {
                        line.depth = usize::MAX;
                    }
                    line.flags.extend(word.chars().skip(1));
                }
                _ => line.names.push(word),
            }
        }
        Ok(line)
    }

    fn has(&self, flag: char) -> bool {
        self.flags.contains(&flag)
    }

    fn name(&self, at: usize) -> Done<&str> {
        self.names.get(at).map(String::as_str).ok_or_else(|| "missing argument".to_owned())
    }
}

fn property(text: &str) -> Done<(String, String)> {
    let (name, value) = text.split_once('=').ok_or("missing '=' for property=value argument")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn io<T>(done: Result<T, impl std::fmt::Display>) -> Done<T> {
    done.map_err(|error| error.to_string())
}

/// Whether a new dataset or snapshot may have this name.
fn check_new(pool: &Pool, name: &str) -> Done {
    let refuse = |why: &str| Err(format!("cannot create '{name}': {why}"));
    if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_.:/@ ".contains(*c)))
    {
        return refuse(&format!("invalid character '{bad}' in name"));
    }
    let taken = match name.contains('@') {
        true => pool.snapshot(name).is_ok(),
        false => pool.get(name).is_ok(),
    };
    let parent = name.rsplit_once(['/', '@']).map(|(parent, _)| pool.get(parent).is_ok());
    match (taken, parent) {
        (true, _) => refuse("dataset already exists"),
        (_, Some(true)) => Ok(()),
        _ => refuse("parent does not exist"),
    }
}

fn create(pool: &mut Pool, line: &Line, from: Option<&str>) -> Done {
    let name = line.name(usize::from(from.is_some()))?.to_owned();
    let source = from.map(|from| pool.saved(from)).transpose()?;
    check_new(pool, &name)?;
    let value = |wanted: &str| {
        line.properties.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
    };
    let noauto = value("canmount").is_some_and(|value| value != "on");
    let number = pool.number();
    let dataset = Dataset {
        number,
        noauto,
        mountpoint: value("mountpoint"),
        origin: from.map(str::to_owned),
        ..Dataset::default()
    };
    pool.datasets.insert(name.clone(), dataset);
    match source {
        Some(source) => drop(io(copy_tree(&source, &pool.live(&name)?, &Options::default()))?),
        None => io(fs::create_dir(pool.live(&name)?))?,
    }
    if noauto || pool.mountpoint(&name) == NONE { Ok(()) } else { pool.mount(&name) }
}

fn snapshot(pool: &mut Pool, line: &Line) -> Done {
    let mut wanted = Vec::new();
    for full in &line.names {
        let (dataset, name) = full.split_once('@').ok_or("not a snapshot")?;
        let datasets = if line.has('r') { pool.below(dataset) } else { vec![dataset.to_owned()] };
        wanted.extend(datasets.into_iter().map(|dataset| (dataset, name.to_owned())));
    }
    // All or none.
    wanted.iter().try_for_each(|(dataset, name)| check_new(pool, &format!("{dataset}@{name}")))?;
    for (dataset, name) in wanted {
        let number = pool.number();
        io(copy_tree(
            &pool.live(&dataset)?,
            &pool.dir.join(number.to_string()),
            &Options::default(),
        ))?;
        pool.get_mut(&dataset)?.snapshots.push(Snapshot { name, number, deferred: false });
    }
    Ok(())
}

fn destroy(pool: &mut Pool, line: &Line) -> Done {
    let name = line.name(0)?.to_owned();
    let refuse = |why: &str| Err(format!("cannot destroy '{name}': {why}"));
    if name.contains('@') {
        pool.snapshot(&name)?;
        return match (pool.clones(&name).is_empty(), line.has('d')) {
            (true, _) => destroy_snapshot(pool, &name),
            (false, true) => mark_deferred(pool, &name),
            (false, false) => refuse("snapshot has dependent clones"),
        };
    }
    pool.get(&name)?;
    let doomed = pool.below(&name);
    let mut all = Vec::new();
    for one in &doomed {
        all.extend(pool.get(one)?.snapshots.iter().map(|found| format!("{one}@{}", found.name)));
    }
    if !line.has('r') && (doomed.len() > 1 || !all.is_empty()) {
        return refuse("filesystem has children");
    }
    if all.iter().flat_map(|full| pool.clones(full)).any(|clone| !doomed.contains(&clone)) {
        return refuse("filesystem has dependent clones");
    }
    // First the snapshots: they have gone even if something turns out to be busy then.
    for full in all {
        destroy_snapshot(pool, &full)?;
    }
    for one in doomed.iter().rev() {
        pool.hide(one)?;
    }
    for one in doomed {
        io(remove_tree(&pool.live(&one)?))?;
        let gone = pool.datasets.remove(&one).unwrap();
        let Some(origin) = gone.origin.filter(|full| pool.clones(full).is_empty()) else {
            continue;
        };
        if pool.snapshot(&origin).is_ok_and(|found| found.deferred) {
            destroy_snapshot(pool, &origin)?;
        }
    }
    Ok(())
}

fn mark_deferred(pool: &mut Pool, full: &str) -> Done {
    let (dataset, name) = full.split_once('@').unwrap();
    let snapshots = &mut pool.get_mut(dataset)?.snapshots;
    snapshots.iter_mut().filter(|one| one.name == name).for_each(|one| one.deferred = true);
    Ok(())
}

fn destroy_snapshot(pool: &mut Pool, full: &str) -> Done {
    io(remove_tree(&pool.saved(full)?))?;
    let (dataset, name) = full.split_once('@').unwrap();
    pool.get_mut(dataset)?.snapshots.retain(|one| one.name != name);
    Ok(())
}

/// Has everything that names a snapshot of `from` name it in `to` instead.
fn follow(pool: &mut Pool, from: &str, to: &str) {
    for dataset in pool.datasets.values_mut() {
        if dataset.origin.as_deref() == Some(from) {
            dataset.origin = Some(to.to_owned());
        }
    }
}

fn rename(pool: &mut Pool, line: &Line) -> Done {
    let (from, to) = (line.name(0)?.to_owned(), line.name(1)?.to_owned());
    if let Some((dataset, name)) = from.split_once('@') {
        pool.snapshot(&from)?;
        check_new(pool, &to)?;
        let new = to.split_once('@').map(|(_, new)| new.to_owned()).ok_or("not a snapshot")?;
        let snapshots = &mut pool.get_mut(dataset)?.snapshots;
        snapshots.iter_mut().filter(|one| one.name == name).for_each(|one| one.name = new.clone());
        follow(pool, &from, &to);
        return Ok(());
    }
    pool.get(&from)?;
    check_new(pool, &to)?;
    let all = pool.below(&from);
    let mut mounted = Vec::new();
    for one in all.iter().rev() {
        if pool.hide(one)? {
            mounted.push(one.replacen(&from, &to, 1));
        }
    }
    for one in all {
        let new = one.replacen(&from, &to, 1);
        let dataset = pool.datasets.remove(&one).unwrap();
        for snapshot in &dataset.snapshots {
            follow(pool, &format!("{one}@{}", snapshot.name), &format!("{new}@{}", snapshot.name));
        }
        pool.datasets.insert(new, dataset);
    }
    mounted.iter().rev().try_for_each(|one| pool.mount(one))
}

fn promote(pool: &mut Pool, line: &Line) -> Done {
    let clone = line.name(0)?.to_owned();
    let Some(full) = pool.get(&clone)?.origin.clone() else {
        return Err(format!("cannot promote '{clone}': not a cloned filesystem"));
    };
    let (parent, name) = full.split_once('@').unwrap();
    let mut old = pool.get(parent)?.clone();
    let at = old.snapshots.iter().position(|one| one.name == name).unwrap();
    let moving: Vec<_> = old.snapshots.drain(..=at).collect();
    let mut new = pool.get(&clone)?.clone();
    if let Some(taken) =
        moving.iter().find(|one| new.snapshots.iter().any(|own| own.name == one.name))
    {
        return Err(format!("cannot promote '{clone}': snapshot name '{}' conflicts", taken.name));
    }
    for one in &moving {
        follow(pool, &format!("{parent}@{}", one.name), &format!("{clone}@{}", one.name));
    }
    new.origin = old.origin.take();
    old.origin = Some(format!("{clone}@{name}"));
    new.snapshots.splice(0..0, moving);
    pool.datasets.insert(parent.to_owned(), old);
    pool.datasets.insert(clone, new);
    Ok(())
}

fn set(pool: &mut Pool, line: &Line) -> Done {
    let (name, value) = property(line.name(0)?)?;
    let dataset = line.name(1)?.to_owned();
    match (name.as_str(), value.as_str()) {
        ("mountpoint", _) => set_mountpoint(pool, &dataset, value),
        // What is mounted stays so, and what is not is not by this.
        ("canmount", "on" | "noauto") => {
            pool.get_mut(&dataset)?.noauto = value == "noauto";
            Ok(())
        }
        _ => Err(format!("cannot set property for '{dataset}': the stand-in knows no '{name}'")),
    }
}

/// What had no mount point is mounted as soon as it has one, unless it is never mounted by itself.
fn set_mountpoint(pool: &mut Pool, dataset: &str, value: String) -> Done {
    let had_none = pool.mountpoint(dataset) == NONE;
    let mounted = pool.hide(dataset)? || (had_none && !pool.get(dataset)?.noauto);
    pool.get_mut(dataset)?.mountpoint = Some(value);
    if mounted && pool.mountpoint(dataset) != NONE { pool.mount(dataset) } else { Ok(()) }
}

fn list(pool: &Pool, line: &Line) -> Done {
    let wants = |kind: &str| {
        line.kinds.iter().any(|one| one == kind) || (line.kinds.is_empty() && kind == "filesystem")
    };
    let mut result = Ok(());
    for name in &line.names {
        let found = if name.contains('@') {
            pool.snapshot(name).map(drop)
        } else {
            pool.get(name).map(drop)
        };
        if found.is_err() {
            result = found;
            continue;
        }
        if name.contains('@') {
            println!("{}", row(pool, name, line)?);
            continue;
        }
        let depth = |one: &String| one[name.len()..].matches('/').count();
        for one in pool.below(name).iter().filter(|one| depth(one) <= line.depth) {
            if wants("filesystem") {
                println!("{}", row(pool, one, line)?);
            }
            for snapshot in
                pool.get(one)?.snapshots.iter().filter(|_| wants("snapshot") && line.depth > 0)
            {
                println!("{}", row(pool, &format!("{one}@{}", snapshot.name), line)?);
            }
        }
    }
    result
}

fn row(pool: &Pool, name: &str, line: &Line) -> Done<String> {
    let dash = || "-".to_owned();
    let snapshot = pool.snapshot(name).ok();
    let dataset = pool.get(name).ok();
    let value = |column: &String| match (column.as_str(), dataset, snapshot) {
        ("name", ..) => Ok(name.to_owned()),
        ("used", Some(_), _) => pool.used(name).map(|used| used.to_string()),
        ("used", ..) => Ok("0".to_owned()),
        ("available", Some(_), _) => io(rustix::fs::statvfs(&pool.dir))
            .map(|volume| (volume.f_bavail * volume.f_frsize).to_string()),
        ("mounted", Some(found), _) => {
            Ok(if found.mounted.is_some() { "yes" } else { "no" }.to_owned())
        }
        ("mountpoint", Some(_), _) => Ok(pool.mountpoint(name)),
        ("canmount", Some(found), _) => Ok(if found.noauto { "noauto" } else { "on" }.to_owned()),
        ("origin", Some(found), _) => Ok(found.origin.clone().unwrap_or_else(dash)),
        ("clones", _, Some(_)) if pool.clones(name).is_empty() => Ok(dash()),
        ("clones", _, Some(_)) => Ok(pool.clones(name).join(",")),
        ("guid", _, Some(found)) => Ok(found.number.to_string()),
        ("defer_destroy", _, Some(found)) => {
            Ok(if found.deferred { "on" } else { "off" }.to_owned())
        }
        (
            "guid" | "clones" | "origin" | "mounted" | "mountpoint" | "canmount" | "available"
            | "defer_destroy",
            ..,
        ) => Ok(dash()),
        _ => Err(format!("bad property list: invalid property '{column}'")),
    };
    Ok(line.columns.iter().map(value).collect::<Done<Vec<_>>>()?.join("\t"))
}

fn perform(pool: &mut Pool, command: &str, line: &Line) -> Done {
    match command {
        "create" => create(pool, line, None),
        "clone" => create(pool, line, Some(line.name(0)?)),
        "snapshot" => snapshot(pool, line),
        "destroy" => destroy(pool, line),
        "rename" => rename(pool, line),
        "promote" => promote(pool, line),
        "set" => set(pool, line),
        "mount" => pool.mount(line.name(0)?),
        "unmount" => pool.unmount(line.name(0)?),
        "list" => list(pool, line),
        "where" => {
            println!("{}", pool.snapshot(line.name(0)?)?.number);
            Ok(())
        }
        _ => Err(format!("unrecognized command '{command}'")),
    }
}

fn run() -> Done {
    let mut words = std::env::args().skip(1);
    let mut next = || words.next().ok_or("usage: zfs-stand-in DIR COMMAND…");
    let (dir, command) = (next()?, next()?);
    let dir = Path::new(&dir);
    let lock = io(fs::File::create(dir.join("lock")))?;
    io(rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive))?;
    let file = dir.join("pool.json");
    if command == "make" {
        let mut pool = Pool { dir: dir.to_owned(), ..Pool::default() };
        let (name, mountpoint) = (next()?, next()?);
        io(fs::create_dir(dir.join("0")))?;
        pool.datasets
            .insert(name.clone(), Dataset { mountpoint: Some(mountpoint), ..Dataset::default() });
        pool.mount(&name)?;
        return io(fs::write(file, serde_json::to_vec(&pool).unwrap()));
    }
    let mut pool: Pool = io(serde_json::from_slice(&io(fs::read(&file))?))?;
    pool.notice_unmounts()?;
    let done = perform(&mut pool, &command, &Line::read(words, &command)?);
    if command != "list" {
        // Whatever it came to; a kill leaves the old state or the new.
        io(fs::write(dir.join("new.json"), serde_json::to_vec(&pool).unwrap()))?;
        io(fs::rename(dir.join("new.json"), file))?;
    }
    done
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::from(if text.starts_with("bad property") { 2 } else { 1 })
        }
    }
}
