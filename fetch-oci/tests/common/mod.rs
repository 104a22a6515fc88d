//! Makes layers and layouts, good and bad, and looks at what comes of them.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::print_stderr)]

pub mod registry;
pub mod server;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use bstr::BStr;
use fetch_oci::{Digest, OciFetcher, Options, Settings};
use obuilder_core::contracts::{Fetcher, Image};
use obuilder_core::error::FetchError;
use obuilder_core::{BuildLog, Cancel};
use tar::{EntryType, Header};

/// A tar archive being made, with everything that the `tar` crate itself refuses to write.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn entry(mut self, kind: EntryType, path: &str, link: &str, body: &[u8]) -> Self {
        self.header(kind, path, link, body.len() as u64, 0o644);
        self.body(body);
        self
    }

    pub fn header(&mut self, kind: EntryType, path: &str, link: &str, size: u64, mode: u32) {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        assert!(path.len() <= 100 && link.len() <= 100, "{path}");
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        let meta = Owner::me();
        header.set_uid(meta.uid);
        header.set_gid(meta.gid);
        header.set_mtime(1_600_000_000);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
    }

    pub fn body(&mut self, body: &[u8]) {
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    pub fn file(self, path: &str, body: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, "", body.as_ref())
    }

    pub fn dir(mut self, path: &str, mode: u32) -> Self {
        self.header(EntryType::Directory, path, "", 0, mode);
        self
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, b"")
    }

    pub fn pax(self, key: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let rest = key.len() + value.len() + 3;
        let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
        let mut record = format!("{} {key}=", rest + length).into_bytes();
        record.extend_from_slice(value);
        record.push(b'\n');
        self.entry(EntryType::XHeader, "pax", "", &record)
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn done(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

struct Owner {
    uid: u64,
    gid: u64,
}

impl Owner {
    fn me() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Self { uid: uid.as_raw().into(), gid: gid.as_raw().into() }
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// An OCI layout being made.
pub struct Layout {
    pub path: PathBuf,
    manifests: Vec<serde_json::Value>,
}

impl Layout {
    pub fn new(path: PathBuf) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { path, manifests: Vec::new() }
    }

    pub fn blob(&self, bytes: &[u8]) -> serde_json::Value {
        let digest = Digest::of(bytes);
        fs::write(self.blob_path(&digest), bytes).unwrap();
        serde_json::json!({"digest": digest.as_str(), "size": bytes.len()})
    }

    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// Adds an image of `layers`, pairs of what is stored and what it unpacks to.
    pub fn image(mut self, tag: &str, platform: &str, layers: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let (os, architecture) = platform.split_once('/').unwrap();
        let diff_ids: Vec<_> = layers.iter().map(|(_, tar)| Digest::of(tar).to_string()).collect();
        let config = serde_json::json!({
            "os": os, "architecture": architecture,
            "config": {"Env": ["PATH=/bin", "FROM=layout"], "WorkingDir": "/nowhere", "User": "1234"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let mut config = self.blob(config.to_string().as_bytes());
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let layers: Vec<_> = layers
            .iter()
            .map(|(stored, _)| {
                let mut layer = self.blob(stored);
                layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip".into();
                layer
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers,
        });
        let mut manifest = self.blob(manifest.to_string().as_bytes());
        manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
        manifest["platform"] = serde_json::json!({"os": os, "architecture": architecture});
        manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": tag});
        self.manifests.push(manifest);
        let index = serde_json::json!({"schemaVersion": 2, "manifests": self.manifests});
        fs::write(self.path.join("index.json"), index.to_string()).unwrap();
        self
    }

    /// One image of layers that are not compressed.
    pub fn plain(self, layers: &[Vec<u8>]) -> Self {
        let layers: Vec<_> = layers.iter().map(|tar| (tar.clone(), tar.clone())).collect();
        self.image("latest", &host(), &layers)
    }

    pub fn name(&self) -> String {
        format!("oci:{}", self.path.display())
    }
}

pub fn host() -> String {
    fetch_oci::Platform::host().to_string()
}

/// A directory of its own with a fetcher.
pub struct World {
    pub dir: tempfile::TempDir,
    pub settings: Settings,
    pub fetcher: OciFetcher,
}

impl World {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(dir.path().join("cache"));
        settings.access.first_wait = std::time::Duration::from_millis(1);
        change(&mut settings);
        Self { dir, fetcher: OciFetcher::new(settings.clone()), settings }
    }

    pub fn limited(most_bytes: u64, most_entries: u64) -> Self {
        let unpack = Options { most_bytes, most_entries, ..Options::default() };
        Self::with(|settings| settings.unpack = unpack)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn layout(&self, name: &str) -> Layout {
        Layout::new(self.path(name))
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path("rootfs")
    }

    /// Fetches `name` into [`World::rootfs`]; gives the log too.
    pub fn fetch(&self, name: &str) -> (Result<Image, FetchError>, String) {
        let _ = tree_copy::remove_tree(&self.rootfs());
        fs::create_dir(self.rootfs()).unwrap();
        let log = BuildLog::from_file(tempfile::tempfile().unwrap());
        let image = self.fetcher.fetch(BStr::new(name), &self.rootfs(), &log, &Cancel::new());
        log.finish();
        (image, text(&log))
    }

    pub fn fetch_ok(&self, name: &str) -> Image {
        let (image, log) = self.fetch(name);
        image.unwrap_or_else(|error| panic!("{}\n{log}", chain(&error)))
    }

    /// Why `name` cannot be fetched.
    pub fn fetch_error(&self, name: &str) -> String {
        chain(&self.fetch(name).0.expect_err("it must fail"))
    }

    /// Unpacks one image of these layers.
    pub fn unpack(&self, layers: &[Vec<u8>]) -> Image {
        let layout = self.layout("layout").plain(layers);
        self.fetch_ok(&layout.name())
    }

    pub fn unpack_error(&self, layers: &[Vec<u8>]) -> String {
        let layout = self.layout("layout").plain(layers);
        self.fetch_error(&layout.name())
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.rootfs().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn exists(&self, name: &str) -> bool {
        self.rootfs().join(name).symlink_metadata().is_ok()
    }
}

pub fn text(log: &BuildLog) -> String {
    let (mut reader, mut text) = (log.reader(), Vec::new());
    let mut buffer = [0; 512];
    while let read @ 1.. = reader.read(&mut buffer, &Cancel::new()).unwrap() {
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(text).unwrap()
}

/// An error and what caused it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut all = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        all.push_str(&format!(": {error}"));
        next = error.source();
    }
    all
}

/// Runs a program that must succeed; `None`, and a visible skip, where it is not installed.
pub fn tool(program: &str, args: &[&str]) -> Option<String> {
    let output = match Command::new(program).args(args).output() {
        Ok(output) => output,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "SKIP: `{program}` cannot be run here: {error}");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    Some(String::from_utf8(output.stdout).unwrap())
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn digest(tree: &Path) -> String {
    tree_copy::digest_tree(tree, None).unwrap()
}
