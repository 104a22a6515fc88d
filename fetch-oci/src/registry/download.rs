//! Brings one blob into the cache, going on where an earlier try has ended.

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use obuilder_core::Cancel;
use sha2::{Digest as _, Sha256};

use super::client::{Action, Ask, Client, Tries, is_passing};
use crate::cache::{Cache, Partial};
use crate::digest::Digest;
use crate::error::{At, Error, Result};
use crate::manifest::Descriptor;

/// Size of the pieces that are written.
const PIECE: usize = 128 * 1024;

/// A blob that is coming, and how much of it is there.
struct Coming<'a> {
    client: &'a Client,
    blob: &'a Descriptor,
    partial: Partial,
    hash: Sha256,
    there: u64,
    /// What all blobs of an image have brought, for people.
    received: &'a AtomicU64,
    cancel: &'a Cancel,
}

/// Brings `blob`, unless it is there. `received` counts its bytes, also those that were there before.
pub(super) fn download(
    client: &Client,
    cache: &Cache,
    blob: &Descriptor,
    received: &AtomicU64,
    cancel: &Cancel,
) -> Result<()> {
    let Some(partial) = cache.partial(&blob.digest, blob.size, cancel)? else {
        received.fetch_add(blob.size, Ordering::Relaxed);
        return Ok(());
    };
    let hash = Sha256::new();
    let mut coming = Coming { client, blob, partial, hash, there: 0, received, cancel };
    coming.read_what_is_there()?;
    let resumed = coming.there > 0;
    coming.complete()?;
    let mut checked = coming.check();
    if resumed && checked.is_err() {
        // What an earlier try left may have been the fault.
        coming.begin_again()?;
        coming.complete()?;
        checked = coming.check();
    }
    match checked {
        Ok(()) => coming.partial.finish(),
        Err(error) => {
            coming.begin_again()?;
            Err(error)
        }
    }
}

impl Coming<'_> {
    fn read_what_is_there(&mut self) -> Result<()> {
        let mut buffer = vec![0; PIECE];
        loop {
            let read = self.partial.file.read(&mut buffer).at("read", &self.partial.path)?;
            if read == 0 {
                return Ok(());
            }
            self.count(&buffer[..read]);
            if self.there > self.blob.size {
                return self.begin_again();
            }
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.there += bytes.len() as u64;
        self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    fn begin_again(&mut self) -> Result<()> {
        let file = &mut self.partial.file;
        let emptied = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
        emptied.at("write", &self.partial.path)?;
        self.received.fetch_sub(self.there, Ordering::Relaxed);
        (self.hash, self.there) = (Sha256::new(), 0);
        Ok(())
    }

    /// Asks for what is missing, as often as it takes.
    fn complete(&mut self) -> Result<()> {
        let mut tries = Tries::new(&self.client.access);
        while self.there < self.blob.size {
            let before = self.there;
            match self.receive() {
                Ok(()) if self.there == self.blob.size => {}
                Ok(()) => {
                    let error = self.client.unreachable("it closed the connection too early");
                    tries.again(error, None, self.cancel)?;
                }
                Err(error @ Error::Unreachable { .. }) => {
                    if self.there > before {
                        tries.progress();
                    }
                    tries.again(error, None, self.cancel)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Asks once.
    fn receive(&mut self) -> Result<()> {
        let url = self.client.url(&format!("blobs/{}", self.blob.digest));
        let mut headers = Vec::new();
        if self.there > 0 {
            headers.push(("Range", format!("bytes={}-", self.there)));
        }
        let ask = Ask { method: "GET", url, headers, purpose: "read a layer" };
        let response = self.client.once(&ask, Action::Pull, &mut ())?;
        match response.status().as_u16() {
            200 if self.there > 0 => self.begin_again()?,
            200 => {}
            206 => {
                let range = response.headers().get("content-range");
                let range = range.and_then(|value| value.to_str().ok()).unwrap_or_default();
                if !range.starts_with(&format!("bytes {}-", self.there)) {
                    return self.begin_again();
                }
            }
            416 if self.there > 0 => return self.begin_again(),
            404 => {
                let place = format!("the registry {}", self.client.host);
                return Err(Error::NoBlob { place, digest: self.blob.digest.clone() });
            }
            status if is_passing(status) => {
                let answer = self.client.answered(&ask, &response);
                return Err(self.client.unreachable(answer));
            }
            _ => return Err(self.client.answered(&ask, &response)),
        }
        self.write(response.into_body().into_reader())
    }

    fn write(&mut self, mut body: impl Read) -> Result<()> {
        let mut buffer = vec![0; PIECE];
        loop {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let read = body.read(&mut buffer).map_err(|error| self.client.unreachable(error))?;
            if read == 0 {
                return Ok(());
            }
            if self.there + read as u64 > self.blob.size {
                self.begin_again()?;
                return Err(self.damaged("longer".to_owned(), format!("{} bytes", self.blob.size)));
            }
            self.partial.file.write_all(&buffer[..read]).at("write", &self.partial.path)?;
            self.count(&buffer[..read]);
        }
    }

    fn check(&self) -> Result<()> {
        let found = Digest::finish(self.hash.clone());
        if found == self.blob.digest {
            return Ok(());
        }
        Err(self.damaged(found.to_string(), self.blob.digest.to_string()))
    }

    fn damaged(&self, found: String, expected: String) -> Error {
        let what = format!("layer {} from {}", self.blob.digest.short(), self.client.host);
        Error::Damaged { what, expected, found }
    }
}
