//! Images are put in place whole, replaced in one step, and removed; nothing else is touched.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use base_image::{Error, Images, Placed, Record, Request, Source};
use tempfile::TempDir;

struct Place {
    dir: TempDir,
    images: Images,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path().join("images"));
        Self { dir, images }
    }

    /// A tree that holds `text`.
    fn tree(&self, text: &str) -> PathBuf {
        let tree = self.dir.path().join("tree");
        fs::create_dir_all(tree.join("local/bin")).unwrap();
        fs::write(tree.join("local/bin/tool"), text).unwrap();
        tree
    }

    fn place(&self, text: &str, default: bool) -> Result<Placed, Error> {
        let places = [PathBuf::from("/store/home.slots/")];
        self.images.place(&self.tree(text), &record(text, default), &places, &|| false)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.images.path(name).join("local/bin/tool")).unwrap()
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("images").join(dir)).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const NAME: &str = "macos-homebrew-ocaml-5.4";

fn record(result: &str, default: bool) -> Record {
    let opam = "2.1".parse().unwrap();
    let request = Request {
        name: NAME.to_owned(),
        ocaml: "5.4.1".parse().unwrap(),
        opam: vec![opam],
        default_opam: "2.1".parse().unwrap(),
        prefix: "/usr/local".into(),
        default,
    };
    let source = Source::Url { url: "file:///mirror/brew.tar".into(), sha256: None };
    let sources = vec![("homebrew".to_owned(), source)];
    Record { request, sources, result: result.to_owned(), home: "/store/home".into() }
}

#[test]
fn an_image_is_made_kept_and_replaced() {
    let place = Place::new();
    assert_eq!(place.place("one", false).unwrap(), Placed::New);
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let first = inode(&place.images.path(NAME));
    assert_eq!(place.place("one", false).unwrap(), Placed::Unchanged);
    assert_eq!(inode(&place.images.path(NAME)), first);
    assert_eq!(place.place("two", false).unwrap(), Placed::Replaced);
    assert_eq!(place.text(NAME), "two");
    assert_eq!(place.images.find(NAME).unwrap(), record("two", false));
    assert_eq!(place.names(""), [".base-image", NAME, &format!("{NAME}.env")]);
    assert_eq!(place.names(".base-image"), [format!("{NAME}.lock")]);
}

#[test]
fn whoever_looks_while_it_is_replaced_finds_a_whole_image() {
    let place = Place::new();
    place.place("0", false).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looker = scope.spawn(|| {
            let mut looked = 0;
            while !done.load(Ordering::Relaxed) {
                assert!(
                    place.images.path(NAME).join("local/bin").is_dir(),
                    "no image for a moment"
                );
                looked += 1;
            }
            looked
        });
        for round in 1..50 {
            place.place(&round.to_string(), false).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(looker.join().unwrap() > 0);
    });
    assert_eq!(place.text(NAME), "49");
}

#[test]
fn an_image_that_names_the_build_slot_replaces_nothing() {
    let place = Place::new();
    place.place("good", false).unwrap();
    let error = place.place("PATH=/store/home.slots/705/home/bin", false).unwrap_err();
    let expected = "the image names a place of the machine that made it: `local/bin/tool` holds `/store/home.slots/`";
    assert_eq!(error.to_string(), expected);
    assert_eq!(place.text(NAME), "good");
    assert_eq!(place.names(".base-image"), [format!("{NAME}.lock")]);
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let place = Place::new();
    let home = place.images.path(NAME);
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("thesis"), "mine").unwrap();
    assert!(matches!(place.place("x", false), Err(Error::NotOurs(path)) if path == home));
    let error = place.images.remove(NAME).unwrap_err();
    assert!(error.to_string().contains(NAME), "{error}");
    assert_eq!(fs::read_to_string(home.join("thesis")).unwrap(), "mine");
    for name in ["../images", "", ".base-image", "/etc"] {
        assert!(matches!(place.images.remove(name), Err(Error::Unknown { .. })), "{name}");
    }
    let alias = place.images.path("macos-homebrew");
    fs::create_dir_all(&alias).unwrap();
    fs::remove_dir_all(&home).unwrap();
    assert!(matches!(place.place("x", true), Err(Error::NotOurs(path)) if path == alias));
}

