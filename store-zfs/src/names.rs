//! Names of caches as names of datasets.

use bstr::{BStr, BString, ByteSlice};

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

#[cfg(test)]
mod tests {
    use super::*;

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
