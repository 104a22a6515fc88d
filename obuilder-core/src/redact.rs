//! Hides secrets in a stream of bytes, however it is cut.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// What stands for a secret.
pub const HIDDEN: &[u8] = b"***";

/// Bytes that a secret must have without the blanks around it: hiding shorter ones would ruin a log.
pub const SHORTEST: usize = 4;

/// Bytes of a secret that are looked for at most; how long a line of a secret must be to be hidden alone.
const LARGEST: usize = 1 << 20;
const SHORTEST_LINE: usize = 8;

/// A longer text is looked for in parts, so that no more than this is ever held back.
const LONGEST_PART: usize = 4096;

/// Secrets up to this are looked for in base64 too, in lines as `base64` prints them.
const LARGEST_ENCODED: usize = 4096;
const ENCODED_LINE: usize = 76;

/// Bytes of all patterns up to which the fastest and largest automaton is made.
const FEW: usize = 2048;

/// Whether `secret` is too short to be hidden; an empty one has nothing to hide.
pub fn is_too_short(secret: &[u8]) -> bool {
    let text = secret.trim_ascii();
    !text.is_empty() && text.len() < SHORTEST
}

/// Knows what to hide: each secret without the blanks around it, each longer line of it, and its base64 form.
#[derive(Clone)]
pub struct Redactor(Arc<Patterns>);

struct Patterns {
    automaton: AhoCorasick,
    /// In order.
    sorted: Vec<Vec<u8>>,
    longest: usize,
    /// How long the longest pattern is that begins with this byte; 0 if none does.
    reach: [usize; 256],
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never what it hides.
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// Hides `secrets`; `None` when there is nothing that could be hidden.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut patterns = BTreeSet::new();
        secrets.into_iter().for_each(|secret| add(secret, &mut patterns));
        let sorted: Vec<_> = patterns.into_iter().collect();
        let longest = sorted.iter().map(Vec::len).max()?;
        let mut reach = [0; 256];
        for pattern in &sorted {
            let reach = &mut reach[usize::from(pattern[0])];
            *reach = pattern.len().max(*reach);
        }
        let few = sorted.iter().map(Vec::len).sum::<usize>() <= FEW;
        let kind = if few { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA };
        let mut builder = AhoCorasick::builder();
        builder.match_kind(MatchKind::LeftmostLongest).kind(Some(kind));
        let automaton = builder.build(&sorted).expect("the patterns are fewer than the limits");
        Some(Self(Arc::new(Patterns { automaton, sorted, longest, reach })))
    }

    /// The beginning of a stream.
    pub fn stream(&self) -> Stream {
        Stream { patterns: self.0.clone(), held: Vec::new() }
    }
}

/// Adds what is to be hidden of one secret.
fn add(secret: &[u8], patterns: &mut BTreeSet<Vec<u8>>) {
    // Whoever prints it with the blanks around it prints this too.
    let text = secret.trim_ascii();
    let text = &text[..text.len().min(LARGEST)];
    if text.len() < SHORTEST {
        return;
    }
    parts(text, patterns);
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    for line in lines.filter(|line| line.len() >= SHORTEST_LINE) {
        parts(line, patterns);
    }
    if secret.len() <= LARGEST_ENCODED {
        for form in [secret, text] {
            let encoded = STANDARD_NO_PAD.encode(form).into_bytes();
            let lines = encoded.chunks(ENCODED_LINE).filter(|line| line.len() >= SHORTEST_LINE);
            patterns.extend(lines.map(<[u8]>::to_vec));
            parts(&encoded, patterns);
        }
    }
}

/// Adds `text` in parts of nearly one length.
fn parts(text: &[u8], patterns: &mut BTreeSet<Vec<u8>>) {
    let length = text.len().div_ceil(text.len().div_ceil(LONGEST_PART));
    patterns.extend(text.chunks(length).map(<[u8]>::to_vec));
}