#[test]
fn the_default_image_has_a_second_name() {
    let place = Place::new();
    place.place("one", true).unwrap();
    assert_eq!(fs::read_link(place.images.path("macos-homebrew")).unwrap(), Path::new(NAME));
    assert_eq!(place.images.find("macos-homebrew").unwrap().request.name, NAME);
    place.place("two", true).unwrap();
    assert_eq!(place.text("macos-homebrew"), "two");
    let listed: Vec<_> = place.images.list().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, ["macos-homebrew", NAME]);
    // Removing the link leaves the image; removing the image takes its link along.
    assert_eq!(place.images.remove("macos-homebrew").unwrap(), ["macos-homebrew"]);
    assert_eq!(place.text(NAME), "two");
    place.place("three", true).unwrap();
    assert_eq!(place.images.remove(NAME).unwrap(), ["macos-homebrew", NAME]);
    assert_eq!(place.names(""), [".base-image"]);
}

#[test]
fn one_works_on_an_image_at_a_time() {
    let place = Place::new();
    place.place("one", false).unwrap();
    let lock =
        fs::File::open(place.dir.path().join(format!("images/.base-image/{NAME}.lock"))).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(matches!(place.place("two", false), Err(Error::Busy(name)) if name == NAME));
    drop(lock);
    assert_eq!(place.place("two", false).unwrap(), Placed::Replaced);
}

#[test]
fn what_a_killed_process_left_is_put_in_order() {
    let place = Place::new();
    place.place("one", false).unwrap();
    let workshop = place.dir.path().join("images/.base-image");
    for part in ["new", "gone"] {
        fs::create_dir_all(workshop.join(format!("{NAME}.{part}/half"))).unwrap();
    }
    symlink(NAME, workshop.join(format!("{NAME}.link"))).unwrap();
    // As a filesystem without an exchange of names has it between its two renames.
    fs::rename(place.images.path(NAME), workshop.join(format!("{NAME}.old"))).unwrap();
    assert_eq!(place.place("one", false).unwrap(), Placed::Unchanged);
    assert_eq!(place.text(NAME), "one");
    assert_eq!(place.names(".base-image"), [format!("{NAME}.lock")]);
}

#[test]
fn images_from_elsewhere_come_with_their_environment_or_not_at_all() {
    let place = Place::new();
    let import = |text: &'static str| {
        place.images.import(NAME, |tree| {
            if text != "gone" {
                fs::create_dir_all(tree.join("local/bin")).unwrap();
                fs::write(tree.join("local/bin/tool"), text).unwrap();
            }
            match text {
                "bad" => Err(Error::Cancelled),
                _ => Ok(format!("WHICH={text}\n").into_bytes()),
            }
        })
    };
    let env = place.dir.path().join(format!("images/{NAME}.env"));
    let check = |expected: &str| {
        assert_eq!(place.text(NAME), expected);
        assert_eq!(fs::read_to_string(&env).unwrap(), format!("WHICH={expected}\n"));
        assert_eq!(place.names(".base-image"), [format!("{NAME}.lock")]);
    };
    import("one").unwrap();
    check("one");
    import("bad").unwrap_err();
    check("one");
    // Its tree has gone before it could be put in place.
    import("gone").unwrap_err();
    check("one");
    let workshop = place.dir.path().join("images/.base-image");
    fs::create_dir_all(workshop.join(format!("{NAME}.new/half"))).unwrap();
    fs::write(workshop.join(format!("{NAME}.env")), "HALF=").unwrap();
    import("two").unwrap();
    check("two");
}

#[test]
fn a_directory_of_images_is_for_its_owner_alone() {
    let place = Place::new();
    place.place("one", false).unwrap();
    let dir = place.dir.path().join("images");
    let mode = || fs::metadata(&dir).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o700, "setuid programs of images can be run by everybody");
    // One that is there is as somebody wants it.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    place.place("two", false).unwrap();
    assert_eq!(mode(), 0o755);
}

#[test]
fn cancelling_leaves_the_old_image() {
    let place = Place::new();
    place.place("one", false).unwrap();
    let tree = place.tree("two");
    let placed =
        place.images.place(&tree, &record("two", false), &[PathBuf::from("/x/")], &|| true);
    assert!(matches!(placed, Err(Error::Cancelled)), "{placed:?}");
    assert_eq!(place.text(NAME), "one");
    assert_eq!(place.names(".base-image"), [format!("{NAME}.lock")]);
}
