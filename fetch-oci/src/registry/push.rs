//! Pushes an image: its blobs, several at once, and then the manifest that names them.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use obuilder_core::Cancel;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::Access;
use super::client::{Action, AsBody, Ask, Client, Tries, is_passing, run};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::OCI_MANIFEST;
use crate::name::Reference;

/// A blob in a file.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) file: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// The contents of a file, from its beginning each time.
struct FileBody<'a>(&'a PathBuf);

impl AsBody for FileBody<'_> {
    fn send(
        &mut self,
        agent: &Agent,
        request: ureq::http::request::Builder,
    ) -> std::result::Result<Response<Body>, ureq::Error> {
        let file = File::open(self.0)?;
        run(agent, request, &file)
    }
}

/// Pushes all of `uploads`, and then the manifest under its tag. `told` hears what is done.
pub(crate) fn push(
    access: &Access,
    reference: &Reference,
    uploads: &[Upload],
    manifest: (&str, &[u8]),
    cancel: &Cancel,
    told: &dyn Fn(&str),
) -> Result<()> {
    let client = Client::new(access, reference)?;
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let work = || {
        while let Some(upload) = uploads.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = blob(&client, upload, cancel) {
                next.store(uploads.len(), Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    told(&format!("Pushing {} blobs to {reference}", uploads.len()));
    thread::scope(|scope| {
        for _ in 1..access.parallel.clamp(1, uploads.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let (tag, bytes) = manifest;
    let ask = Ask {
        method: "PUT",
        url: client.url(&format!("manifests/{tag}")),
        headers: vec![("Content-Type", OCI_MANIFEST.to_owned())],
        purpose: "push the manifest",
    };
    let mut body = bytes;
    let response = client.ask(&ask, Action::Push, &mut body, cancel)?;
    if response.status().is_success() { Ok(()) } else { Err(client.answered(&ask, &response)) }
}

/// Pushes one blob, unless it is there.
fn blob(client: &Client, upload: &Upload, cancel: &Cancel) -> Result<()> {
    let url = client.url(&format!("blobs/{}", upload.digest));
    let ask = Ask { method: "HEAD", url, purpose: "look for a layer", ..Ask::default() };
    if client.ask(&ask, Action::Push, &mut (), cancel)?.status() == 200 {
        return Ok(());
    }
    let mut tries = Tries::new(&client.access);
    loop {
        match send(client, upload, cancel) {
            Err(error @ Error::Unreachable { .. }) => tries.again(error, None, cancel)?,
            done => return done,
        }
    }
}

/// Pushes a blob in one piece; each try begins an upload of its own.
fn send(client: &Client, upload: &Upload, cancel: &Cancel) -> Result<()> {
    let ask = Ask {
        method: "POST",
        url: client.url("blobs/uploads/"),
        headers: vec![("Content-Length", "0".to_owned())],
        purpose: "push a layer",
    };
    let mut nothing: &[u8] = &[];
    let response = client.ask(&ask, Action::Push, &mut nothing, cancel)?;
    let location = response.headers().get("location").and_then(|value| value.to_str().ok());
    let (202, Some(location)) = (response.status().as_u16(), location) else {
        return Err(client.answered(&ask, &response));
    };
    let joint = if location.contains('?') { '&' } else { '?' };
    let url = format!("{}{joint}digest={}", client.absolute(location), upload.digest);
    let headers = vec![
        ("Content-Type", "application/octet-stream".to_owned()),
        ("Content-Length", upload.size.to_string()),
    ];
    let ask = Ask { method: "PUT", url, headers, purpose: "push a layer" };
    let response = client.once(&ask, Action::Push, &mut FileBody(&upload.file))?;
    match response.status().as_u16() {
        201 => Ok(()),
        status if is_passing(status) => Err(client.unreachable(client.answered(&ask, &response))),
        _ => Err(client.answered(&ask, &response)),
    }
}
