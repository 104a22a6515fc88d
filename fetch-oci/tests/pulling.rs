//! Images from registries: a real one, and one that behaves badly.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bstr::BStr;
use common::registry::Registry;
use common::server::{Answer, Asked, Server};
use common::{Layout, Tar, World, chain, digest, gzip, host, tool};
use fetch_oci::{Digest, Exporter, ImageName, OciFetcher, Plan, Platform, Pull, Settings, Step};
use obuilder_core::contracts::Fetcher;
use obuilder_core::error::FetchError;
use obuilder_core::{BuildLog, Cancel};

fn layer(text: &str) -> (Vec<u8>, Vec<u8>) {
    let tar = Tar::new().file(text, text).file("last", text).done();
    (gzip(&tar), tar)
}

/// Copies the images of a layout into a registry.
fn push(layout: &Layout, tag: &str, to: &str, more: &[&str]) -> Option<()> {
    let (from, to) = (format!("{}:{tag}", layout.name()), format!("docker://{to}"));
    let mut args = vec!["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"];
    args.extend(more.iter().chain([&from.as_str(), &to.as_str()]));
    tool("skopeo", &args).map(drop)
}

#[test]
fn an_image_is_pulled_from_a_real_registry_and_kept() {
    let Some(mut registry) = Registry::start() else { return };
    let world = World::new();
    let layers = [layer("one"), layer("two"), layer("three"), layer("one")];
    let layout = world.layout("layout").image("v1", &host(), &layers);
    let name = format!("{}/some/app:v1", registry.host);
    if push(&layout, "v1", &name, &[]).is_none() {
        return;
    }
    world.fetch_ok(&layout.name());
    let tree = digest(&world.rootfs());
    let (image, log) = world.fetch(&name);
    let image = image.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(digest(&world.rootfs()), tree);
    assert_eq!(image.env.len(), 2);
    assert!(log.contains(&format!("Pulling {name}: image ")), "{log}");
    let unchanged = world.fetcher.fingerprint(BStr::new(&name), Some(&image.fingerprint));
    assert_eq!(unchanged.unwrap(), image.fingerprint);
    // What is here needs no registry any more, by tag or by digest.
    registry.stop();
    world.fetch_ok(&name);
    assert_eq!(digest(&world.rootfs()), tree);
    assert_eq!(world.fetcher.environment(BStr::new(&name)).unwrap(), image.env);
    let missing = world.fetch_error(&name.replace("v1", "v2"));
    assert!(missing.contains("cannot be reached"), "{missing}");
}

#[test]
fn a_tag_that_moves_is_seen_where_that_is_wanted() {
    let Some(registry) = Registry::start() else { return };
    let world = World::new();
    let name = format!("{}/app:latest", registry.host);
    let layout = world.layout("layout").image("a", &host(), &[layer("one")]).image(
        "b",
        &host(),
        &[layer("two")],
    );
    if push(&layout, "a", &name, &[]).is_none() {
        return;
    }
    let fetcher = |pull| {
        let mut settings = Settings::new(world.path("cache"));
        settings.pull = pull;
        OciFetcher::new(settings)
    };
    let base = BStr::new(&name);
    let never = fetcher(Pull::Never).fingerprint(base, None).unwrap_err();
    let FetchError::Unknown { hint, .. } = never else { panic!("{never}") };
    assert!(hint.contains("registries are not to be asked"), "{hint}");
    let first = world.fetch_ok(&name).fingerprint;
    push(&layout, "b", &name, &[]).unwrap();
    assert_eq!(fetcher(Pull::Missing).fingerprint(base, Some(&first)).unwrap(), first);
    assert_eq!(fetcher(Pull::Missing).fingerprint(base, None).unwrap(), first);
    assert_eq!(fetcher(Pull::Never).fingerprint(base, None).unwrap(), first);
    let second = fetcher(Pull::Always).fingerprint(base, Some(&first)).unwrap();
    assert_ne!(second.digest, first.digest);
    world.fetch_ok(&name);
    assert_eq!(world.read("last"), "two", "what was seen last counts from now on");
    let pinned = format!("{}/app@{}", registry.host, first.digest);
    assert_eq!(world.fetch_ok(&pinned).fingerprint.digest, first.digest);
    assert_eq!(world.read("last"), "one");
}

