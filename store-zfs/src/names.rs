//! Names of caches as names of datasets, and whose names are whose.

use bstr::{BStr, BString, ByteSlice};
use obuilder_core::ResultId;

/// Stands before the two hexadecimal digits of a byte. OBuilder writes `%`, which no dataset's name may have, so that on ZFS it
/// fails on the names concerned.
const ESCAPE: u8 = b':';

/// Stands before every name, so that none of them is `.` or `..`.
const PREFIX: &str = "c-";

/// The dataset's name for the cache `name`.
pub(crate) fn encode(name: &BStr) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let encoded = name.bytes().map(|byte| match byte {
        byte if plain(byte) => char::from(byte).to_string(),
        byte => format!("{}{byte:02x}", char::from(ESCAPE)),
    });
    [PREFIX.to_owned()].into_iter().chain(encoded).collect()
}

/// The cache's name for a dataset's name; `None` if it is none of a cache.
pub(crate) fn decode(name: &str) -> Option<BString> {
    let mut rest = name.strip_prefix(PREFIX)?.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        let escape = after.get(..2).filter(|_| byte == ESCAPE).and_then(hexadecimal);
        decoded.push(escape.unwrap_or(byte));
        rest = if escape.is_some() { &after[2..] } else { after };
    }
    Some(decoded.into())
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    u8::from_str_radix(text, 16).ok()
}

/// Names of snapshots that a cache inherits from the version before begin so.
pub(crate) const INHERITED: &str = "old-";

/// The opening of a store, PID-RANDOM, that has made what has this name: UNIQUE, perhaps after an id. `None` if no store has.
pub(crate) fn maker(name: &str) -> Option<&str> {
    let unique = match name.split_once('-') {
        Some((id, unique)) if ResultId::parse(id).is_some() => unique,
        _ => name,
    };
    let (opening, number) = unique.rsplit_once('-')?;
    let (pid, random) = opening.split_once('-')?;
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let ours = is_number(pid) && is_number(number) && random.len() == 8 && random.bytes().all(hex);
    ours.then_some(opening)
}

/// The same for a snapshot that a cache has inherited.
pub(crate) fn maker_of_inherited(name: &str) -> Option<&str> {
    name.strip_prefix(INHERITED).and_then(maker)
}

/// Whether OBuilder names a leased copy of a cache so: N-c-NAME.
pub(crate) fn is_lease_of_obuilder(name: &str) -> bool {
    name.split_once('-').is_some_and(|(number, cache)| is_number(number) && decode(cache).is_some())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_have_a_maker() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(maker("12-0123abcd-7"), Some("12-0123abcd"));
        assert_eq!(maker(&format!("{id}-12-0123abcd-7")), Some("12-0123abcd"));
        assert_eq!(maker_of_inherited("old-12-0123abcd-7"), Some("12-0123abcd"));
        let mine = ["alice", "2024-01-05", "12-0123ABCD-7", "12-0123abcd-", "-0123abcd-7"];
        let more = ["old-12-0123abcd-7", "x-12-0123abcd-7", "12-0123abcd-7-8", "1-2-3", "", "-"];
        assert!(mine.iter().chain(&more).all(|name| maker(name).is_none()));
        assert_eq!(maker_of_inherited("old-config"), None);
        assert_eq!(maker_of_inherited("12-0123abcd-7"), None);
        assert!(is_lease_of_obuilder("0-c-opam") && is_lease_of_obuilder("12-c-a-b"));
        assert!(!["c-opam", "0-opam", "x-c-opam", "-c-opam"].into_iter().any(is_lease_of_obuilder));
    }

    #[test]
    fn names_go_there_and_back() {
        for (name, encoded) in [
            ("opam-archives", "c-opam-archives"),
            ("a/b c", "c-a:2fb:20c"),
            ("..", "c-.."),
            ("a:b", "c-a:3ab"),
            ("100%", "c-100:25"),
            ("é", "c-:c3:a9"),
        ] {
            assert_eq!(encode(name.into()), encoded);
            assert_eq!(decode(encoded).unwrap_or_default(), name);
        }
        assert_eq!(decode("lost+found"), None);
    }
}
