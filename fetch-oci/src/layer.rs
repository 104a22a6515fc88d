//! A layer as a stream of tar blocks, checked on the way, decompressed by a thread of its own.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::Scope;

use sha2::{Digest as _, Sha256};

use crate::digest::{Checked, Digest};
use crate::error::Error;

/// Size of the pieces that go from one thread to the other.
const PIECE: usize = 256 * 1024;

/// How many of them may wait.
const WAITING: usize = 8;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Decompresses `input` by what it is, not by what it is said to be.
pub(crate) fn decompress<'a>(
    input: impl Read + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut input = BufReader::with_capacity(128 * 1024, input);
    let start = input.fill_buf()?;
    Ok(if start.starts_with(GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(input))
    } else if start.starts_with(ZSTD) {
        Box::new(zstd::Decoder::with_buffer(input)?)
    } else {
        Box::new(input)
    })
}

/// Whether a file that begins so is compressed in a way that is known.
pub(crate) fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(GZIP) || start.starts_with(ZSTD)
}

/// A blob, and what it must unpack to.
pub(crate) struct LayerBlob<'a> {
    /// Its bytes as they are stored.
    pub(crate) bytes: Box<dyn Read + Send + 'a>,
    /// What they must be; `None` if only the decompressed bytes are known.
    pub(crate) stored: Option<(Digest, u64)>,
    /// What the decompressed bytes must be, if that is known.
    pub(crate) diff_id: Option<Digest>,
}

impl<'a> LayerBlob<'a> {
    /// Starts a thread in `scope` that decompresses; at most `most` bytes come of it. The end of the stream comes only
    /// once everything has been found to be what it must be.
    pub(crate) fn stream<'scope>(self, scope: &'scope Scope<'scope, 'a>, most: u64) -> PieceReader
    where
        'a: 'scope,
    {
        let (full, pieces) = sync_channel(WAITING);
        let (used, empty) = channel();
        scope.spawn(move || {
            if let Err(error) = self.pump(&full, &empty, most) {
                // Whoever read has gone.
                let _ = full.send(Err(error));
            }
        });
        PieceReader { pieces, used, piece: Vec::new(), at: 0, ended: false }
    }

    fn pump(
        self,
        full: &SyncSender<io::Result<Vec<u8>>>,
        empty: &Receiver<Vec<u8>>,
        most: u64,
    ) -> io::Result<()> {
        let input: Box<dyn Read + Send> = match &self.stored {
            Some((digest, size)) => Box::new(Checked::new(self.bytes, digest, *size)),
            None => self.bytes,
        };
        let mut input = decompress(input)?;
        let mut hash = self.diff_id.as_ref().map(|_| Sha256::new());
        let mut total = 0;
        loop {
            let mut piece = empty.try_recv().unwrap_or_default();
            piece.clear();
            input.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
            if piece.is_empty() {
                break;
            }
            total += piece.len() as u64;
            if total > most {
                let (what, limit) = ("a layer".to_owned(), format!("{most} bytes"));
                return Err(Error::TooLarge { what, limit }.into_io());
            }
            if let Some(hash) = &mut hash {
                hash.update(&piece);
            }
            if full.send(Ok(piece)).is_err() {
                return Ok(());
            }
        }
        if let (Some(expected), Some(hash)) = (self.diff_id, hash) {
            let found = Digest::finish(hash);
            if found != expected {
                let what = "a decompressed layer".to_owned();
                let (expected, found) = (expected.to_string(), found.to_string());
                return Err(Error::Damaged { what, expected, found }.into_io());
            }
        }
        let _ = full.send(Ok(Vec::new()));
        Ok(())
    }
}

/// Reads what another thread decompresses.
pub(crate) struct PieceReader {
    pieces: Receiver<io::Result<Vec<u8>>>,
    used: std::sync::mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() && !self.ended {
            // The other thread may have ended; then nobody needs it.
            let _ = self.used.send(std::mem::take(&mut self.piece));
            self.at = 0;
            self.piece = self.pieces.recv().unwrap_or_else(|_| {
                Err(io::Error::other("the thread that decompresses has ended"))
            })?;
            self.ended = self.piece.is_empty();
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.piece.len());
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::error::Result;

    fn unpacked(stored: &[u8], diff_id: Option<Digest>, most: u64) -> Result<Vec<u8>> {
        std::thread::scope(|scope| {
            let blob = LayerBlob {
                bytes: Box::new(stored),
                stored: Some((Digest::of(stored), stored.len() as u64)),
                diff_id,
            };
            let mut all = Vec::new();
            let read = blob.stream(scope, most).read_to_end(&mut all);
            read.map(|_| all).map_err(|e| Error::io("read", e))
        })
    }

    #[test]
    fn layers_of_every_form_are_checked() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes).unwrap();
        let zstd = zstd::encode_all(&bytes[..], 1).unwrap();
        for stored in [bytes.clone(), gzip.finish().unwrap(), zstd] {
            let unpack = |id, most| unpacked(&stored, Some(id), most);
            assert!(unpack(Digest::of(&bytes), 3_000_000).unwrap() == bytes);
            assert!(matches!(unpack(Digest::of(b""), 3_000_000), Err(Error::Damaged { .. })));
            assert!(matches!(unpack(Digest::of(&bytes), 2_999_999), Err(Error::TooLarge { .. })));
            let cut = unpacked(&stored[..stored.len() - 5], Some(Digest::of(&bytes)), 3_000_000);
            assert!(cut.is_err());
        }
    }
}