#[test]
fn lists_of_platforms_are_understood() {
    let Some(registry) = Registry::start() else { return };
    let world = World::new();
    let layout = world.layout("layout");
    let layout = layout.image("a", "linux/amd64", &[layer("amd64")]).image(
        "a",
        "linux/s390x",
        &[layer("s390x")],
    );
    // A list, as one entry of the layout's index.
    let index = fs::read(layout.path.join("index.json")).unwrap();
    let mut list = layout.blob(&index);
    list["mediaType"] = "application/vnd.oci.image.index.v1+json".into();
    list["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "list"});
    let top = serde_json::json!({"schemaVersion": 2, "manifests": [list]});
    let with_type = String::from_utf8(index).unwrap();
    assert!(with_type.contains("manifests"));
    fs::write(layout.path.join("index.json"), top.to_string()).unwrap();
    let name = format!("{}/multi:1", registry.host);
    if push(&layout, "list", &name, &["--all"]).is_none() {
        return;
    }
    for platform in ["linux/amd64", "linux/s390x"] {
        let platform = Platform::parse(platform).unwrap();
        let chosen = platform.clone();
        let world = World::with(|settings| settings.platform = Some(chosen));
        world.fetch_ok(&name);
        assert_eq!(world.read("last"), platform.architecture);
        world.fetch_ok(&layout.name());
        assert_eq!(world.read("last"), platform.architecture, "and from the layout");
    }
}

#[test]
fn an_image_is_for_the_platform_that_is_wanted() {
    let (_server, name) = bad_registry(&[layer("one")], |_, answer| answer);
    let base = BStr::new(&name);
    let other = |settings: &mut Settings| {
        settings.platform = Some(Platform::parse("windows/s390x").unwrap());
    };
    let error = World::with(other).fetch_error(&name);
    assert!(error.ends_with(&format!("not for windows/s390x, only for {}", host())), "{error}");
    // One that was imported for others is looked at again, whatever their names end with.
    let world = World::with(|settings| settings.platform = Some(Platform::host()));
    let mut last = world.fetch_ok(&name).fingerprint;
    assert_eq!(world.fetcher.fingerprint(base, Some(&last)).unwrap(), last);
    last.stamp = last.stamp.replace(&host(), &format!("windows/s390x {}", host()));
    assert_ne!(world.fetcher.fingerprint(base, Some(&last)).unwrap(), last);
}

/// The name `ann` with the password `secret`, as `htpasswd -B` writes it.
const ANN: &str = "ann:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

#[test]
fn credentials_come_from_dockers_configuration() {
    let Some(registry) = Registry::for_user(ANN) else { return };
    let world = World::new();
    let layout = world.layout("layout").image("a", &host(), &[layer("one")]);
    let name = format!("{}/private:1", registry.host);
    if push(&layout, "a", &name, &["--dest-creds", "ann:secret"]).is_none() {
        return;
    }
    let error = world.fetch_error(&name);
    assert!(error.contains("does not let us read the manifest"), "{error}");
    let config = world.path("config.json");
    let fetch = |auth: &str| {
        fs::write(&config, auth).unwrap();
        let docker = config.clone();
        let world = World::with(|settings| settings.access.docker_config = Some(docker));
        world.fetch(&name).0.map_err(|error| chain(&error))
    };
    // ann:secret, ann:wrong
    let auth =
        |text: &str| format!(r#"{{"auths": {{"{}": {{"auth": "{text}"}}}}}}"#, registry.host);
    fetch(&auth("YW5uOnNlY3JldA==")).unwrap();
    assert!(fetch(&auth("YW5uOndyb25n")).unwrap_err().contains("does not let us"));
}

#[test]
fn a_helper_that_cannot_be_asked_is_an_error() {
    let server =
        Server::start(|_| Answer::status(401).header("WWW-Authenticate", "Basic realm=\"tests\""));
    let world = World::new();
    let config = world.path("config.json");
    // The name of a helper is looked up in PATH, so a path must be refused.
    let text = format!(r#"{{"credHelpers": {{"{}": "../x"}}}}"#, server.host);
    fs::write(&config, text).unwrap();
    let docker = config.clone();
    let world2 = World::with(|settings| settings.access.docker_config = Some(docker));
    let name = format!("{}/private:1", server.host);
    assert!(world2.fetch_error(&name).contains("its name has a slash"));
    fs::write(&config, r#"{"credsStore": "obuild-no-such-helper"}"#).unwrap();
    assert!(world2.fetch_error(&name).contains("docker-credential-obuild-no-such-helper"));
}

/// A registry with one image of one layer; `change` may answer otherwise.
fn bad_registry(
    layers: &[(Vec<u8>, Vec<u8>)],
    change: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static,
) -> (Server, String) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().to_owned()).image("a", &host(), layers);
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.path.join("index.json")).unwrap()).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let mut blobs = std::collections::HashMap::new();
    for entry in fs::read_dir(layout.path.join("blobs/sha256")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        blobs.insert(Digest::of(&bytes).to_string(), bytes);
    }
    let server = Server::start(move |asked| {
        let last = asked.path.rsplit('/').next().unwrap();
        let key = if last == "v1" { manifest.as_str() } else { last };
        let answer = match blobs.get(key) {
            Some(bytes) => ranged(asked, bytes).header("Docker-Content-Digest", key),
            None => Answer::status(404),
        };
        change(asked, answer)
    });
    let name = format!("{}/app:v1", server.host);
    (server, name)
}

