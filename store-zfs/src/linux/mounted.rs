//! What is mounted where, as the kernel tells it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// What is mounted at `at`, on top of what else may be: for ZFS a dataset or a snapshot.
pub(super) fn source(at: &Path) -> io::Result<Option<OsString>> {
    Ok(source_in(&std::fs::read("/proc/thread-self/mountinfo")?, at))
}

/// The same in a table as proc(5) describes it; what was mounted later stands further below.
fn source_in(table: &[u8], at: &Path) -> Option<OsString> {
    let lines = table.split(|byte| *byte == b'\n').rev();
    lines.filter_map(read).find(|(place, _)| Path::new(place) == at).map(|(_, source)| source)
}

fn read(line: &[u8]) -> Option<(OsString, OsString)> {
    let mut words = line.split(|byte| *byte == b' ');
    let place = words.nth(4)?;
    // Of the fields in between there may be any number.
    let source = words.skip_while(|word| *word != b"-").nth(2)?;
    Some((plain(place), plain(source)))
}

/// Blanks and the like are written as a backslash and three octal digits.
fn plain(word: &[u8]) -> OsString {
    let (mut rest, mut plain) = (word, Vec::with_capacity(word.len()));
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..3).filter(|_| byte == b'\\').and_then(octal);
        plain.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(plain)
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_place_counts() {
        let table =
            b"30 1 0:26 / /tank/result/a rw,noatime shared:1 - zfs tank/result/a rw,xattr\n\
            31 30 0:27 / /tank/result/a ro shared:1 master:2 - zfs tank/result/a@snap ro\n\
            32 1 0:28 / /tank/two\\040words rw - zfs tank/two\\040words rw\n";
        let source = |at: &str| source_in(table, Path::new(at));
        assert_eq!(source("/tank/result/a"), Some("tank/result/a@snap".into()));
        assert_eq!(source("/tank/two words"), Some("tank/two words".into()));
        assert_eq!(source("/tank"), None);
    }
}
