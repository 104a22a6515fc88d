//! Makes trees to try things on: big ordinary ones, and small ones with everything a tree can hold.

mod mutate;

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Timespec, Timestamps, UTIME_OMIT};

use crate::place::open_dir;
use crate::platform;

pub use mutate::mutate;

/// Numbers that look random and are the same for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_number() % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).unwrap_or(0)]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next_number().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// Makes a tree of `files` files and about `bytes` bytes, shaped like an installed compiler with its packages: some 14
/// files a directory and up to nine levels, most files of a few kilobytes and one in 500 large, 3 % links,
/// 1 % hard links, 4 % executable.
pub fn make_ordinary(root: &Path, files: usize, bytes: u64, seed: u64) -> io::Result<()> {
    let random = &mut Random::new(seed);
    let dirs = make_dirs(root, (files / 14).max(2), random)?;
    let sizes: Vec<u64> = (0..files).map(|_| ordinary_size(random)).collect();
    let scale = bytes as f64 / sizes.iter().sum::<u64>() as f64;
    let block = random.bytes(1 << 20);
    let mut made: Vec<PathBuf> = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        let kind = *random.pick(&["ml", "cmi", "cmx", "o", "h", "txt"]);
        let path = random.pick(&dirs).join(format!("f{number}.{kind}"));
        match random.below(100) {
            0..3 if !made.is_empty() => {
                symlink(random.pick(&made).file_name().unwrap_or_default(), &path)?;
            }
            3 if !made.is_empty() => fs::hard_link(random.pick(&made), &path)?,
            _ => {
                ordinary_file(&path, (size as f64 * scale) as u64, number, &block)?;
                let mode = if random.chance(4) { 0o755 } else { 0o644 };
                fs::set_permissions(&path, Permissions::from_mode(mode))?;
                made.push(path);
            }
        }
    }
    Ok(())
}

fn make_dirs(root: &Path, count: usize, random: &mut Random) -> io::Result<Vec<PathBuf>> {
    let mut dirs = vec![root.to_owned()];
    let level = root.components().count();
    while dirs.len() < count {
        let recent = if random.chance(70) { dirs.len().saturating_sub(200) } else { 0 };
        let parent = random.pick(&dirs[recent..]).clone();
        if parent.components().count() < level + 8 {
            let name = *random.pick(&["lib", "share", "src", "doc", "bin", "_build", "stublibs"]);
            dirs.push(parent.join(format!("{name}{}", dirs.len())));
        }
    }
    dirs.iter().try_for_each(fs::create_dir_all)?;
    Ok(dirs)
}

fn ordinary_size(random: &mut Random) -> u64 {
    if random.below(500) == 0 {
        return 200_000 + random.below(3_800_000);
    }
    // A sum of a few even spreads is near enough to a bell; its power gives the long tail that file sizes have.
    let bell = (0..6).map(|_| random.below(1000) as f64 / 1000.0).sum::<f64>() - 3.0;
    (7.6 + 2.0 * bell).exp() as u64
}

fn ordinary_file(path: &Path, size: u64, number: usize, block: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    writeln!(file, "{number}")?;
    let mut left = usize::try_from(size).unwrap_or(usize::MAX).max(1);
    let mut offset = number * 4099 % (block.len() / 2);
    while left > 0 {
        let piece = left.min(block.len() - offset);
        file.write_all(&block[offset..offset + piece])?;
        left -= piece;
        offset = 0;
    }
    Ok(())
}

/// Makes a small tree that holds, in proportions that depend on `seed`, every kind of thing that the caller may make here:
/// odd names, hard links, links to nowhere, holes, all modes and owners, extended attributes, FIFOs, devices, read-only
/// and deep directories.
pub fn make_awkward(root: &Path, entries: usize, seed: u64) -> io::Result<()> {
    let mut tree =
        Awkward { random: Random::new(seed), dirs: vec![root.to_owned()], files: Vec::new() };
    fs::create_dir_all(root)?;
    for number in 0..entries {
        tree.add(number)?;
    }
    // From the last made up to the root: what is made in a directory changes its times, and a mode may forbid it.
    let dirs = std::mem::take(&mut tree.dirs);
    dirs.iter().rev().try_for_each(|dir| tree.finish_dir(dir))
}

