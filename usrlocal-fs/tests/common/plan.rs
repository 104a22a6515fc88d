//! Random plans of operations, done in any directory, each step with its outcome in words.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, RenameFlags, XattrFlags};

/// A small generator of numbers: the same seed, the same plan.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % bound as u64) as usize
    }

    fn path(&mut self) -> &'static str {
        const PATHS: [&str; 14] = [
            "a",
            "b",
            "c",
            "d",
            "a/x",
            "a/y",
            "b/x",
            "b/y",
            "a/x/p",
            "a/x/q",
            "b/x/p",
            "c/y/p",
            "d/x/q/deep",
            "a/y/p/deep",
        ];
        PATHS[self.below(PATHS.len())]
    }
}

/// One directory in which plans are done, and what the plan has open there.
pub struct Place {
    root: PathBuf,
    open: HashMap<usize, File>,
}

/// One step of a plan.
#[derive(Debug, Clone)]
pub enum Step {
    Write(&'static str, usize, usize),
    Append(&'static str, usize),
    Read(&'static str),
    Map(&'static str, usize),
    Truncate(&'static str, usize),
    Allocate(&'static str, usize),
    Holes(&'static str),
    Copy(&'static str, &'static str),
    Mkdir(&'static str, u32),
    Fifo(&'static str),
    Rmdir(&'static str),
    Unlink(&'static str),
    RemoveAll(&'static str),
    Rename(&'static str, &'static str, u32),
    Link(&'static str, &'static str),
    Symlink(&'static str, &'static str),
    Readlink(&'static str),
    Stat(&'static str),
    Chmod(&'static str, u32),
    Times(&'static str, u64),
    List(&'static str),
    Attribute(&'static str, usize),
    Attributes(&'static str),
    Hold(&'static str, usize),
    WriteHeld(usize, usize),
    ReadHeld(usize),
    Let(usize),
}

impl Step {
    pub fn random(dice: &mut Dice) -> Self {
        let (one, two) = (dice.path(), dice.path());
        let (size, slot) = (dice.below(9000), dice.below(4));
        let modes = [0o755, 0o700, 0o644, 0o600, 0o000, 0o2755, 0o1777, 0o555];
        let mode = modes[dice.below(modes.len())];
        match dice.below(34) {
            0..3 => Self::Write(one, dice.below(3) * 5000, size),
            3 => Self::Append(one, size),
            4..6 => Self::Read(one),
            6 => Self::Map(one, size),
            7 => Self::Truncate(one, size),
            8 => Self::Allocate(one, size),
            9 => Self::Holes(one),
            10 => Self::Copy(one, two),
            11..15 => Self::Mkdir(one, [0o755, 0o755, 0o755, 0o2755, 0o700][dice.below(5)]),
            15 => Self::Fifo(one),
            16 => Self::Rmdir(one),
            17 => Self::Unlink(one),
            18 => Self::RemoveAll(one),
            19..22 => Self::Rename(one, two, [0, 0, 0, 1, 2][dice.below(5)]),
            22 => Self::Link(one, two),
            23 => Self::Symlink(one, two),
            24 => Self::Readlink(one),
            25 => Self::Stat(one),
            26 => Self::Chmod(one, mode),
            27 => Self::Times(one, size as u64),
            28 => Self::List(one),
            29 => Self::Attribute(one, size % 100),
            30 => Self::Attributes(one),
            31 => Self::Hold(one, slot),
            32 => Self::WriteHeld(slot, size),
            _ if size % 3 == 0 => Self::Let(slot),
            _ => Self::ReadHeld(slot),
        }
    }
}

impl Place {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), open: HashMap::new() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Does one step and says what came of it.
    pub fn take(&mut self, step: &Step) -> String {
        match self.try_to(step) {
            Ok(said) => said,
            Err(error) => format!("error {}", error.raw_os_error().unwrap_or(-1)),
        }
    }

    fn try_to(&mut self, step: &Step) -> io::Result<String> {
        Ok(match step {
            Step::Write(path, offset, size) => {
                let file =
                    opening().write(true).create(true).truncate(false).open(self.at(path))?;
                file.write_all_at(&text(*size), *offset as u64)?;
                size_of(&file)?
            }
            Step::Append(path, size) => {
                let mut file = opening().append(true).open(self.at(path))?;
                io::Write::write_all(&mut file, &text(*size))?;
                size_of(&file)?
            }
            Step::Read(path) => sum(&read(&self.at(path))?),
            Step::Map(path, offset) => map(&self.at(path), *offset)?,
            Step::Truncate(path, size) => {
                let file = opening().write(true).open(self.at(path))?;
                file.set_len(*size as u64)?;
                size_of(&file)?
            }
            Step::Allocate(path, size) => {
                let file = opening().write(true).open(self.at(path))?;
                let mode = [
                    FallocateFlags::empty(),
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                ];
                rustix::fs::fallocate(&file, mode[size % 2], *size as u64 / 2, *size as u64 + 1)?;
                size_of(&file)?
            }
            Step::Holes(path) => {
                let file = opening().read(true).open(self.at(path))?;
                if !file.metadata()?.is_file() {
                    return Ok("no file".into());
                }
                holes_are_empty(&file)?
            }
            Step::Copy(from, to) => {
                let (from, to) = (
                    opening().read(true).open(self.at(from))?,
                    opening().write(true).create(true).truncate(true).open(self.at(to))?,
                );
                let copied = rustix::fs::copy_file_range(&from, None, &to, None, 20_000)?;
                format!("{copied}")
            }
            Step::Mkdir(path, mode) => {
                rustix::fs::mkdirat(CWD, self.at(path), Mode::from_raw_mode(*mode))?;
                String::new()
            }
            Step::Fifo(path) => {
                rustix::fs::mknodat(
                    CWD,
                    self.at(path),
                    FileType::Fifo,
                    Mode::from_raw_mode(0o640),
                    0,
                )?;
                String::new()
            }
            Step::Rmdir(path) => format!("{:?}", fs::remove_dir(self.at(path))?),
            Step::Unlink(path) => format!("{:?}", fs::remove_file(self.at(path))?),
            Step::RemoveAll(path) => format!("{:?}", fs::remove_dir_all(self.at(path))?),
            Step::Rename(from, to, flags) => {
                let flags = RenameFlags::from_bits_retain(*flags);
                format!(
                    "{:?}",
                    rustix::fs::renameat_with(CWD, self.at(from), CWD, self.at(to), flags)?
                )
            }
            Step::Link(from, to) => {
                format!(
                    "{:?}",
                    rustix::fs::linkat(CWD, self.at(from), CWD, self.at(to), AtFlags::empty())?
                )
            }
            Step::Symlink(target, path) => format!("{:?}", symlink(target, self.at(path))?),
            Step::Readlink(path) => format!("{:?}", fs::read_link(self.at(path))?),
            Step::Stat(path) => describe(&self.at(path))?,
            Step::Chmod(path, mode) => {
                format!(
                    "{:?}",
                    fs::set_permissions(self.at(path), fs::Permissions::from_mode(*mode))?
                )
            }
            Step::Times(path, seconds) => {
                let time = SystemTime::UNIX_EPOCH + Duration::new(*seconds * 1000, 123_456_789);
                let file = opening().read(true).open(self.at(path))?;
                file.set_times(fs::FileTimes::new().set_modified(time).set_accessed(time))?;
                let meta = file.metadata()?;
                format!("{} {}", meta.mtime(), meta.mtime_nsec())
            }
            Step::List(path) => list(&self.at(path))?.join(" "),
            Step::Attribute(path, size) => {
                let name = ["user.one", "user.two"][size % 2];
                if *size < 20 {
                    rustix::fs::removexattr(self.at(path), name)?;
                } else {
                    rustix::fs::setxattr(self.at(path), name, &text(*size), XattrFlags::empty())?;
                }
                String::new()
            }
            Step::Attributes(path) => attributes(&self.at(path))?,
            Step::Hold(path, slot) => {
                let file = opening().read(true).write(true).open(self.at(path))?;
                self.open.insert(*slot, file);
                String::new()
            }
            Step::WriteHeld(slot, size) => match self.open.get(slot) {
                None => "nothing held".into(),
                Some(file) => {
                    file.write_all_at(&text(*size), *size as u64)?;
                    size_of(file)?
                }
            },
            Step::ReadHeld(slot) => match self.open.get(slot) {
                None => "nothing held".into(),
                Some(file) => {
                    let mut bytes = vec![0; 20_000];
                    let read = file.read_at(&mut bytes, 0)?;
                    format!("{} {}", sum(&bytes[..read]), file.metadata()?.nlink())
                }
            },
            Step::Let(slot) => format!("{}", self.open.remove(slot).is_some()),
        })
    }

    /// Everything in the directory, in words.
    pub fn all(&self) -> Vec<String> {
        let mut found = Vec::new();
        gather(&self.root, Path::new(""), &mut found);
        found.sort();
        found
    }
}

fn gather(root: &Path, below: &Path, found: &mut Vec<String>) {
    let Ok(names) = list(&root.join(below)) else { return };
    for name in names {
        let name = name.split_once(' ').unwrap().1.to_owned();
        let below = below.join(name);
        let path = root.join(&below);
        let said = describe(&path).unwrap_or_else(|error| error.to_string());
        let Ok(kind) = fs::symlink_metadata(&path).map(|meta| meta.file_type()) else {
            found.push(format!("{} {said}", below.display()));
            continue;
        };
        let holds = if kind.is_file() {
            fs::read(&path).map_or("closed".into(), |bytes| sum(&bytes))
        } else {
            String::new()
        };
        let extra = attributes(&path).unwrap_or_default();
        found.push(format!("{} {said} {holds} {extra}", below.display()));
        if kind.is_dir() {
            gather(root, &below, found);
        }
    }
}

/// A fifo is opened like any other name, and nobody is at its other end.
fn opening() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_NONBLOCK);
    options
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut opening().read(true).open(path)?, &mut bytes)?;
    Ok(bytes)
}

fn text(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 7 + size) as u8).collect()
}

fn sum(bytes: &[u8]) -> String {
    let sum =
        bytes.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("{} bytes, {sum:x}", bytes.len())
}

fn size_of(file: &File) -> io::Result<String> {
    Ok(format!("{} bytes now", file.metadata()?.len()))
}

fn describe(path: &Path) -> io::Result<String> {
    let meta = fs::symlink_metadata(path)?;
    let size = if meta.is_dir() { 0 } else { meta.len() };
    Ok(format!("{:o} {}:{} {size} links {}", meta.mode(), meta.uid(), meta.gid(), meta.nlink()))
}

fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        names.push(format!(
            "{:?} {}",
            entry.file_type()?.is_dir(),
            entry.file_name().to_string_lossy()
        ));
    }
    names.sort();
    Ok(names)
}

fn attributes(path: &Path) -> io::Result<String> {
    let mut names = vec![0u8; 4096];
    let size = rustix::fs::llistxattr(path, names.as_mut_slice())?;
    let mut said = Vec::new();
    for name in names[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = String::from_utf8_lossy(name).into_owned();
        let mut value = vec![0u8; 4096];
        let size = rustix::fs::lgetxattr(path, &*name, value.as_mut_slice())?;
        said.push(format!("{name}={}", sum(&value[..size])));
    }
    said.sort();
    Ok(said.join(" "))
}

/// Where the holes are is the filesystem's own business; that there is nothing in them is not.
fn holes_are_empty(file: &File) -> io::Result<String> {
    let length = file.metadata()?.len();
    let mut at = 0;
    while at < length {
        let data = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => length,
            Err(error) => return Err(error.into()),
        };
        let mut hole = vec![1; (data - at) as usize];
        file.read_exact_at(&mut hole, at)?;
        if hole.iter().any(|byte| *byte != 0) {
            return Ok(format!("something in the hole from {at} to {data}"));
        }
        at = if data < length {
            rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(data))?
        } else {
            length
        };
    }
    Ok("holes are empty".into())
}

/// Reads and writes through a shared mapping, and reads through a private one.
fn map(path: &Path, offset: usize) -> io::Result<String> {
    let file = opening().read(true).write(true).open(path)?;
    let length = file.metadata()?.len() as usize;
    if length == 0 {
        return Ok("nothing to map".into());
    }
    let mapped = |flags| {
        // SAFETY: a new mapping of a whole open file, which nobody shortens while it is mapped.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at.cast::<u8>()) }
    };
    let (shared, private) = (mapped(libc::MAP_SHARED)?, mapped(libc::MAP_PRIVATE)?);
    // SAFETY: both mappings are `length` bytes long, and unmapped here alone.
    let seen = unsafe {
        *shared.add(offset % length) = 42;
        let seen = sum(std::slice::from_raw_parts(private, length));
        *private.add(0) = 7;
        libc::munmap(shared.cast(), length);
        libc::munmap(private.cast(), length);
        seen
    };
    Ok(format!("{seen}, then {}", sum(&read(path)?)))
}
