//! Pulls an image: what its reference leads to, and its layers, several at once.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use obuilder_core::Cancel;

use super::client::{Action, Ask, Client};
use super::download::download;
use super::{Access, Pull};
use crate::cache::{Cache, Remembered};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{Image, LayerAt, Layers};
use crate::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, LARGEST_CONFIG, LARGEST_MANIFEST, Manifest,
    OCI_INDEX, OCI_MANIFEST,
};
use crate::name::{Reference, Target};
use crate::platform::{self, Platform, choose};

/// How often people hear how much has come.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Where images come from: registries, by way of a cache.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) access: Access,
    pub(crate) cache: Cache,
    pub(crate) pull: Pull,
    pub(crate) platforms: Vec<Platform>,
}

/// What a reference leads to.
#[derive(Debug, Clone)]
pub(crate) struct Pulled {
    /// Of what the registry gave for the reference: a manifest or an index.
    pub(crate) top: Digest,
    /// The image, whose layers need not be here.
    pub(crate) image: Image,
}

impl Source {
    /// Names the platforms, as what a reference leads to depends on them.
    pub(crate) fn wanted(&self) -> String {
        self.platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// What `reference` leads to, by the cache if that is allowed and knows.
    pub(crate) fn resolve(&self, reference: &Reference, cancel: &Cancel) -> Result<Pulled> {
        let _held = self.cache.hold(cancel)?;
        let named = reference.to_string();
        let fixed = reference.is_fixed();
        if self.pull != Pull::Always || fixed {
            let known = self.cache.remembered(&named, &self.wanted());
            if let Some(pulled) = known.and_then(|known| self.cached(&known).transpose()) {
                return pulled;
            }
        }
        if self.pull == Pull::Never {
            return Err(Error::NotHere(named));
        }
        let client = Client::new(&self.access, reference)?;
        let top = self.top(&client, reference, cancel)?;
        let pulled = self.below(&client, &top, cancel)?;
        let (manifest, reference) = (pulled.image.digest.clone(), named);
        let known = Remembered { reference, top: pulled.top.clone(), manifest };
        self.cache.remember(&self.wanted(), &known)?;
        Ok(pulled)
    }

    /// What is known already, if all of it is here.
    fn cached(&self, known: &Remembered) -> Result<Option<Pulled>> {
        let Some(bytes) = self.cache.read(&known.manifest, LARGEST_MANIFEST)? else {
            return Ok(None);
        };
        let Document::Manifest(manifest) = Document::parse(&bytes)? else { return Ok(None) };
        let config = self.cache.read(&manifest.config.digest, LARGEST_CONFIG)?;
        let image = config.map(|config| Image::new(known.manifest.clone(), &manifest, &config));
        let image = image.transpose()?;
        Ok(image.map(|image| Pulled { top: known.top.clone(), image }))
    }

    /// The digest that the registry has for the reference now.
    fn top(&self, client: &Client, reference: &Reference, cancel: &Cancel) -> Result<Digest> {
        if let Target::Digest(digest) = &reference.target {
            return Ok(digest.clone());
        }
        let url = client.url(&format!("manifests/{}", reference.target()));
        let ask = manifest_ask("HEAD", url);
        let response = client.ask(&ask, Action::Pull, &mut (), cancel)?;
        match response.status().as_u16() {
            200 => {}
            404 => return Err(missing(reference)),
            // Some registries do not know HEAD.
            405 => return self.top_by_reading(client, reference, cancel),
            _ => return Err(client.answered(&ask, &response)),
        }
        let header = response.headers().get("docker-content-digest");
        match header.and_then(|header| Digest::parse(header.to_str().ok()?).ok()) {
            Some(digest) => Ok(digest),
            None => self.top_by_reading(client, reference, cancel),
        }
    }

    fn top_by_reading(
        &self,
        client: &Client,
        reference: &Reference,
        cancel: &Cancel,
    ) -> Result<Digest> {
        let bytes = read_manifest(client, reference.target(), cancel)?;
        let bytes = bytes.ok_or_else(|| missing(reference))?;
        let digest = Digest::of(&bytes);
        self.cache.write(&digest, &bytes)?;
        Ok(digest)
    }

    /// The image for this platform at or below `top`.
    fn below(&self, client: &Client, top: &Digest, cancel: &Cancel) -> Result<Pulled> {
        let (mut digest, mut marked) = (top.clone(), false);
        for _ in 0..4 {
            match Document::parse(&self.manifest(client, &digest, cancel)?)? {
                Document::Manifest(manifest) => {
                    let config = self.config(client, &manifest, cancel)?;
                    let image = Image::new(digest, &manifest, &config)?;
                    if !marked {
                        platform::check(&image.config.platform, &self.platforms)?;
                    }
                    return Ok(Pulled { top: top.clone(), image });
                }
                Document::Index(index) => {
                    let all: Vec<_> = index.manifests.iter().collect();
                    let chosen = choose(&all, &self.platforms)?;
                    (digest, marked) = (chosen.digest.clone(), chosen.platform.is_some());
                }
            }
        }
        let why = "its indexes name each other without end".to_owned();
        Err(Error::BadDocument { what: "index", why })
    }

    fn manifest(&self, client: &Client, digest: &Digest, cancel: &Cancel) -> Result<Vec<u8>> {
        if let Some(bytes) = self.cache.read(digest, LARGEST_MANIFEST)? {
            return Ok(bytes);
        }
        let bytes = read_manifest(client, digest.as_str(), cancel)?;
        let place = || format!("the registry {}", client.host);
        let missing = || Error::NoBlob { place: place(), digest: digest.clone() };
        let bytes = bytes.ok_or_else(missing)?;
        digest.check(&bytes, &format!("a manifest from {}", client.host))?;
        self.cache.write(digest, &bytes)?;
        Ok(bytes)
    }

    fn config(&self, client: &Client, manifest: &Manifest, cancel: &Cancel) -> Result<Vec<u8>> {
        let blob = &manifest.config;
        if blob.size > LARGEST_CONFIG {
            let limit = format!("{LARGEST_CONFIG} bytes");
            return Err(Error::TooLarge { what: "the configuration of the image".into(), limit });
        }
        for _ in 0..2 {
            if let Some(bytes) = self.cache.read(&blob.digest, LARGEST_CONFIG)? {
                return Ok(bytes);
            }
            // If it is there, it is damaged.
            self.cache.forget(&blob.digest)?;
            download(client, &self.cache, blob, &AtomicU64::new(0), cancel)?;
        }
        Err(Error::NoBlob { place: "the cache".to_owned(), digest: blob.digest.clone() })
    }

    /// Brings the layers of `image` that are not here, in the background.
    pub(crate) fn layers(
        &self,
        reference: &Reference,
        image: &Image,
        cancel: &Cancel,
    ) -> Result<Incoming> {
        let held = self.cache.hold(cancel)?;
        let mut todo = VecDeque::new();
        for layer in &image.layers {
            let LayerAt::Blob(blob) = &layer.at else { continue };
            let here = self.cache.open(&blob.digest, blob.size)?.is_some();
            if !here && !todo.contains(blob) {
                todo.push_back(blob.clone());
            }
        }
        if !todo.is_empty() && self.pull == Pull::Never {
            return Err(Error::NotHere(reference.to_string()));
        }
        let total = todo.iter().fold(0, |total: u64, blob| total.saturating_add(blob.size));
        let (cancel, on_cancel) = cancel.child();
        // A layer may be said to have no bytes at all, and still has to come.
        let threads = self.access.parallel.max(1).min(todo.len());
        let coming = Arc::new(Coming {
            client: Client::new(&self.access, reference)?,
            cache: self.cache.clone(),
            state: Mutex::new(State { waiting: todo, ..State::default() }),
            changed: Condvar::new(),
            received: AtomicU64::new(0),
            cancel,
        });
        for _ in 0..threads {
            let coming = coming.clone();
            thread::spawn(move || coming.work());
        }
        Ok(Incoming { coming, total, _held: held, _on_cancel: on_cancel })
    }
}

fn manifest_ask(method: &'static str, url: String) -> Ask<'static> {
    let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
    Ask { method, url, headers: vec![("Accept", accept)], purpose: "read the manifest" }
}

fn read_manifest(client: &Client, target: &str, cancel: &Cancel) -> Result<Option<Vec<u8>>> {
    let ask = manifest_ask("GET", client.url(&format!("manifests/{target}")));
    let response = client.ask(&ask, Action::Pull, &mut (), cancel)?;
    match response.status().as_u16() {
        200 => client.body(response, LARGEST_MANIFEST).map(Some),
        404 => Ok(None),
        _ => Err(client.answered(&ask, &response)),
    }
}

fn missing(reference: &Reference) -> Error {
    let image = format!("{}:{}", reference.repository, reference.target());
    Error::Missing { image, place: format!("the registry {}", reference.host) }
}

/// Layers on their way into the cache. Dropping it ends that.
pub(crate) struct Incoming {
    coming: Arc<Coming>,
    total: u64,
    /// What is here stays until it has been unpacked.
    _held: File,
    _on_cancel: obuilder_core::cancel::OnCancel,
}

struct Coming {
    client: Client,
    cache: Cache,
    state: Mutex<State>,
    changed: Condvar,
    received: AtomicU64,
    cancel: Cancel,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Descriptor>,
    under_way: Vec<Digest>,
    failed: Option<Error>,
}

impl Coming {
    /// One thread: brings blobs until none is left or one cannot be had.
    fn work(&self) {
        loop {
            let blob = {
                let mut state = self.lock();
                let Some(blob) = state.waiting.pop_front().filter(|_| state.failed.is_none())
                else {
                    return;
                };
                state.under_way.push(blob.digest.clone());
                blob
            };
            let done = download(&self.client, &self.cache, &blob, &self.received, &self.cancel);
            let mut state = self.lock();
            state.under_way.retain(|digest| *digest != blob.digest);
            if let Err(error) = done {
                state.failed.get_or_insert(error);
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Incoming {
    /// How many bytes have to come.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Waits until the layer is here; `told` hears now and then how many bytes have come.
    pub(crate) fn wait_for(
        &self,
        layer: &LayerAt,
        told: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let LayerAt::Blob(blob) = layer else { return Ok(()) };
        let mut next = Instant::now() + TELL_EVERY;
        let coming = self.coming.clone();
        let _wake = self.coming.cancel.on_cancel(move || {
            // Taking the lock orders this after a waiter's look at the token.
            drop(coming.lock());
            coming.changed.notify_all();
        });
        let mut state = self.coming.lock();
        loop {
            if self.coming.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            let waits = state.waiting.iter().any(|waiting| waiting.digest == blob.digest);
            if !waits && !state.under_way.contains(&blob.digest) {
                return Ok(());
            }
            let wait = next.saturating_duration_since(Instant::now());
            let waited = self.coming.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if Instant::now() >= next {
                next = Instant::now() + TELL_EVERY;
                told(self.coming.received.load(Ordering::Relaxed))?;
            }
        }
    }
}

impl Layers for Incoming {
    fn place(&self) -> String {
        format!("`{}`", self.coming.cache.dir().display())
    }

    fn open(&self, layer: &LayerAt) -> Result<Box<dyn Read + Send + '_>> {
        let LayerAt::Blob(blob) = layer else {
            let why = "a registry has no layers without a digest".to_owned();
            return Err(Error::BadDocument { what: "manifest", why });
        };
        match self.coming.cache.open(&blob.digest, blob.size)? {
            Some(file) => Ok(Box::new(file)),
            None => Err(Error::NoBlob { place: self.place(), digest: blob.digest.clone() }),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.coming.cancel.cancel();
    }
}