fn ranged(asked: &Asked, bytes: &[u8]) -> Answer {
    let range = asked.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
    let Some(start) = range.and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok()) else {
        return Answer::body(bytes);
    };
    let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
    Answer { status: 206, ..Answer::body(&bytes[start..]) }.header("Content-Range", range)
}

fn big() -> (Vec<u8>, Vec<u8>) {
    let body: Vec<u8> =
        (0..1_000_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    let tar = Tar::new().file("big", body).done();
    (tar.clone(), tar)
}

#[test]
fn a_download_goes_on_where_it_was_cut() {
    let cuts = AtomicUsize::new(0);
    let (server, name) = bad_registry(&[big()], move |asked, answer| {
        // Three times, each after a megabyte.
        match asked.path.contains("/blobs/") && answer.body.len() > 100_000 {
            true if cuts.fetch_add(1, Ordering::SeqCst) < 3 => answer.cut(1_000_000),
            _ => answer,
        }
    });
    let world = World::new();
    world.fetch_ok(&name);
    let starts: Vec<_> =
        server.asked().iter().filter_map(|asked| asked.headers.get("range").cloned()).collect();
    assert_eq!(starts, ["bytes=1000000-", "bytes=2000000-", "bytes=3000000-"]);
}

#[test]
fn a_later_process_goes_on_where_an_earlier_one_was_stopped() {
    let broken = Arc::new(Mutex::new(true));
    let (server, name) = bad_registry(&[big()], {
        let broken = broken.clone();
        move |asked, answer| {
            let large = asked.path.contains("/blobs/") && answer.body.len() > 100_000;
            match large && *broken.lock().unwrap() {
                true if asked.headers.contains_key("range") => Answer::status(503),
                true => answer.cut(1_500_000),
                false => answer,
            }
        }
    });
    let world = World::with(|settings| settings.access.retries = 1);
    let error = world.fetch_error(&name);
    assert!(error.contains("cannot be reached"), "{error}");
    *broken.lock().unwrap() = false;
    world.fetch_ok(&name);
    let last =
        server.asked().into_iter().rev().find_map(|asked| asked.headers.get("range").cloned());
    assert_eq!(last.as_deref(), Some("bytes=1500000-"));
}

#[test]
fn what_an_earlier_try_left_damaged_is_brought_anew() {
    let (_, tar) = big();
    let stored = gzip(&tar);
    let digest = Digest::of(&stored);
    let (_server, name) = bad_registry(&[(stored, tar)], |_, answer| answer);
    let world = World::new();
    fs::create_dir_all(world.path("cache/partial")).unwrap();
    fs::write(world.path("cache/partial").join(digest.hex()), vec![7; 5000]).unwrap();
    world.fetch_ok(&name);
    // And what was damaged later is found, removed and brought again.
    let blob = world.path("cache/blobs").join(digest.hex());
    let mut bytes = fs::read(&blob).unwrap();
    // What comes of it is no archive at all.
    bytes[100_000..100_100].fill(0xff);
    fs::write(&blob, bytes).unwrap();
    assert!(world.fetch_error(&name).contains("cannot be unpacked"));
    world.fetch_ok(&name);
}

#[test]
fn what_a_pull_needs_is_not_pruned() {
    let world = World::new();
    let all = std::time::SystemTime::now() + Duration::from_secs(3600);
    let (_server, name) = bad_registry(&[layer("one")], |_, answer| answer);
    world.fetch_ok(&name);
    let (cache, second) = (world.settings.cache.clone(), Digest::of(&layer("two").0));
    let (_other, name) = bad_registry(&[layer("two"), layer("one")], move |asked, answer| {
        if asked.path.contains(second.hex()) {
            cache.prune(all).unwrap();
        }
        answer
    });
    world.fetch_ok(&name);
    // What was used for a pull that brought nothing was used too.
    let cache = &world.settings.cache;
    for kind in ["blobs", "refs"] {
        for entry in fs::read_dir(cache.dir().join(kind)).unwrap() {
            let file = fs::File::open(entry.unwrap().path()).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        }
    }
    let before = cache.size().unwrap();
    world.fetch_ok(&name);
    let freed = cache.prune(all - Duration::from_secs(7200)).unwrap();
    assert!(freed > 0 && freed < before, "{freed} of {before}");
    let never = Settings { pull: Pull::Never, ..world.settings.clone() };
    let world = World { fetcher: OciFetcher::new(never), ..world };
    world.fetch_ok(&name);
    assert!(world.settings.cache.prune(all).unwrap() > 0);
    assert_eq!(world.settings.cache.size().unwrap(), 0);
}

#[test]
fn a_server_without_ranges_is_asked_for_everything_again() {
    let cuts = AtomicUsize::new(0);
    let bytes = big();
    let stored = bytes.0.clone();
    let (server, name) = bad_registry(&[bytes], move |asked, answer| {
        if !asked.path.contains("/blobs/") || answer.body.len() < 100_000 {
            return answer;
        }
        match cuts.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::body(stored.clone()).cut(700_000),
            _ => Answer::body(stored.clone()),
        }
    });
    World::new().fetch_ok(&name);
    assert!(server.asked().iter().any(|asked| asked.headers.contains_key("range")));
}

