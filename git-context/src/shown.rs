//! Strangers' text in our own words.

/// The longest text that is shown whole, in bytes.
const LONGEST: usize = 200;

/// `text` on one line, without control characters and of bounded length, so that it can neither forge a line of a log nor fill it.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if shown.len() > LONGEST {
            shown.push('…');
            break;
        }
        match character {
            ' ' => shown.push(' '),
            '"' | '\'' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown
}

/// The same for bytes that need not be text.
pub(crate) fn shown_bytes(bytes: &[u8]) -> String {
    shown(&String::from_utf8_lossy(&bytes[..bytes.len().min(4 * LONGEST)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_be_forged_or_filled() {
        assert_eq!(shown("a b \"c\""), "a b \"c\"");
        assert_eq!(shown("a\nJob succeeded\u{1b}[2J"), "a\\nJob succeeded\\u{1b}[2J");
        assert!(shown(&"é".repeat(5000)).len() < LONGEST + 10);
        assert_eq!(shown_bytes(b"\xff/x"), "\u{fffd}/x");
    }
}
