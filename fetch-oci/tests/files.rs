//! Layouts and archives: found, chosen, checked, and the same as other tools see them.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use bstr::BStr;
use common::{Tar, World, chain, digest, gzip, host, is_root, tool};
use fetch_oci::{Digest, Exporter, OciFetcher, Plan, Platform, Settings, Step};
use obuilder_core::Cancel;
use obuilder_core::contracts::Fetcher;
use obuilder_core::error::FetchError;

fn layers() -> Vec<(Vec<u8>, Vec<u8>)> {
    let lower = Tar::new()
        .dir("etc/", 0o755)
        .file("etc/os", "one")
        .file("etc/gone", "x")
        .symlink("os", "etc/os")
        .link("hard", "etc/os")
        .file("dir/old", "x")
        .done();
    let upper = Tar::new()
        .dir("etc/", 0o755)
        .file("etc/.wh.gone", "")
        .dir("dir/", 0o711)
        .file("dir/.wh..wh..opq", "")
        .file("dir/new", vec![b'n'; 100_000])
        .done();
    let zstd = zstd::encode_all(&upper[..], 3).unwrap();
    vec![(gzip(&lower), lower), (zstd, upper)]
}

#[test]
fn a_layout_and_its_archive_are_the_same_image() {
    let world = World::new();
    let layout = world.layout("layout").image("v1", &host(), &layers());
    let first = world.fetch_ok(&layout.name());
    let tree = digest(&world.rootfs());
    let tagged = world.fetch_ok(&format!("{}:v1", layout.name()));
    assert_eq!(first.fingerprint, tagged.fingerprint);
    let tar = world.path("layout.tar");
    let dir = layout.path.display().to_string();
    if tool("tar", &["-C", &dir, "-cf", &tar.display().to_string(), "."]).is_none() {
        return;
    }
    let archived = world.fetch_ok(&format!("oci:{}", tar.display()));
    assert_eq!(archived.fingerprint.digest, first.fingerprint.digest);
    assert_eq!(digest(&world.rootfs()), tree);
    assert!(!world.exists("etc/gone") && !world.exists("dir/old") && world.exists("dir/new"));
    fs::write(world.path("layout.tar.gz"), gzip(&fs::read(&tar).unwrap())).unwrap();
    let compressed = world.fetch_ok(&format!("oci:{}", world.path("layout.tar.gz").display()));
    assert_eq!(compressed.fingerprint.digest, first.fingerprint.digest);
}

#[test]
fn a_pipe_is_no_image_and_nobody_waits_for_its_writer() {
    let world = World::new();
    let pipe = world.path("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    for kind in ["oci", "docker-archive"] {
        let error = world.fetch_error(&format!("{kind}:{}", pipe.display()));
        assert!(error.contains("not a regular file"), "{error}");
    }
}

#[test]
fn what_skopeo_makes_of_it_is_the_same_tree_and_what_umoci_unpacks_too() {
    let world = World::new();
    // Older tools know no zstd.
    let layers: Vec<_> = layers().into_iter().map(|(_, tar)| (gzip(&tar), tar)).collect();
    let layout = world.layout("layout").image("v1", &host(), &layers);
    world.fetch_ok(&layout.name());
    let tree = digest(&world.rootfs());
    let source = format!("{}:v1", layout.name());
    let archive = format!("docker-archive:{}:example/app:v1", world.path("saved.tar").display());
    let copied = format!("oci:{}:v1", world.path("copied").display());
    for target in [&archive, &copied] {
        let args = ["--insecure-policy", "copy", "-q", source.as_str(), target.as_str()];
        if tool("skopeo", &args).is_none() {
            return;
        }
        let image = world.fetch_ok(target);
        assert_eq!(digest(&world.rootfs()), tree, "{target}");
        assert_eq!(image.env.len(), 2);
        assert!(world.fetch_error(&target.replace("v1", "v2")).contains("there is no"));
    }
    world.fetch_ok(&format!("docker-archive:{}", world.path("saved.tar").display()));
    assert_eq!(digest(&world.rootfs()), tree);
    let bundle = world.path("bundle").display().to_string();
    let image = format!("{}:v1", world.path("copied").display());
    let mut args = vec!["unpack", "--image", &image, &bundle];
    if !is_root() {
        args.insert(1, "--rootless");
    }
    if tool("umoci", &args).is_some() && is_root() {
        assert_eq!(digest(&world.path("bundle/rootfs")), tree, "umoci unpacks the same");
    }
}