#[test]
fn a_busy_registry_is_asked_again_and_a_broken_one_not_for_ever() {
    let tries = AtomicUsize::new(0);
    let (_server, name) = bad_registry(&[layer("one")], move |_, answer| {
        match tries.fetch_add(1, Ordering::SeqCst) % 2 {
            0 => Answer::status(503).header("Retry-After", "0"),
            _ => answer,
        }
    });
    World::new().fetch_ok(&name);
    let (server, name) = bad_registry(&[layer("one")], |_, _| Answer::status(502));
    let error = World::new().fetch_error(&name);
    assert!(error.contains("answered 502"), "{error}");
    assert_eq!(server.asked().len(), 6, "once, and five times more");
}

#[test]
fn wrong_bytes_are_refused_whatever_a_registry_says() {
    let bytes = layer("one");
    let length = bytes.0.len();
    let flipped = move |asked: &Asked, mut answer: Answer| {
        if asked.path.contains("/blobs/") && answer.body.len() == length {
            answer.body[length / 2] ^= 1;
        }
        answer
    };
    let (_server, name) = bad_registry(std::slice::from_ref(&bytes), flipped);
    let world = World::new();
    let error = world.fetch_error(&name);
    assert!(error.contains("is damaged: it should be sha256:"), "{error}");
    assert!(common_empty(&world.path("cache/blobs"), length), "nothing of it is kept");
    let longer = move |asked: &Asked, mut answer: Answer| {
        if asked.path.contains("/blobs/") && answer.body.len() == length {
            answer.body.extend([0; 5000]);
        }
        answer
    };
    let (_server, name) = bad_registry(&[bytes], longer);
    assert!(World::new().fetch_error(&name).contains("longer"));
    let (_server, name) = bad_registry(&[layer("one")], |asked, mut answer| {
        if asked.path.contains("/manifests/") && asked.method == "GET" {
            answer.body.push(b' ');
        }
        answer
    });
    assert!(World::new().fetch_error(&name).contains("a manifest from 127.0.0.1"));
    let (_server, name) =
        bad_registry(&[layer("one")], |asked, answer| match asked.method.as_str() {
            "GET" if asked.path.contains("/manifests/") => Answer::body(vec![b' '; 5 << 20]),
            _ => answer,
        });
    assert!(World::new().fetch_error(&name).contains("larger than the limit"));
}