struct Awkward {
    random: Random,
    dirs: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Awkward {
    fn add(&mut self, number: usize) -> io::Result<()> {
        let path = self.random.pick(&self.dirs).join(self.name(number));
        match self.random.below(14) {
            0..3 => {
                fs::create_dir(&path)?;
                self.dirs.push(path);
                return Ok(());
            }
            3 if !self.files.is_empty() => {
                return fs::hard_link(self.random.pick(&self.files), path);
            }
            4 => symlink(OsStr::from_bytes(self.random.pick::<&[u8]>(LINK_TARGETS)), &path)?,
            5 => self.sparse(&path)?,
            6 => platform::make_fifo(CWD, &c_path(&path))?,
            7 if is_root() => {
                platform::make_device(CWD, &c_path(&path), FileType::CharacterDevice, NULL_DEVICE)?;
            }
            _ => {
                let size = *self.random.pick(&[0, 1, 100, 4095, 4096, 4097, 150_000]);
                fs::write(&path, self.random.bytes(size))?;
            }
        }
        self.dress(&path)?;
        self.files.push(path);
        Ok(())
    }

    fn name(&self, number: usize) -> OsString {
        let mut name = NAMES[number % NAMES.len()].to_vec();
        name.extend_from_slice(number.to_string().as_bytes());
        OsStr::from_bytes(&name).to_owned()
    }

    fn sparse(&mut self, path: &Path) -> io::Result<()> {
        let file = File::create_new(path)?;
        for _ in 0..self.random.below(4) {
            let at = self.random.below(40) * 65_536 + self.random.below(5000);
            let bytes = self.random.bytes(3000);
            file.write_all_at(&bytes, at)?;
        }
        let end = file.metadata()?.len();
        file.set_len(end + self.random.below(3) * 1_000_000)
    }

    /// Gives what is at `path` an owner, a mode, attributes and a time.
    fn dress(&mut self, path: &Path) -> io::Result<()> {
        let link = path.is_symlink();
        if is_root() && self.random.chance(50) {
            let owner = [0, 1, 1000, 54_321].map(|id| *self.random.pick(&[id, 0]));
            std::os::unix::fs::lchown(path, Some(*self.random.pick(&owner)), Some(owner[2]))?;
        }
        if !link {
            self.attributes(path);
            let mode =
                *self.random.pick(&[0o644, 0o600, 0o755, 0o444, 0o4755, 0o2755, 0o666, 0o1644]);
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        self.set_time(path)
    }

    /// Not every filesystem has every attribute; what it has not cannot be lost.
    fn attributes(&mut self, path: &Path) {
        let set = |name: &str, value: &[u8]| {
            let _ = rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty());
        };
        if self.random.chance(30) {
            set("user.colour", b"blue");
            set("user.empty", b"");
            set("user.big", &vec![7; 1500]);
        }
        if is_root() && self.random.chance(10) {
            set("trusted.note", b"for root alone");
        }
        if self.random.chance(20) {
            set("system.posix_acl_access", &acl(54_321));
        }
        if path.is_dir() && self.random.chance(20) {
            set("system.posix_acl_default", &acl(1000));
        }
    }

    fn set_time(&mut self, path: &Path) -> io::Result<()> {
        let seconds = *self.random.pick(&[0, 1, 1_000_000_000, 1_700_000_000, 2_000_000_000]);
        let nanoseconds = self.random.below(1_000_000_000);
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ },
        };
        Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn finish_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.attributes(dir);
        let mode = *self.random.pick(&[0o755, 0o700, 0o555, 0o2775, 0o1777, 0o500]);
        fs::set_permissions(dir, Permissions::from_mode(mode))?;
        self.set_time(dir)
    }
}

/// The device that `/dev/null` is on Linux.
const NULL_DEVICE: u64 = (1 << 8) | 3;

const NAMES: &[&[u8]] = &[
    b"plain", b" blank ", b"new\nline", b"\xff\xfe", b"\xc3\xa9", b"-dash", b".hidden", b"quote'\"", b"back\\slash", b"*?[",
    b"averyveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryverylongname",
];

const LINK_TARGETS: &[&[u8]] =
    &[b"nowhere", b"/", b"..", b"../../../../etc/passwd", b"\xff", b".", b"a/b/../c"];

/// A POSIX ACL as Linux stores it: the owner, one more user, the group, the mask, others.
fn acl(user: u32) -> Vec<u8> {
    let none = u32::MAX;
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in
        [(1_u16, 6_u16, none), (2, 5, user), (4, 4, none), (16, 7, none), (32, 4, none)]
    {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&rights.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// Makes `levels` directories within each other below `root`, deeper than any path may be long, with a file in each.
pub fn make_deep(root: &Path, levels: usize) -> io::Result<()> {
    fs::create_dir_all(root)?;
    let mut at = crate::place::open_root(root)?;
    for level in 0..levels {
        let name = c"a-name-of-some-length-for-a-directory";
        rustix::fs::mkdirat(&at, name, rustix::fs::Mode::RWXU)?;
        if level % 50 == 0 {
            rustix::fs::mkdirat(&at, c"sibling", rustix::fs::Mode::RWXU)?;
        }
        rustix::fs::symlinkat(c"target", &at, c"link")?;
        at = open_dir(&at, name)?;
    }
    Ok(())
}
