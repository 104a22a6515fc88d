//! Names of caches as names of directories.

use bstr::{BStr, BString, ByteSlice};

/// The directory's name for the cache `name`, which is not empty.
pub(crate) fn encode(name: &BStr) -> String {
    let dots = name == "." || name == "..";
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    name.bytes()
        .map(|byte| match byte {
            b'.' if !dots => ".".to_owned(),
            byte if plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02x}"),
        })
        .collect()
}

/// The cache's name for a directory's name. What is no escape stands for itself, for OBuilder's sake.
pub(crate) fn decode(name: &[u8]) -> BString {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        let escape = after.get(..2).filter(|_| byte == b'%').and_then(hexadecimal);
        decoded.push(escape.unwrap_or(byte));
        rest = if escape.is_some() { &after[2..] } else { after };
    }
    decoded.into()
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(digits[at]).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (name, encoded) in [
            ("opam-archives", "opam-archives"),
            ("a/b c", "a%2fb%20c"),
            (".", "%2e"),
            ("..", "%2e%2e"),
            ("...", "..."),
            ("100%", "100%25"),
            ("é", "%c3%a9"),
        ] {
            assert_eq!(encode(name.into()), encoded);
            assert_eq!(decode(encoded.as_bytes()), name);
        }
        assert_eq!(decode(b"50%"), "50%", "as another program may have named it");
        assert_eq!(decode(b"%zz"), "%zz");
    }
}