/// A registry whose manifest says that its one layer has this size and this digest.
fn claiming(size: u64, digest: &'static str) -> (Server, String) {
    let empty = Digest::of(b"");
    let config = serde_json::json!({
        "rootfs": {"type": "layers", "diff_ids": [empty.as_str(), empty.as_str()]},
    });
    let config = config.to_string();
    let layer = serde_json::json!({"digest": digest, "size": size});
    let manifest = serde_json::json!({
        "schemaVersion": 2, "layers": [layer, layer],
        "config": {"digest": Digest::of(config.as_bytes()).as_str(), "size": config.len()},
    });
    let manifest = manifest.to_string();
    let server = Server::start(move |asked| match &asked.path {
        path if path.contains("/manifests/") => Answer::body(manifest.as_bytes())
            .header("Docker-Content-Digest", Digest::of(manifest.as_bytes()).as_str()),
        path if path.ends_with(Digest::of(config.as_bytes()).as_str()) => {
            Answer::body(config.as_bytes())
        }
        _ => Answer::body(b""),
    });
    let name = format!("{}/app:v1", server.host);
    (server, name)
}

#[test]
fn layers_without_bytes_and_of_all_the_bytes_in_the_world_are_no_trouble() {
    let nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let other = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let (_server, name) = claiming(0, nothing);
    World::new().fetch_ok(&name);
    let (_server, name) = claiming(0, other);
    assert!(World::new().fetch_error(&name).contains("damaged"));
    let (server, name) = claiming(u64::MAX, other);
    let error = World::new().fetch_error(&name);
    assert!(error.contains("larger than the limit"), "{error}");
    assert_eq!(server.count(other), 0, "nothing of it is asked for");
}

fn common_empty(dir: &std::path::Path, length: usize) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.into_iter().all(|entry| entry.unwrap().metadata().unwrap().len() != length as u64)
}

