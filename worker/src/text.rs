//! The words of a job's log, as the original writes them.

use std::time::{SystemTime, UNIX_EPOCH};

/// A heading, on a line of its own after an empty one.
pub fn heading(text: &str) -> String {
    format!("\n\x1b[01;34m{text}\x1b[0m\n")
}

/// A note, with the time at which it was made.
pub fn note(time: SystemTime, text: &str) -> String {
    format!("\x1b[01;2m\x1b[01;35m{} {text}\x1b[0m\n", timestamp(time))
}

/// `YYYY-MM-DD HH:MM.SS`, in UTC.
pub fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}.{second:02}")
}

/// The Gregorian date so many days after 1970-01-01. Years are counted from March, so that the leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// `bytes` in quotes, as OCaml's `%S` has them.
pub fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\r' => text.push_str("\\r"),
            8 => text.push_str("\\b"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\{byte:03}")),
        }
    }
    text + "\""
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_as_the_original_does() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00.00");
        assert_eq!(at(951_827_696), "2000-02-29 12:34.56");
        assert_eq!(at(1_709_251_199), "2024-02-29 23:59.59");
        assert_eq!(at(1_795_235_984), "2026-11-21 04:39.44");
        assert_eq!(at(4_107_542_399), "2100-02-28 23:59.59");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00.00");
    }

    #[test]
    fn arguments_are_quoted_as_ocaml_does() {
        assert_eq!(quoted(b"echo \"no\"\n\\\x01\xc3\xa9"), r#""echo \"no\"\n\\\001\195\169""#);
    }
}
