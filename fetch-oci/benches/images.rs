//! Pulling and unpacking, against the tools that people have: `cargo bench -p fetch-oci`.
//!
//! Two bounds are said with what was found: pulling and unpacking takes at most 1.2 of what `skopeo copy` and `umoci unpack` take,
//! and unpacking at most 1.1 of what `tar xz` takes for the same bytes.
//!
//! One image of three layers is made of this machine's own files, about 200 MB compressed. Each way is tried in turn, so that
//! whatever else the machine does hits all of them; the middle of the times counts.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::World;
use common::registry::Registry;

const ROUNDS: usize = 5;

/// Bytes of files in a layer, before they are compressed.
const LAYER: u64 = 190 << 20;

fn main() {
    let world = World::new();
    let Some(layers) = layers(&world) else { return };
    let layout = world.layout("layout").image("v1", &common::host(), &layers);
    let stored: usize = layers.iter().map(|(stored, _)| stored.len()).sum();
    let unpacked: usize = layers.iter().map(|(_, tar)| tar.len()).sum();
    println!(
        "image: {} layers, {} MB compressed, {} MB unpacked",
        layers.len(),
        stored / 1_000_000,
        unpacked / 1_000_000
    );
    drop(layers);
    unpacking(&world, &layout);
    pulling(&world, &layout);
}

/// Three layers of files of this machine.
fn layers(world: &World) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut files = Vec::new();
    for dir in ["/usr/lib", "/usr/share", "/usr/bin", "/usr/include", "/var/lib"] {
        collect(Path::new(dir), &mut files);
    }
    let mut layers = Vec::new();
    let mut files = files.into_iter();
    for number in 0..3 {
        let (mut names, mut bytes) = (String::new(), 0);
        for (name, size) in files.by_ref() {
            names.push_str(&name);
            names.push('\n');
            bytes += size + 1024;
            if bytes > LAYER {
                break;
            }
        }
        let list = world.path(&format!("list-{number}"));
        let tar = world.path(&format!("layer-{number}.tar"));
        fs::write(&list, names).unwrap();
        let (list, tar) = (list.display().to_string(), tar.display().to_string());
        common::tool(
            "tar",
            &[
                "-C",
                "/",
                "--format=posix",
                "--pax-option=delete=atime,delete=ctime",
                "-T",
                &list,
                "-cf",
                &tar,
            ],
        )?;
        common::tool("gzip", &["-k", "-6", &tar])?;
        layers.push((fs::read(format!("{tar}.gz")).unwrap(), fs::read(&tar).unwrap()));
    }
    Some(layers)
}

/// Files below `dir` that everybody may read, with their sizes, in a fixed order.
fn collect(dir: &Path, files: &mut Vec<(String, u64)>) {
    let mut entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let Ok(meta) = entry.metadata() else { continue };
        let path = entry.path();
        if meta.is_dir() {
            collect(&path, files);
        } else if meta.is_file()
            && meta.len() < 20 << 20
            && path.to_str().is_some_and(|p| !p.contains('\n'))
        {
            files.push((path.display().to_string()[1..].to_owned(), meta.len()));
        }
    }
}

/// One way: its name, how it is timed, and the most that ours may take of its time.
type Way<'a> = (&'a str, &'a mut dyn FnMut() -> Duration, Option<f64>);

/// Runs each way in turn and prints the middle of its times, and how the first one's, which is ours, compares.
fn race(title: &str, ways: &mut [Way<'_>]) {
    let mut times = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (way, times) in ways.iter_mut().zip(&mut times) {
            times.push(way.1());
        }
    }
    times.iter_mut().for_each(|times| times.sort());
    let first = times[0][ROUNDS / 2];
    for ((name, _, bound), times) in ways.iter().zip(&times) {
        let middle = times[ROUNDS / 2];
        let ratio = first.as_secs_f64() / middle.as_secs_f64();
        let verdict = match bound {
            Some(bound) if ratio <= *bound => format!(", at most {bound:.2}: kept"),
            Some(bound) => format!(", at most {bound:.2}: NOT KEPT"),
            None => String::new(),
        };
        println!(
            "{title}: {name:<28} {:.2} s ({:.2}-{:.2}); obuild takes {ratio:.2} of it{verdict}",
            middle.as_secs_f64(),
            times[0].as_secs_f64(),
            times[ROUNDS - 1].as_secs_f64()
        );
    }
}

/// Times `what` in the fresh directory `dir`, which goes before the next round.
fn timed(dir: &Path, what: impl FnOnce()) -> Duration {
    let _ = tree_copy::remove_tree(dir);
    rustix::fs::sync();
    let start = Instant::now();
    what();
    start.elapsed()
}

fn ok(program: &str, args: &[&str]) {
    assert!(
        Command::new(program).args(args).output().unwrap().status.success(),
        "{program} {args:?}"
    );
}

fn unpacking(world: &World, layout: &common::Layout) {
    let ours = &mut || timed(&world.rootfs(), || drop(world.fetch_ok(&layout.name())));
    let dir = world.path("tar");
    let tar = &mut || {
        timed(&dir, || {
            fs::create_dir(&dir).unwrap();
            for number in 0..3 {
                let file = world.path(&format!("layer-{number}.tar.gz")).display().to_string();
                ok("tar", &["-C", dir.to_str().unwrap(), "-xzf", &file]);
            }
        })
    };
    let plain_dir = world.path("plain");
    let plain = &mut || {
        timed(&plain_dir, || {
            fs::create_dir(&plain_dir).unwrap();
            for number in 0..3 {
                let file = world.path(&format!("layer-{number}.tar")).display().to_string();
                ok("tar", &["-C", plain_dir.to_str().unwrap(), "-xf", &file]);
            }
        })
    };
    let bundle = world.path("bundle");
    let image = format!("{}:v1", layout.path.display());
    let umoci = &mut || {
        timed(&bundle, || ok("umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]))
    };
    race(
        "unpack",
        &mut [
            ("obuild", ours, None),
            ("tar xzf", tar, Some(1.1)),
            ("tar xf, not compressed", plain, None),
            ("umoci unpack", umoci, None),
        ],
    );
}

fn pulling(world: &World, layout: &common::Layout) {
    let Some(registry) = Registry::start() else { return };
    let name = format!("{}/bench/image:v1", registry.host);
    let source = format!("{}:v1", layout.name());
    let target = format!("docker://{name}");
    ok("skopeo", &["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", &source, &target]);
    let cache = world.path("cache");
    let ours = &mut || {
        let _ = tree_copy::remove_tree(&cache);
        timed(&world.rootfs(), || drop(world.fetch_ok(&name)))
    };
    let (copied, bundle) = (world.path("copied"), world.path("bundle"));
    let (to, image) = (format!("oci:{}:v1", copied.display()), format!("{}:v1", copied.display()));
    let theirs = &mut || {
        let _ = tree_copy::remove_tree(&copied);
        timed(&bundle, || {
            ok(
                "skopeo",
                &["--insecure-policy", "copy", "-q", "--src-tls-verify=false", &target, &to],
            );
            ok("umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]);
        })
    };
    let bound = Some(1.2);
    race("pull", &mut [("obuild", ours, None), ("skopeo copy + umoci unpack", theirs, bound)]);
}