#[test]
fn images_are_chosen_by_tag_and_platform() {
    let world = World::new();
    let one = |text: &str| {
        let tar = Tar::new().file("which", text).done();
        vec![(tar.clone(), tar)]
    };
    let layout = world.layout("layout");
    let layout =
        layout.image("a", "linux/amd64", &one("amd64")).image("a", "linux/s390x", &one("s390x"));
    for platform in ["linux/amd64", "linux/s390x"] {
        let platform = Platform::parse(platform).unwrap();
        let chosen = platform.clone();
        let world = World::with(|settings| settings.platform = Some(chosen));
        world.fetch_ok(&layout.name());
        assert_eq!(world.read("which"), platform.architecture);
    }
    let platform = Some(Platform::parse("windows/amd64").unwrap());
    let other = World::with(|settings| settings.platform = platform);
    let error = other.fetch_error(&layout.name());
    assert!(error.ends_with("not for windows/amd64, only for linux/amd64, linux/s390x"), "{error}");
    // One that only its configuration says something of.
    let unmarked = world.layout("unmarked").image("a", "linux/amd64", &one("a"));
    let index = unmarked.path.join("index.json");
    let mut all: serde_json::Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    all["manifests"][0].as_object_mut().unwrap().remove("platform");
    fs::write(&index, all.to_string()).unwrap();
    let error = other.fetch_error(&unmarked.name());
    assert!(error.ends_with("not for windows/amd64, only for linux/amd64"), "{error}");
    let layout = layout.image("b", "linux/amd64", &one("b"));
    assert!(world.fetch_error(&layout.name()).contains("it has several images; name one of a, b"));
    let missing = world.fetcher.fingerprint(BStr::new(&format!("{}:c", layout.name())), None);
    assert!(matches!(missing, Err(FetchError::Unknown { .. })), "{missing:?}");
}

#[test]
fn a_changed_layout_is_seen_and_an_unchanged_one_is_not_read() {
    let world = World::new();
    let layout = world.layout("layout").plain(&[Tar::new().file("a", "1").done()]);
    let name = layout.name();
    let first = world.fetch_ok(&name).fingerprint;
    // Not even a manifest that has gone matters while the index is the same.
    let manifest = layout.blob_path(&Digest::parse(&first.digest).unwrap());
    let bytes = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    assert_eq!(world.fetcher.fingerprint(BStr::new(&name), Some(&first)).unwrap(), first);
    fs::write(&manifest, bytes).unwrap();
    fs::remove_file(layout.path.join("index.json")).unwrap();
    common::Layout::new(layout.path).plain(&[Tar::new().file("a", "2").done()]);
    let second = world.fetcher.fingerprint(BStr::new(&name), Some(&first)).unwrap();
    assert_ne!(second.digest, first.digest);
}

#[test]
fn damaged_truncated_and_missing_parts_are_named() {
    let world = World::new();
    let layer = Tar::new().file("a", "x".repeat(5000)).done();
    let stored = gzip(&layer);
    let digest = Digest::of(&stored);
    let make = || {
        let _ = fs::remove_dir_all(world.path("layout"));
        world.layout("layout").image("a", &host(), &[(stored.clone(), layer.clone())])
    };
    let layout = make();
    let path = layout.blob_path(&digest);
    let mut bytes = stored.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(!world.fetch_error(&layout.name()).is_empty());
    bytes = stored.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&path, &bytes).unwrap();
    assert!(!world.fetch_error(&layout.name()).is_empty());
    for length in [0, 1, 20, stored.len() - 1] {
        fs::write(&path, &stored[..length]).unwrap();
        assert!(!world.fetch_error(&layout.name()).is_empty(), "{length}");
    }
    fs::write(&path, [&stored[..], b"more"].concat()).unwrap();
    assert!(!world.fetch_error(&layout.name()).is_empty());
    fs::remove_file(&path).unwrap();
    let error = world.fetch_error(&layout.name());
    assert!(error.contains(&format!("lacks {digest}, which the image names")), "{error}");
    // A layer that is whole, but not the one that the configuration promises.
    let _ = fs::remove_dir_all(world.path("layout"));
    let other = Tar::new().file("b", "y").done();
    let layout = world.layout("layout").image("a", &host(), &[(gzip(&layer), other)]);
    assert!(world.fetch_error(&layout.name()).contains("a decompressed layer is damaged"));
}

