//! The last lines of a step's output, fit for a terminal.

use std::collections::VecDeque;

/// Keeps the last lines of a stream of bytes.
pub(crate) struct Tail {
    lines: VecDeque<Vec<u8>>,
    keep: usize,
    /// Whether the last line has ended.
    ended: bool,
}

/// Longest part of a line that is kept, in bytes; no terminal is wider.
const LONGEST: usize = 2000;

impl Tail {
    /// Keeps the last `keep` lines.
    pub(crate) fn new(keep: usize) -> Self {
        Self { lines: VecDeque::new(), keep, ended: true }
    }

    /// Adds output.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.ended {
                self.lines.push_back(Vec::new());
                if self.lines.len() > self.keep {
                    self.lines.pop_front();
                }
            }
            self.ended = piece.ends_with(b"\n");
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            if let Some(line) = self.lines.back_mut() {
                let room = LONGEST.saturating_sub(line.len());
                line.extend_from_slice(&text[..text.len().min(room)]);
            }
        }
    }

    /// The last `count` lines that are not blank, cleaned.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let cleaned = self.lines.iter().rev().map(|line| clean(line));
        let mut lines: Vec<_> =
            cleaned.filter(|line| !line.trim().is_empty()).take(count).collect();
        lines.reverse();
        lines
    }
}

/// One line without what would move the cursor or change colours; of a line that was written over with
/// carriage returns, the last version.
pub(crate) fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    let text = console::strip_ansi_codes(text.rsplit('\r').next().unwrap_or(text));
    let text = text.replace('\t', "    ");
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_stay() {
        let mut tail = Tail::new(3);
        for piece in ["one\ntwo\nth", "ree", "\n\nfour"] {
            tail.push(piece.as_bytes());
        }
        assert_eq!(tail.last(3), ["three", "four"]);
        assert_eq!(tail.last(1), ["four"]);
    }

    #[test]
    fn nothing_moves_the_cursor() {
        for (line, expected) in [
            (&b"10%\r50%\r100%\r"[..], "100%"),
            (b"\x1b[1;31mred\x1b[0m \x1b[2J", "red "),
            (b"bell\x07 tab\tend", "bell tab    end"),
            (b"bad \xff byte", "bad \u{fffd} byte"),
        ] {
            assert_eq!(clean(line), expected);
        }
    }

    #[test]
    fn a_line_without_end_does_not_eat_the_memory() {
        let mut tail = Tail::new(2);
        for _ in 0..100 {
            tail.push(&[b'x'; 1000]);
        }
        assert_eq!(tail.last(1)[0].len(), LONGEST);
    }
}
