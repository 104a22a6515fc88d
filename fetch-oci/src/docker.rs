//! Images by an installed Docker, as OBuilder brings them: a container is made, exported and removed; it never runs.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bstr::{BStr, BString, ByteSlice};
use obuilder_core::contracts::{Fetcher, Fingerprint, Image};
use obuilder_core::error::FetchError;
use obuilder_core::{BuildLog, Cancel};

use crate::error::{Error, Result};
use crate::fetcher::{failed, prepare, say, tell};
use crate::layer::LayerBlob;
use crate::platform::Platform;
use crate::registry::Pull;
use crate::unpack::{Options, Unpacker};

/// Has Docker say what an image is for.
const PLATFORM: &str = "{{.Os}}/{{.Architecture}}/{{.Variant}}";

/// Brings images by the program `docker`.
#[derive(Debug, Clone)]
pub struct DockerFetcher {
    /// The program.
    pub program: PathBuf,
    /// When it asks registries.
    pub pull: Pull,
    /// Which image of an index; `None` leaves it to Docker.
    pub platform: Option<Platform>,
    /// How images are unpacked.
    pub unpack: Options,
}

/// A container that goes when this does.
struct Container<'a> {
    docker: &'a DockerFetcher,
    id: String,
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.docker.run(&["rm", "--", &self.id], &Cancel::new()) {
            tracing::warn!("the container `{}` is left behind: {error}", self.id);
        }
    }
}

impl DockerFetcher {
    /// What `docker` prints on standard output; what it says on standard error is part of a failure.
    fn run(&self, args: &[&str], cancel: &Cancel) -> Result<String> {
        let mut running = self.start(args, cancel)?;
        let (mut out, text) = (running.take_out(), &mut String::new());
        let read = out.read_to_string(text);
        running.finish(cancel)?;
        read.map_err(|e| Error::io(format!("read what `docker {}` prints", args.join(" ")), e))?;
        Ok(std::mem::take(text).trim().to_owned())
    }

    fn start(&self, args: &[&str], cancel: &Cancel) -> Result<Running> {
        let action = format!("run `{} {}`", self.program.display(), args.join(" "));
        let mut child = Command::new(&self.program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Io { action: action.clone(), source })?;
        let err = child.stderr.take();
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            if let Some(err) = err {
                // Only for messages; the end is cut off.
                let _ = err.take(64 * 1024).read_to_end(&mut said);
            }
            String::from_utf8_lossy(&said).trim().to_owned()
        });
        let out = child.stdout.take();
        let child = Arc::new(Mutex::new(child));
        let killed = child.clone();
        let on_cancel = cancel.on_cancel(move || {
            // Gone already is as good.
            let _ = killed.lock().unwrap_or_else(PoisonError::into_inner).kill();
        });
        Ok(Running { child, out, said, action, _on_cancel: on_cancel })
    }

    fn platform(&self) -> Option<String> {
        self.platform.as_ref().map(|platform| format!("--platform={platform}"))
    }

    fn with_platform<'a>(&self, verb: &'a str, platform: &'a Option<String>) -> Vec<&'a str> {
        [Some(verb), platform.as_deref()].into_iter().flatten().collect()
    }

    /// Makes sure that Docker has `base`, as fresh as is wanted.
    fn have(&self, base: &str, cancel: &Cancel) -> Result<()> {
        let here = || self.inspect(base, PLATFORM, cancel).is_ok_and(|it| self.will_do(&it));
        match self.pull {
            Pull::Missing | Pull::Never if here() => return Ok(()),
            Pull::Never => return Err(Error::NotHere(base.to_owned())),
            _ => {}
        }
        let platform = self.platform();
        let mut args = self.with_platform("pull", &platform);
        args.extend(["--quiet", "--", base]);
        self.run(&args, cancel).map(drop)
    }

    fn inspect(&self, base: &str, format: &str, cancel: &Cancel) -> Result<String> {
        self.run(&["image", "inspect", "--format", format, "--", base], cancel)
    }

    fn fingerprint_here(&self, base: &str, cancel: &Cancel) -> Result<Fingerprint> {
        let id = self.inspect(base, "{{.Id}}", cancel)?;
        // Docker may give one id to the images for all platforms.
        let (stamp, digest) = (format!("docker {id}{}", self.wanted()), id + &self.wanted());
        Ok(Fingerprint { stamp, digest })
    }

    /// What ends the stamps of images for the wanted platform.
    fn wanted(&self) -> String {
        self.platform.as_ref().map(|platform| format!(" {platform}")).unwrap_or_default()
    }

    /// Whether an image that is for `found` is for the wanted platform.
    fn will_do(&self, found: &str) -> bool {
        let found = || Platform::parse(found.trim_end_matches('/')).ok();
        self.platform.as_ref().is_none_or(|wanted| found().is_some_and(|it| it.serves(wanted)))
    }

    fn env(&self, base: &str, cancel: &Cancel) -> Result<Vec<(BString, BString)>> {
        let json = self.inspect(base, "{{json .Config.Env}}", cancel)?;
        let bad =
            |e: serde_json::Error| Error::BadDocument { what: "environment", why: e.to_string() };
        let all: Option<Vec<String>> = serde_json::from_str(&json).map_err(bad)?;
        let all = all.unwrap_or_default();
        let pairs = all.iter().filter_map(|entry| entry.split_once('='));
        Ok(pairs.map(|(name, value)| (name.into(), value.into())).collect())
    }

    fn bring(&self, base: &str, rootfs: &Path, log: &BuildLog, cancel: &Cancel) -> Result<Image> {
        say(log, &format!("Importing image `{base}` by docker"))?;
        self.have(base, cancel)?;
        prepare(rootfs)?;
        let fingerprint = self.fingerprint_here(base, cancel)?;
        let platform = self.platform();
        let mut args = self.with_platform("create", &platform);
        // The command is never run; but an image without one needs it.
        args.extend(["--", base, "true"]);
        let container = Container { docker: self, id: self.run(&args, cancel)? };
        self.export(&container.id, rootfs, log, cancel)?;
        Ok(Image { env: self.env(base, cancel)?, fingerprint })
    }

    fn export(&self, id: &str, rootfs: &Path, log: &BuildLog, cancel: &Cancel) -> Result<()> {
        let mut running = self.start(&["export", "--", id], cancel)?;
        let bytes: Box<dyn Read + Send> = Box::new(running.take_out());
        let mut unpacker = Unpacker::new(rootfs, &self.unpack, cancel)?.plain();
        let layer = unpacker.layer("export", LayerBlob { bytes, stored: None, diff_id: None });
        if layer.is_err() {
            running.kill();
        }
        let finished = running.finish(cancel);
        // That the archive is cut short is only what follows from a failure of Docker.
        match layer {
            Err(error @ Error::BadLayer { .. }) if finished.is_ok() => return Err(error),
            Err(Error::BadLayer { .. }) | Ok(()) => finished?,
            Err(error) => return Err(error),
        }
        tell(&unpacker.finish()?, log)
    }
}