#[test]
fn documents_that_make_no_sense_are_refused() {
    let world = World::new();
    let fetcher = OciFetcher::new(Settings::new("/nowhere"));
    let error = |name: &str| chain(&fetcher.fingerprint(BStr::new(name), None).unwrap_err());
    let layout = world.layout("layout");
    let index = layout.path.join("index.json");
    assert!(error(&layout.name()).contains("there is no"));
    for (text, expected) in [
        ("", "the index of the image makes no sense"),
        ("[]", "the index of the image makes no sense"),
        ("{\"schemaVersion\":2,\"manifests\":[]}", "the image is not for"),
        (
            "{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"sha256:../../etc\",\"size\":1}]}",
            "64 lower-case",
        ),
    ] {
        fs::write(&index, text).unwrap();
        assert!(error(&layout.name()).contains(expected), "{text}: {}", error(&layout.name()));
    }
    fs::write(&index, vec![b' '; 5 << 20]).unwrap();
    assert!(error(&layout.name()).contains("larger than the limit"));
    let archive = world.path("no.tar");
    for bytes in [vec![], vec![1; 3], vec![7; 4096], Tar::new().file("manifest.json", "{}").done()]
    {
        fs::write(&archive, &bytes).unwrap();
        assert!(!error(&format!("docker-archive:{}", archive.display())).is_empty());
    }
    assert!(error("docker-archive:/does/not/exist.tar").contains("/does/not/exist.tar"));
}

#[test]
fn images_put_into_a_layout_at_once_are_all_there() {
    let world = World::new();
    let (tree, path) = (world.path("tree"), world.path("layout"));
    fs::create_dir(&tree).unwrap();
    let export = |tag: &str| {
        let cancel = Cancel::new();
        let steps = vec![Step { tree: tree.clone(), heading: String::new() }];
        let (env, workdir, user, owner) = (Vec::new(), String::new(), None, None);
        let plan = Plan { steps, squash: false, env, workdir, user, owner, cancel: &cancel };
        Exporter { plan }.to_layout(&path, tag)
    };
    let tags: Vec<_> = (0..8).map(|n| (0..12).map(|m| format!("v{n}-{m}")).collect()).collect();
    std::thread::scope(|scope| {
        for tags in &tags {
            let tags: &Vec<String> = tags;
            scope.spawn(move || tags.iter().for_each(|tag| drop(export(tag).unwrap())));
        }
    });
    let index = path.join("index.json");
    let all: serde_json::Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    assert_eq!(all["manifests"].as_array().unwrap().len(), 96);
    let large = [fs::read(&index).unwrap(), vec![b' '; 5 << 20]].concat();
    fs::write(&index, &large).unwrap();
    assert!(export("more").unwrap_err().to_string().contains("is larger than the limit"));
    assert!(fs::read(&index).unwrap() == large, "nothing is lost");
}

#[test]
fn names_in_a_docker_archive_lead_to_nothing_outside() {
    let world = World::new();
    let layer = Tar::new().file("secret", "x").done();
    let diff_id = Digest::of(&layer);
    fs::write(world.path("layer.tar"), &layer).unwrap();
    let host = Platform::host();
    let (os, architecture) = (host.os, host.architecture);
    let config = format!(
        r#"{{"os":"{os}","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let saved = world.path("saved");
    fs::create_dir(&saved).unwrap();
    fs::write(saved.join("config.json"), &config).unwrap();
    for outside in ["../layer.tar".to_owned(), world.path("layer.tar").display().to_string()] {
        let list = format!(r#"[{{"Config":"config.json","Layers":["{outside}"]}}]"#);
        fs::write(saved.join("manifest.json"), &list).unwrap();
        let error = world.fetch_error(&format!("docker-archive:{}", saved.display()));
        assert!(error.contains("lacks a layer that it names"), "{error}");
        let archive = Tar::new().file("manifest.json", &list).file("config.json", &config);
        fs::write(world.path("saved.tar"), archive.done()).unwrap();
        let error =
            world.fetch_error(&format!("docker-archive:{}/saved.tar", world.path("").display()));
        assert!(error.contains("lacks a layer that it names"), "{error}");
    }
    // One whose layer would end behind the end of the world.
    for size in [u64::MAX, i64::MAX as u64, 1 << 59] {
        let archive = Tar::new().pax("size", size.to_string()).file("manifest.json", "");
        fs::write(world.path("saved.tar"), archive.done()).unwrap();
        let name = format!("docker-archive:{}", world.path("saved.tar").display());
        assert!(!world.fetch_error(&name).is_empty());
    }
}