/// A stream in which secrets are hidden. Of matches that overlap the one that begins first is hidden, of those that begin
/// together the longest, as if the whole stream were looked at in one piece.
pub struct Stream {
    patterns: Arc<Patterns>,
    /// The end of what was given: it may be the beginning of a secret.
    held: Vec<u8>,
}

impl Stream {
    /// Takes the next bytes of the stream and gives what may be shown now.
    pub fn push<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let joined = if self.held.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            let mut joined = std::mem::take(&mut self.held);
            joined.extend_from_slice(bytes);
            Cow::Owned(joined)
        };
        let (hidden, from, open) = self.patterns.hide(&joined, true);
        self.held = joined[open..].to_vec();
        match (hidden, joined) {
            (None, Cow::Borrowed(bytes)) => Cow::Borrowed(&bytes[..open]),
            (hidden, joined) => {
                let mut shown = hidden.unwrap_or_default();
                shown.extend_from_slice(&joined[from..open]);
                Cow::Owned(shown)
            }
        }
    }

    /// Gives what was held back, at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let (hidden, from, _) = self.patterns.hide(&held, false);
        let mut shown = hidden.unwrap_or_default();
        shown.extend_from_slice(&held[from..]);
        shown
    }
}

impl Patterns {
    /// The beginning of `bytes` up to the last secret, with all secrets hidden (`None` if there is none); where that secret
    /// ends; and where that begins of which only what is to come can tell whether it is a secret.
    ///
    /// If there is `more` to come, a secret at the end may turn out to be a part of a longer one.
    fn hide(&self, bytes: &[u8], more: bool) -> (Option<Vec<u8>>, usize, usize) {
        let open = |from| if more { self.open(bytes, from) } else { bytes.len() };
        let (mut shown, mut from, mut end) = (None::<Vec<u8>>, 0, open(0));
        for found in self.automaton.find_iter(bytes) {
            if found.start() >= end {
                break;
            }
            let shown = shown.get_or_insert_default();
            shown.extend_from_slice(&bytes[from..found.start()]);
            shown.extend_from_slice(HIDDEN);
            from = found.end();
            if from > end {
                end = open(from);
            }
        }
        (shown, from, end)
    }

    /// Where the part of `bytes` begins, not before `from`, that ends with them and is the beginning of a pattern.
    fn open(&self, bytes: &[u8], from: usize) -> usize {
        let first = from.max((bytes.len() + 1).saturating_sub(self.longest));
        let begins = |at: &usize| {
            let rest = &bytes[*at..];
            self.reach[usize::from(rest[0])] > rest.len() && self.goes_on(rest)
        };
        (first..bytes.len()).find(begins).unwrap_or(bytes.len())
    }

