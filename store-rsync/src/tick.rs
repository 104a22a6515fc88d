//! The clock of the filesystem, and whether it tells of every change.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tree_copy::Moment;

/// How long to wait for a clock to tick. Filesystems' clocks do so every few milliseconds; one that counts whole seconds, or
/// that was set back, is not waited for.
const LONGEST: Duration = Duration::from_millis(50);

const PAGE: usize = 4096;

/// Waits until a change to a file on the volume of `probe`, a file of ours, gets a later ctime than `newest`, and returns that
/// moment. What comes back is no later than `newest` when that takes too long.
pub(crate) fn pass(probe: &Path, newest: Moment) -> io::Result<Moment> {
    let file = File::open(probe)?;
    let start = Instant::now();
    loop {
        let now = touch(&file)?;
        if now > newest || start.elapsed() > LONGEST {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn touch(file: &File) -> io::Result<Moment> {
    file.set_modified(SystemTime::now())?;
    ctime(file)
}

fn ctime(file: &File) -> io::Result<Moment> {
    let meta = file.metadata()?;
    Ok(Moment(meta.ctime(), meta.ctime_nsec()))
}

/// Whether writing through a mapping of a file changes the file's ctime, found out by doing it with a new file at `path`.
/// In memory filesystems, for one, it does not.
pub(crate) fn tells_mapped_writes(path: &Path) -> io::Result<bool> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    // No hole: filling that would be a change by itself.
    file.write_all_at(&[0; PAGE], 0)?;
    let before = ctime(&file)?;
    pass_by_another(path, before)?;
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice, of a file that is as long; only this writes to it.
    unsafe {
        let at = mmap(std::ptr::null_mut(), PAGE, protection, flags, &file, 0)?;
        // Read first: where nobody watches for writes, the page is writable from then on.
        at.cast::<u8>().read_volatile();
        at.cast::<u8>().write_volatile(1);
        munmap(at, PAGE)?;
    }
    Ok(ctime(&file)? > before)
}

/// Lets the clock pass `before` without touching the file at `path`.
fn pass_by_another(path: &Path, before: Moment) -> io::Result<()> {
    let other = path.with_extension("clock");
    File::create_new(&other)?;
    pass(&other, before).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stderr)]

    use super::*;

    #[test]
    fn the_clock_passes_what_was_and_not_what_is_to_come() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        File::create(&file).unwrap();
        let newest = ctime(&File::open(&file).unwrap()).unwrap();
        assert!(pass(&file, newest).unwrap() > newest);
        let future = Moment(i64::MAX, 0);
        assert!(pass(&file, future).unwrap() < future);
    }

    #[test]
    fn mapped_writes_show_on_a_disk_and_not_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(tells_mapped_writes(&dir.path().join("file")).unwrap());
        let memory = Path::new("/dev/shm");
        let kind = rustix::fs::statfs(memory).map(|found| found.f_type as u64);
        if kind != Ok(0x0102_1994) {
            eprintln!("SKIP: /dev/shm is no memory filesystem");
            return;
        }
        let dir = tempfile::tempdir_in(memory).unwrap();
        assert!(!tells_mapped_writes(&dir.path().join("file")).unwrap());
    }
}