#[test]
fn tokens_are_got_where_the_registry_says() {
    let host = Arc::new(Mutex::new(String::new()));
    let (server, name) = bad_registry(&[layer("one"), layer("two")], {
        let host = host.clone();
        move |asked, answer| {
            if asked.path.starts_with("/token?") {
                return Answer::status(301)
                    .header("Location", asked.path.replace("/token?", "/moved?"));
            }
            if asked.path.starts_with("/moved?") {
                assert!(asked.path.contains("scope=repository%3Aapp%3Apull"), "{}", asked.path);
                return Answer::body(r#"{"token": "t0ken", "expires_in": 300}"#);
            }
            if asked.headers.get("authorization").is_some_and(|value| value == "Bearer t0ken") {
                return answer;
            }
            let realm = format!("http://{}/token", host.lock().unwrap());
            let challenge =
                format!(r#"Bearer realm="{realm}",service="tests",scope="repository:app:pull""#);
            Answer::status(401).header("WWW-Authenticate", challenge)
        }
    });
    host.lock().unwrap().clone_from(&server.host);
    World::new().fetch_ok(&name);
    assert!(server.count("/moved?") <= 3, "tokens are used again");
}

#[test]
fn blobs_may_come_from_elsewhere_but_credentials_do_not_go_there() {
    let elsewhere = {
        let bytes = layer("one").0;
        Server::start(move |asked| {
            assert!(!asked.headers.contains_key("authorization"), "a stranger was told the token");
            ranged(asked, &bytes)
        })
    };
    let target = format!("http://localhost:{}/blob", elsewhere.host.rsplit(':').next().unwrap());
    let stored = layer("one").0.len();
    let (_server, name) = bad_registry(&[layer("one")], move |asked, answer| {
        match asked.path.contains("/blobs/") && answer.body.len() == stored {
            true => Answer::status(307).header("Location", target.clone()),
            false => answer,
        }
    });
    World::new().fetch_ok(&name);
    assert_eq!(elsewhere.asked().len(), 1);
}

/// A fetcher that knows a password for the registry `host`.
fn ann_of(host: &str) -> World {
    let config = serde_json::json!({"auths": {host: {"username": "ann", "password": "secret"}}});
    World::with(|settings| {
        fs::create_dir_all(settings.cache.dir()).unwrap();
        let path = settings.cache.dir().with_file_name("config.json");
        fs::write(&path, config.to_string()).unwrap();
        settings.access.docker_config = Some(path);
    })
}

const BASIC_CHALLENGE: (&str, &str) = ("WWW-Authenticate", "Basic realm=x");

#[test]
fn whoever_we_are_sent_to_learns_no_password() {
    let bytes = layer("one").0;
    let stored = bytes.len();
    // The same machine, another port.
    let elsewhere = Server::start(move |asked| match asked.path.as_str() {
        "/blob" => ranged(asked, &bytes),
        _ => Answer::status(401).header(BASIC_CHALLENGE.0, BASIC_CHALLENGE.1),
    });
    let check = |location: String| {
        let (server, name) = bad_registry(&[layer("one")], move |asked, answer| {
            let known =
                asked.headers.get("authorization").is_some_and(|it| it.starts_with("Basic"));
            match asked.path.contains("/blobs/") && answer.body.len() == stored {
                _ if !known => Answer::status(401).header(BASIC_CHALLENGE.0, BASIC_CHALLENGE.1),
                true => Answer::status(307).header("Location", location.clone()),
                false => answer,
            }
        });
        let world = ann_of(&server.host);
        world.fetch(&name).0.map_err(|error| chain(&error))
    };
    check(format!("http://{}/blob", elsewhere.host)).unwrap();
    let error = check(format!("http://{}/asks", elsewhere.host)).unwrap_err();
    assert!(error.contains("does not let us read a layer"), "{error}");
    assert!(elsewhere.asked().len() >= 2);
    for asked in elsewhere.asked() {
        assert!(!asked.headers.contains_key("authorization"), "{asked:?}");
    }
    let error = check("http://obuild.localhost/blob".to_owned()).unwrap_err();
    assert!(error.contains("`http://obuild.localhost:80`, which has no TLS"), "{error}");
    let (_server, name) = bad_registry(&[layer("one")], |asked, _| {
        Answer::status(302).header("Location", asked.path.clone())
    });
    let error = World::new().fetch_error(&name);
    assert!(error.contains("answered more than five places"), "{error}");
}

#[test]
fn whoever_takes_a_layer_for_a_registry_learns_no_password() {
    let elsewhere = Server::start(|_| Answer::status(201));
    let upload = format!("http://{}/upload", elsewhere.host);
    let server = Server::start(move |asked| match asked.method.as_str() {
        _ if !asked.headers.contains_key("authorization") => {
            Answer::status(401).header(BASIC_CHALLENGE.0, BASIC_CHALLENGE.1)
        }
        "HEAD" => Answer::status(404),
        "POST" => Answer::status(202).header("Location", upload.clone()),
        _ => Answer::status(201),
    });
    let world = ann_of(&server.host);
    fs::create_dir(world.rootfs()).unwrap();
    let steps = vec![Step { tree: world.rootfs(), heading: String::new() }];
    let (env, workdir, cancel) = (Vec::new(), String::new(), Cancel::new());
    let (user, owner) = (None, None);
    let plan = Plan { steps, squash: false, env, workdir, user, owner, cancel: &cancel };
    let ImageName::Registry(reference) = ImageName::parse(&format!("{}/app", server.host)).unwrap()
    else {
        panic!("no reference")
    };
    let Settings { access, cache, .. } = &world.settings;
    Exporter { plan }.to_registry(&reference, access, cache, &|_| {}).unwrap();
    assert_eq!(elsewhere.asked().len(), 2, "the layer and the configuration");
    for asked in elsewhere.asked() {
        assert!(!asked.headers.contains_key("authorization"), "{asked:?}");
    }
}

#[test]
fn other_machines_are_not_spoken_to_without_tls() {
    // Plain HTTP would reach this server; TLS cannot.
    let (server, name) = bad_registry(&[layer("one")], |_, answer| answer);
    let port = server.host.rsplit(':').next().unwrap().to_owned();
    let world = World::with(|settings| {
        settings.access.retries = 0;
        settings.access.silence = Duration::from_secs(5);
    });
    // This machine by a name that need not be this machine.
    let Ok(own) = nix_hostname() else { return };
    let other = name.replace(&format!("127.0.0.1:{port}"), &format!("{own}.:{port}"));
    assert!(!world.fetch_error(&other).is_empty());
    assert_eq!(server.asked().len(), 0, "nothing was sent in the clear");
}

fn nix_hostname() -> Result<String, std::io::Error> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
    Ok(name.trim().to_ascii_lowercase())
}

#[test]
fn a_pull_that_nobody_wants_any_more_ends_at_once() {
    let world = World::with(|settings| settings.access.silence = Duration::from_secs(300));
    let (_server, name) = bad_registry(&[big()], |asked, answer| {
        if asked.path.contains("/blobs/") && answer.body.len() > 100_000 {
            // Says nothing for longer than the test takes.
            std::thread::park_timeout(Duration::from_secs(300));
        }
        answer
    });
    let cancel = Cancel::new();
    let log = BuildLog::from_file(tempfile::tempfile().unwrap());
    fs::create_dir(world.rootfs()).unwrap();
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        let fetch =
            scope.spawn(|| world.fetcher.fetch(BStr::new(&name), &world.rootfs(), &log, &cancel));
        let mut reader = log.reader();
        // As soon as it says that layers have to come.
        assert!(reader.read(&mut [0; 10], &Cancel::new()).unwrap() > 0);
        cancel.cancel();
        let error = chain(&fetch.join().unwrap().unwrap_err());
        assert!(error.contains("was cancelled"), "{error}");
    });
    assert!(started.elapsed() < Duration::from_secs(200), "{:?}", started.elapsed());
}

