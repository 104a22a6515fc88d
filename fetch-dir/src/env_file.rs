//! The environment of an image: a file of `KEY=VALUE` lines.

use std::path::{Path, PathBuf};

use bstr::{BString, ByteSlice};

/// A line that is none of `KEY=VALUE`, a comment (`# …`) and blank.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: expected `KEY=VALUE`, a `#` comment or nothing, found `{found}`", .path.display())]
pub struct BadLine {
    /// The file.
    pub path: PathBuf,
    /// Number of the line, from 1.
    pub line: usize,
    /// What it says.
    pub found: BString,
}

/// Reads `text`, the contents of the file at `path`, in the order of its lines. Blanks around a line's key do not count;
/// a value is taken as it stands, quotes and all.
pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Vec<(BString, BString)>, BadLine> {
    let mut env = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with(b"#") {
            continue;
        }
        match trimmed.split_once_str("=") {
            Some((key, value)) if is_key(key) && !value.contains(&0) => {
                env.push((key.into(), value.into()));
            }
            _ => {
                let path = path.to_owned();
                return Err(BadLine { path, line: number + 1, found: line.into() });
            }
        }
    }
    Ok(env)
}

fn is_key(key: &[u8]) -> bool {
    !key.is_empty() && key.iter().all(|byte| !byte.is_ascii_whitespace() && *byte != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Vec<(String, String)>, String> {
        let env = parse(Path::new("a.env"), text.as_bytes()).map_err(|e| e.to_string())?;
        Ok(env.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
    }

    #[test]
    fn lines_are_kept_in_order_and_values_as_they_stand() {
        let text = "# the environment\n\nB= two =\"words\" \n  A=\n\t# more\r\nB=again\r\n";
        let expected = [("B", " two =\"words\" "), ("A", ""), ("B", "again")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(check(text).unwrap(), expected);
    }

    #[test]
    fn a_bad_line_is_shown_with_its_place() {
        for (text, line, found) in
            [("A=1\nexport B", 2, "export B"), ("=x", 1, "=x"), ("export A=1", 1, "export A=1")]
        {
            let expected = format!(
                "a.env:{line}: expected `KEY=VALUE`, a `#` comment or nothing, found `{found}`"
            );
            assert_eq!(check(text).unwrap_err(), expected);
        }
    }
}