/// A `docker` that runs; killed when nobody wants it any more.
struct Running {
    child: Arc<Mutex<Child>>,
    out: Option<std::process::ChildStdout>,
    said: thread::JoinHandle<String>,
    action: String,
    _on_cancel: obuilder_core::cancel::OnCancel,
}

impl Running {
    fn take_out(&mut self) -> impl Read + Send + 'static {
        let out = self.out.take();
        out.map_or_else(|| Box::new(io::empty()) as Box<dyn Read + Send>, |out| Box::new(out))
    }

    fn kill(&self) {
        // Gone already is as good.
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }

    /// Waits for its end, which must be a success.
    fn finish(self, cancel: &Cancel) -> Result<()> {
        drop(self.out);
        // It has closed its output by now, so this waits for its end alone; a kill finds the lock free until then.
        let said = self.said.join().unwrap_or_default();
        let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
        match status {
            _ if cancel.is_cancelled() => Err(Error::Cancelled),
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                let said = if said.is_empty() { status.to_string() } else { said };
                Err(Error::Io { action: self.action, source: io::Error::other(said) })
            }
            Err(source) => Err(Error::Io { action: self.action, source }),
        }
    }
}

/// A name that Docker can be given.
fn text(base: &BStr) -> Result<&str> {
    base.to_str()
        .map_err(|_| Error::BadName { text: base.to_string(), why: "it is not UTF-8".to_owned() })
}

impl Fetcher for DockerFetcher {
    fn fingerprint(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
    ) -> std::result::Result<Fingerprint, FetchError> {
        self.look(base, last, &Cancel::new())
    }

    fn look(
        &self,
        base: &BStr,
        last: Option<&Fingerprint>,
        cancel: &Cancel,
    ) -> std::result::Result<Fingerprint, FetchError> {
        let ours = |last: &&Fingerprint| {
            let mut words = last.stamp.splitn(3, ' ');
            let (kind, _id, wanted) = (words.next(), words.next(), words.next());
            kind == Some("docker") && wanted.unwrap_or_default() == self.wanted().trim_start()
        };
        if let Some(last) = last.filter(ours)
            && self.pull != Pull::Always
        {
            return Ok(last.clone());
        }
        let found = text(base).and_then(|base| {
            self.have(base, cancel)?;
            self.fingerprint_here(base, cancel)
        });
        found.map_err(|error| failed(base, error))
    }

    fn insists(&self, _base: &BStr) -> bool {
        self.pull == Pull::Always
    }

    fn environment(&self, base: &BStr) -> std::result::Result<Vec<(BString, BString)>, FetchError> {
        let cancel = Cancel::new();
        let found = text(base).and_then(|base| {
            self.have(base, &cancel)?;
            self.env(base, &cancel)
        });
        found.map_err(|error| failed(base, error))
    }

    fn fetch(
        &self,
        base: &BStr,
        rootfs: &Path,
        log: &BuildLog,
        cancel: &Cancel,
    ) -> std::result::Result<Image, FetchError> {
        let brought = text(base).and_then(|base| self.bring(base, rootfs, log, cancel));
        brought.map_err(|error| failed(base, error))
    }

    fn origin(&self, base: &BStr) -> Option<String> {
        Some(format!("the image `{base}` of docker"))
    }
}