    /// Whether a pattern begins with `bytes` and is longer.
    fn goes_on(&self, bytes: &[u8]) -> bool {
        let next = self.sorted.partition_point(|pattern| pattern.as_slice() <= bytes);
        self.sorted.get(next).is_some_and(|pattern| pattern.starts_with(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(redactor: &Redactor, text: &[u8], lengths: &[usize]) -> Vec<u8> {
        let (mut stream, mut rest, mut shown) = (redactor.stream(), text, Vec::new());
        for &length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(length.clamp(1, rest.len()));
            shown.extend_from_slice(&stream.push(now));
            assert!(stream.held.len() < redactor.0.longest);
            rest = later;
        }
        shown.extend(stream.finish());
        shown
    }

    fn contains(text: &[u8], part: &[u8]) -> bool {
        text.windows(part.len()).any(|window| window == part)
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_a_stream_is_cut(
            secrets in prop::collection::vec("[ab\n]{4,9}", 1..5),
            text in prop::collection::vec(prop_oneof![3 => any::<prop::sample::Index>().prop_map(Ok), 5 => "[abc\n]{0,5}".prop_map(Err)], 0..30),
            lengths in prop::collection::vec(1_usize..9, 1..20),
        ) {
            let Some(redactor) = Redactor::new(secrets.iter().map(String::as_bytes)) else { return Ok(()) };
            let text: Vec<u8> = text.iter().flat_map(|part| match part {
                Ok(secret) => secret.get(&secrets).bytes().collect::<Vec<_>>(),
                Err(other) => other.bytes().collect(),
            }).collect();
            let shown = cut(&redactor, &text, &lengths);
            let whole = redactor.0.automaton.replace_all_bytes(&text, &vec![HIDDEN; redactor.0.sorted.len()]);
            prop_assert_eq!(&shown, &whole);
            for secret in secrets.iter().map(|secret| secret.as_bytes().trim_ascii()) {
                prop_assert!(secret.len() < SHORTEST || !contains(&shown, secret));
            }
        }

        #[test]
        fn any_bytes_are_hidden_and_all_others_stay(
            secret in prop::collection::vec(any::<u8>(), 0..200),
            around in prop::collection::vec(any::<u8>(), 0..50),
            lengths in prop::collection::vec(1_usize..99, 1..9),
        ) {
            let Some(redactor) = Redactor::new([&secret[..]]) else { return Ok(()) };
            let text = [&around[..], &secret, &around].concat();
            let shown = cut(&redactor, &text, &lengths);
            let whole = redactor.0.automaton.replace_all_bytes(&text, &vec![HIDDEN; redactor.0.sorted.len()]);
            prop_assert_eq!(shown, whole);
        }
    }

    #[test]
    fn each_form_of_a_secret_is_hidden() {
        let key =
            "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nshort\n-----END KEY-----\n";
        let redactor = Redactor::new([key.as_bytes(), b" hunter2\n", b"abc"]).unwrap();
        let encoded = STANDARD_NO_PAD.encode(key);
        let [one, two] = [&encoded[..76], &encoded[76..]];
        for (text, expected) in [
            (format!("key: {key}."), "key: ***\n.".to_owned()),
            (key.replace('\n', "\r\n"), "***\r\n***\r\nshort\r\n***\r\n".to_owned()),
            ("hunter2hunter2 hunter\n".to_owned(), "****** hunter\n".to_owned()),
            (format!("{encoded}=\n{one}\n{two}=\n"), "***=\n***\n***=\n".to_owned()),
            (STANDARD_NO_PAD.encode(" hunter2\n"), "***".to_owned()),
            (STANDARD_NO_PAD.encode("hunter2"), "***".to_owned()),
            ("abc".to_owned(), "abc".to_owned()),
        ] {
            for length in [1, 7, 1000] {
                let shown = cut(&redactor, text.as_bytes(), &[length]);
                assert_eq!(String::from_utf8(shown).unwrap(), expected);
            }
        }
    }

    #[test]
    fn what_is_too_short_is_not_hidden() {
        for (secret, short) in
            [("", false), (" \n", false), ("a", true), (" abc\n", true), ("abcd", false)]
        {
            assert_eq!(is_too_short(secret.as_bytes()), short, "{secret:?}");
        }
        assert!(Redactor::new([&b"abc"[..], b"", b"\n"]).is_none());
        assert!(Redactor::new([]).is_none());
    }

    #[test]
    fn a_large_secret_is_hidden_and_little_is_held_back() {
        let secret: Vec<u8> =
            (0..40_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let redactor = Redactor::new([&secret[..]]).unwrap();
        assert!(redactor.0.longest <= LONGEST_PART);
        let shown = cut(&redactor, &[b"<", &secret[..], b">"].concat(), &[10_000]);
        assert!(shown.starts_with(b"<***") && shown.ends_with(b"***>"), "{}", shown.len());
        assert!(shown.len() < 200, "{}", shown.len());
    }

    #[test]
    fn a_redactor_does_not_show_what_it_hides() {
        assert!(!format!("{:?}", Redactor::new([&b"hunter2"[..]])).contains("hunter2"));
    }
}
