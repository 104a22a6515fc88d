//! Looks for places of the machine in the files of an image.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;

use crate::error::{Error, Result};

/// Bytes read at once.
const BLOCK: usize = 256 * 1024;

/// A place that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file or link, relative to the image.
    pub path: PathBuf,
    /// Which place.
    pub place: String,
}

/// Finds every file and link below `root` that names one of `places`, in its contents or its target.
pub fn scan(root: &Path, places: &[PathBuf], cancelled: &dyn Fn() -> bool) -> Result<Vec<Finding>> {
    let patterns: Vec<_> = places.iter().map(|place| place.as_os_str().as_bytes()).collect();
    let finder = AhoCorasick::new(&patterns).map_err(|error| Error::Tree {
        action: "look for places of the machine".to_owned(),
        source: error.into(),
    })?;
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        let path = root.join(&dir);
        for entry in fs::read_dir(&path).map_err(Error::io("list", &path))? {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            let entry = entry.map_err(Error::io("list", &path))?;
            let name = dir.join(entry.file_name());
            let kind = entry.file_type().map_err(Error::io("look at", root.join(&name)))?;
            if kind.is_dir() {
                dirs.push(name);
                continue;
            }
            let place = if kind.is_symlink() {
                let target = fs::read_link(root.join(&name));
                let target = target.map_err(Error::io("read", root.join(&name)))?;
                finder.find(target.as_os_str().as_bytes()).map(|hit| hit.pattern())
            } else if kind.is_file() {
                in_file(&finder, &root.join(&name))?
            } else {
                None
            };
            if let Some(place) = place {
                let place = places[place.as_usize()].display().to_string();
                found.push(Finding { path: name, place });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

/// The first place that the file names.
fn in_file(finder: &AhoCorasick, path: &Path) -> Result<Option<aho_corasick::PatternID>> {
    let overlap = finder.max_pattern_len().saturating_sub(1);
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut buffer = vec![0; BLOCK + overlap];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..]).map_err(Error::io("read", path))?;
        if read == 0 {
            return Ok(None);
        }
        let end = kept + read;
        if let Some(hit) = finder.find(&buffer[..end]) {
            return Ok(Some(hit.pattern()));
        }
        // A place may stand across two blocks.
        let from = end.saturating_sub(overlap);
        buffer.copy_within(from..end, 0);
        kept = end - from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_wherever_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: Vec<u8>| fs::write(dir.path().join(name), text).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        write("clean", b"/store/home/x and /store/hom".to_vec());
        write("sub/text", b"PATH=/store/home.slots/705/home".to_vec());
        // Across the end of a block.
        write("large", [vec![b'x'; BLOCK - 5], b"/store/result-tmp/1".to_vec()].concat());
        std::os::unix::fs::symlink("/store/result-tmp/2", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        let places = ["/store/home.slots/", "/store/result-tmp/"].map(PathBuf::from);
        let found = scan(dir.path(), &places, &|| false).unwrap();
        let brief: Vec<_> =
            found.iter().map(|f| format!("{} {}", f.path.display(), f.place)).collect();
        let expected =
            ["large /store/result-tmp/", "link /store/result-tmp/", "sub/text /store/home.slots/"];
        assert_eq!(brief, expected);
        assert!(matches!(scan(dir.path(), &places, &|| true), Err(Error::Cancelled)));
    }
}
