//! Sizes and times as people write and read them.

use std::time::Duration;

const SIZES: [(&str, u64); 9] = [
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
];

const TIMES: [(&str, u64); 5] =
    [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400), ("w", 7 * 86_400)];

/// Reads a size in bytes: `4096`, `500MB` (powers of 1000), `20GiB` or `20G` (powers of 1024), `1.5T`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a size such as `500MB`, `20GiB` or `1.5T`");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").unwrap_or(&unit);
    let scale = match unit {
        "" => 1,
        unit => SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?.1,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale).ok_or_else(|| format!("`{text}` is too large a size"));
    }
    let number: f64 = number.parse().map_err(|_| bad())?;
    let bytes = number * scale as f64;
    // Beyond 2^53 a fraction of a byte has no meaning, and no disk holds that much.
    if bytes < 9e15 { Ok(bytes as u64) } else { Err(format!("`{text}` is too large a size")) }
}

/// Writes a size for people: `812 B`, `3.4 MiB`.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// Reads a time: `90s`, `15m`, `2h`, `7d`, `2w`, or several such after each other: `1h30m`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a time such as `90s`, `15m`, `1h30m` or `7d`");
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit = rest[digits..].chars().next().ok_or_else(bad)?;
        rest = &rest[digits + unit.len_utf8()..];
        let mut name = [0; 4];
        let name: &str = unit.encode_utf8(&mut name);
        let scale = TIMES.iter().find(|(known, _)| *known == name).ok_or_else(bad)?.1;
        total =
            number.checked_mul(scale).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
    }
    if text.is_empty() { Err(bad()) } else { Ok(Duration::from_secs(total)) }
}

/// Writes a time for people, in at most six columns up to a hundred hours: `0.02s`, `12.3s`, `4m07s`, `2h03m`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match time.as_secs() {
        _ if seconds < 9.995 => format!("{seconds:.2}s"),
        _ if seconds < 59.95 => format!("{seconds:.1}s"),
        _ if seconds < 3599.5 => {
            let whole = seconds.round() as u64;
            format!("{}m{:02}s", whole / 60, whole % 60)
        }
        _ => {
            let minutes = (seconds / 60.0).round() as u64;
            format!("{}h{:02}m", minutes / 60, minutes % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_systems() {
        for (text, expected) in [
            ("0", 0),
            ("4096", 4096),
            ("4096b", 4096),
            ("1k", 1024),
            ("1kb", 1000),
            ("1 KiB", 1024),
            ("500MB", 500_000_000),
            ("20GiB", 20 << 30),
            ("20g", 20 << 30),
            ("1.5T", 3 << 39),
        ] {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "G", "five", "1x", "-1", "1.2.3", "1 2", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_short() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_570, "1.0 MiB"),
            (3_565_158, "3.4 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn times_are_read() {
        for (text, expected) in
            [("90s", 90), ("15m", 900), ("1h30m", 5400), ("7d", 604_800), ("2w", 1_209_600)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(expected)), "{text}");
        }
        for text in ["", "5", "m", "1y", "1h30", "-1s", "1.5h", "1µ"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_written_short() {
        for (milliseconds, expected) in [
            (0, "0.00s"),
            (20, "0.02s"),
            (9_994, "9.99s"),
            (9_996, "10.0s"),
            (12_340, "12.3s"),
            (59_960, "1m00s"),
            (247_000, "4m07s"),
            (3_599_600, "1h00m"),
            (7_380_000, "2h03m"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), expected);
        }
    }
}
