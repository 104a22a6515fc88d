//! Notices a step that starts a sandbox of its own, which macOS refuses inside another one.
//!
//! opam, Homebrew, SwiftPM and Bazel do so, and fail with one of these lines and exit status 71.

use bstr::ByteSlice;

/// What `sandbox-exec` says, and what SwiftPM's says.
const REFUSALS: [&[u8]; 2] = [
    b"sandbox_apply: Operation not permitted",
    b"sandbox_apply_container: Operation not permitted",
];

/// Said in the log once such a line has been seen.
pub(crate) const ADVICE: &str = "obuild: this step starts a sandbox of its own, which macOS does not allow inside another; \
    build with --isolation=users, or turn the inner one off (opam: `opam init --disable-sandboxing`; swift: `--disable-sandbox`)\n";

/// Looks for a refusal in output that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Nesting {
    /// The end of what has been seen, shorter than any refusal.
    tail: Vec<u8>,
    found: bool,
}

impl Nesting {
    /// Whether the output has a refusal in it with this piece, and had none before.
    pub(crate) fn begins_in(&mut self, piece: &[u8]) -> bool {
        if self.found {
            return false;
        }
        let keep = REFUSALS.map(<[u8]>::len).into_iter().max().unwrap_or(1) - 1;
        // Most of a large piece need not be copied: only its beginning can end what has begun before.
        let seam = [&self.tail, &piece[..piece.len().min(keep)]].concat();
        let refused = |text: &[u8]| REFUSALS.iter().any(|refusal| text.contains_str(refusal));
        self.found = refused(&seam) || refused(piece);
        self.tail = match piece.len() > keep {
            true => piece[piece.len() - keep..].to_vec(),
            false => seam[seam.len().saturating_sub(keep)..].to_vec(),
        };
        self.found
    }
}

/// What came of a try to confine a process that forbids it nothing; an error says why it failed.
pub(crate) fn judge(success: bool, stderr: &[u8]) -> Result<(), String> {
    if success {
        return Ok(());
    }
    Err(match REFUSALS.iter().any(|refusal| stderr.contains_str(refusal)) {
        true => "obuild itself runs in a sandbox, and macOS allows none inside another".to_owned(),
        false => format!("`sandbox-exec` fails: {}", stderr.trim().as_bstr()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is found with the output in pieces of `size`, and told once.
    fn check(output: &str, size: usize, expected: bool) {
        let mut nesting = Nesting::default();
        let told = output.as_bytes().chunks(size).filter(|piece| nesting.begins_in(piece)).count();
        assert_eq!(told, usize::from(expected), "{output:?} by {size}");
    }

    #[test]
    fn a_refusal_is_found_wherever_pieces_end() {
        let opam =
            "#=== ERROR\n# sandbox-exec: sandbox_apply: Operation not permitted\n# exit 71\n";
        let swift = "error:\nsandbox-exec: sandbox_apply_container: Operation not permitted\n";
        let twice = opam.repeat(3);
        let innocent = "sandbox_apply: no\nOperation not permitted\n".repeat(50);
        for size in 1..200 {
            check(opam, size, true);
            check(swift, size, true);
            check(&twice, size, true);
            check(&innocent, size, false);
            check(&(innocent.clone() + opam), size, true);
        }
    }

    #[test]
    fn our_own_sandbox_is_told() {
        assert_eq!(judge(true, b""), Ok(()));
        let nested = judge(false, b"sandbox-exec: sandbox_apply: Operation not permitted\n");
        assert!(nested.unwrap_err().starts_with("obuild itself runs in a sandbox"));
        let other = judge(false, b"sandbox-exec: unbound variable: x\n").unwrap_err();
        assert_eq!(other, "`sandbox-exec` fails: sandbox-exec: unbound variable: x");
    }

    #[test]
    fn the_advice_is_one_line() {
        assert_eq!(ADVICE.matches('\n').count(), 1);
        assert!(ADVICE.ends_with('\n') && !ADVICE.contains("  "));
    }
}