#[test]
fn looking_for_a_new_image_ends_when_nobody_wants_it_any_more() {
    let cancel = Cancel::new();
    let pressed = cancel.clone();
    let (server, name) = bad_registry(&[layer("one")], move |_, _| {
        pressed.cancel();
        Answer::status(503).header("Retry-After", "25")
    });
    let world = World::with(|settings| settings.pull = Pull::Always);
    let base = BStr::new(&name);
    let error = world.fetcher.look(base, None, &cancel).unwrap_err();
    assert!(matches!(error, FetchError::Cancelled(_)), "{}", chain(&error));
    assert_eq!(server.asked().len(), 1);
    assert!(world.fetcher.insists(base) && !World::new().fetcher.insists(base));
    assert!(!world.fetcher.insists(BStr::new("oci:somewhere")));
}

#[test]
fn two_at_once_bring_a_layer_once() {
    let (server, name) = bad_registry(&[big()], |_, answer| answer);
    let world = World::new();
    let fetch = |rootfs: &str| {
        let rootfs = world.path(rootfs);
        fs::create_dir(&rootfs).unwrap();
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        world.fetcher.fetch(BStr::new(&name), &rootfs, &log, &Cancel::new()).unwrap();
        digest(&rootfs)
    };
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(|| fetch("a"));
        (fetch("b"), other.join().unwrap())
    });
    assert_eq!(a, b);
    let digest = Digest::of(&big().0);
    assert_eq!(server.count(digest.hex()), 1);
}
