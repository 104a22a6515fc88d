//! A file for what a program says, which does not grow without end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that makes room for a new one when it is full: `x.log` becomes `x.log.1`, that `x.log.2`, and so on; the oldest goes.
///
/// One process at a time writes to it.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
    cap: u64,
    keep: u32,
}

impl LogFile {
    /// Goes on with the file `path`, or begins it. It has at most `cap` bytes and a line; `keep` full ones are kept beside it.
    pub fn open(path: &Path, cap: u64, keep: u32) -> io::Result<Self> {
        let file = open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.into(), file, len, cap, keep })
    }

    fn turn(&mut self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            // There may be fewer by now.
            let _ = fs::rename(self.full(number), self.full(number + 1));
        }
        match self.keep {
            0 => fs::remove_file(&self.path)?,
            _ => fs::rename(&self.path, self.full(1))?,
        }
        self.file = open(&self.path)?;
        self.len = 0;
        Ok(())
    }

    fn full(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Write for LogFile {
    /// Writes all of `bytes`, which are whole lines.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.len > 0 && self.len.saturating_add(bytes.len() as u64) > self.cap {
            // Where no room can be made, the old file goes on: what is said counts more than its length.
            let _ = self.turn();
        }
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let text = |path: &PathBuf| fs::read_to_string(path).unwrap().replace('\n', ",");
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        names.iter().map(|path| format!("{} {}", name(path), text(path))).collect()
    }

    #[test]
    fn full_files_make_room_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = LogFile::open(&path, 8, 2).unwrap();
        for number in 1..=4 {
            writeln!(log, "one {number}").unwrap();
        }
        assert_eq!(all(dir.path()), ["x.log one 4,", "x.log.1 one 3,", "x.log.2 one 2,"]);
        let mut log = LogFile::open(&path, 12, 2).unwrap();
        log.write_all(b"five\n").unwrap();
        assert_eq!(all(dir.path())[0], "x.log one 4,five,");
        log.write_all(b"more than there is room for\n").unwrap();
        assert_eq!(all(dir.path())[0], "x.log more than there is room for,");
        assert_eq!(all(dir.path())[1], "x.log.1 one 4,five,");
    }

    #[test]
    fn none_may_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&dir.path().join("x.log"), 1, 0).unwrap();
        log.write_all(b"one\n").unwrap();
        log.write_all(b"two\n").unwrap();
        assert_eq!(all(dir.path()), ["x.log two,"]);
    }
}
