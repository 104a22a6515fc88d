//! A builder on doubles, for tests of what core does between the contracts.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use obuilder_core::bstr::{BStr, BString};
use obuilder_core::cache::ResultCache;
use obuilder_core::contracts::{Fingerprint, Image};
use obuilder_core::error::FetchError;
use obuilder_core::interpreter::{BuildError, Builder, Context, Options};
use obuilder_core::progress::{Event, Observer, Stage, StepEnd};
use obuilder_core::spec::Spec;
use obuilder_core::testing::strict_sandbox::StrictSandbox;
use obuilder_core::testing::strict_store::StrictStore;
use obuilder_core::{BuildLog, Cancel, Fetcher, ResultId, Sandbox, Store};

/// A directory with a store, a context and an image that can be changed.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Arc<StrictStore>,
    pub(crate) cache: Arc<ResultCache>,
    pub(crate) image: Arc<TextImage>,
    pub(crate) builder: Builder,
}

impl World {
    pub(crate) fn new(sandbox: impl Sandbox + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(StrictStore::new(&dir.path().join("store")));
        let (cache, opened) = ResultCache::open(store.clone()).unwrap();
        assert_eq!(opened.notes, [""; 0]);
        fs::create_dir(dir.path().join("context")).unwrap();
        let image = Arc::new(TextImage::default());
        let builder =
            Builder { cache: cache.clone(), sandbox: Arc::new(sandbox), fetcher: image.clone() };
        Self { dir, store, cache, image, builder }
    }

    /// Steps print their command and succeed.
    pub(crate) fn echo() -> Self {
        Self::new(StrictSandbox::echo())
    }

    pub(crate) fn context_dir(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    pub(crate) fn context(&self) -> Context {
        Context::new(self.context_dir())
    }

    pub(crate) fn build(&self, spec: &str) -> (Result<ResultId, BuildError>, Transcript) {
        self.build_with(spec, &self.context(), &Options::default(), &Cancel::new())
    }

    pub(crate) fn build_with(
        &self,
        text: &str,
        context: &Context,
        options: &Options,
        cancel: &Cancel,
    ) -> (Result<ResultId, BuildError>, Transcript) {
        let transcript = Transcript::default();
        let result = self.builder.build(&spec(text), context, options, cancel, &transcript);
        (result, transcript)
    }

    /// Builds what must succeed, and gives the path of the result's tree.
    pub(crate) fn tree(&self, spec: &str) -> PathBuf {
        let (result, _) = self.build(spec);
        self.store.result(&result.unwrap()).unwrap().unwrap().rootfs()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.context_dir().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

pub(crate) fn spec(text: &str) -> Spec {
    Spec::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What a build told.
#[derive(Default)]
pub(crate) struct Transcript(Mutex<(String, Vec<Sender<()>>)>);

impl Transcript {
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().0.clone()
    }

    /// Told whenever something was added.
    pub(crate) fn news(&self) -> Receiver<()> {
        let (sender, receiver) = channel();
        self.0.lock().unwrap().1.push(sender);
        receiver
    }

    /// Waits until the text contains `wanted`.
    pub(crate) fn wait_for(&self, wanted: &str) {
        let news = self.news();
        while !self.text().contains(wanted) {
            news.recv_timeout(std::time::Duration::from_secs(20)).unwrap_or_else(|_| {
                panic!("waited for `{wanted}` in\n{}", self.text());
            });
        }
    }

    pub(crate) fn count(&self, wanted: &str) -> usize {
        self.text().matches(wanted).count()
    }
}

impl Observer for Transcript {
    fn event(&self, _: &Stage, event: Event<'_>) {
        let text = match event {
            Event::BuildStarted { heading, .. } => format!("{heading}\n"),
            Event::BuildFinished { name, .. } => format!("--> finished {name}\n"),
            Event::Heading { text } => format!("{text}\n"),
            Event::StepStarted { .. } => return,
            Event::Waiting { reason } => format!("waiting: {reason}\n"),
            Event::Warning { text } => format!("warning: {text}\n"),
            Event::Output { bytes } => BString::from(bytes).to_string(),
            Event::StepRestarted => "restarted\n".to_owned(),
            Event::StepFinished { end: StepEnd::Cached, .. } => "cached\n".to_owned(),
            Event::StepFinished { end: StepEnd::Saved, .. } => "saved\n".to_owned(),
            Event::StepFinished { end: StepEnd::Failed, .. } => "failed\n".to_owned(),
            Event::StepFinished { end: StepEnd::Cancelled, .. } => "cancelled\n".to_owned(),
        };
        let mut state = self.0.lock().unwrap();
        state.0.push_str(&text);
        state.1.retain(|listener| listener.send(()).is_ok());
    }
}

/// An image of one file, `image`, whose text can be changed; there is none called `nowhere`.
#[derive(Default)]
pub(crate) struct TextImage {
    text: Mutex<String>,
    stamp: Mutex<u32>,
    /// Whether it cannot be seen, and then whether builds must fail for it.
    lost: Mutex<Option<bool>>,
}

impl TextImage {
    pub(crate) fn change(&self, text: &str) {
        text.clone_into(&mut self.text.lock().unwrap());
        self.touch();
    }

    pub(crate) fn lose(&self, insists: bool) {
        *self.lost.lock().unwrap() = Some(insists);
    }

    /// A new stamp, with the same contents.
    pub(crate) fn touch(&self) {
        *self.stamp.lock().unwrap() += 1;
    }
}

impl Fetcher for TextImage {
    fn fingerprint(&self, base: &BStr, _: Option<&Fingerprint>) -> Result<Fingerprint, FetchError> {
        if base == "nowhere" {
            let hint = "known is `image`".to_owned();
            return Err(FetchError::Unknown {
                name: base.to_owned(),
                known: vec!["image".into()],
                hint,
            });
        }
        if self.lost.lock().unwrap().is_some() {
            let (action, source) = ("ask the registry".into(), "no answer".into());
            return Err(FetchError::Failed { action, source });
        }
        let stamp = self.stamp.lock().unwrap().to_string();
        Ok(Fingerprint { stamp, digest: self.text.lock().unwrap().clone() })
    }

    fn look(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
        cancel: &Cancel,
    ) -> Result<Fingerprint, FetchError> {
        match cancel.is_cancelled() {
            true => Err(FetchError::Cancelled(base.to_owned())),
            false => self.fingerprint(base, last),
        }
    }

    fn insists(&self, _: &BStr) -> bool {
        self.lost.lock().unwrap().unwrap_or_default()
    }

    fn environment(&self, base: &BStr) -> Result<Vec<(BString, BString)>, FetchError> {
        self.fingerprint(base, None)?;
        Ok(vec![("IMAGE".into(), "yes".into()), ("PATH".into(), "/bin".into())])
    }

    fn fetch(
        &self,
        base: &BStr,
        rootfs: &Path,
        log: &BuildLog,
        _: &Cancel,
    ) -> Result<Image, FetchError> {
        let fingerprint = self.fingerprint(base, None)?;
        let written = fs::write(rootfs.join("image"), &*self.text.lock().unwrap());
        written.and_then(|()| log.write(b"importing\n")).map_err(|source| FetchError::Failed {
            action: "write the image".into(),
            source: Box::new(source),
        })?;
        Ok(Image { env: self.environment(base)?, fingerprint })
    }
}
