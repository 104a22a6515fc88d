//! The reader.

use bstr::BString;

use super::{Node, NodeKind, Position};

/// How deep lists may be nested, so that no input can exhaust the stack.
pub const MAX_DEPTH: usize = 512;

/// Why a text is not one S-expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {problem}")]
pub struct ReadError {
    /// Where.
    pub position: Position,
    /// The same place, in bytes from the start of the text.
    pub offset: usize,
    /// What is wrong there.
    pub problem: ReadProblem,
}

/// What a [`ReadError`] complains of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadProblem {
    /// Only blanks and comments.
    #[error("found the end of the text where an S-expression should stand")]
    Empty,
    /// Something follows the S-expression.
    #[error("found a second S-expression, where only blanks and comments may follow the first")]
    Second,
    /// A `)` too many.
    #[error("found `)`, which closes nothing")]
    Unopened,
    /// A `)` too few.
    #[error("this `(` is never closed")]
    Unclosed,
    /// A string without its end.
    #[error("this string is never closed")]
    UnclosedString,
    /// A block comment without its end.
    #[error("this `#|` is never closed by `|#`")]
    UnclosedComment,
    /// A `|#` too many.
    #[error("found `|#`, which closes no comment")]
    UnopenedComment,
    /// A bare atom holds `#|` or `|#`.
    #[error("found `{0}` in an atom; quote the atom, or set the comment apart with a blank")]
    CommentInAtom(&'static str),
    /// `#;` with nothing behind it.
    #[error("`#;` leaves out the S-expression after it, but none follows")]
    NothingToSkip,
    /// A carriage return without its newline.
    #[error("found a carriage return without a newline; quote it as `\\r`")]
    LoneCarriageReturn,
    /// An escape that is none.
    #[error(
        "found the escape `\\{0}` in a string; allowed are `\\n`, `\\t`, `\\b`, `\\r`, `\\\\`, `\\\"`, `\\'` \
         and a code as `\\065` or `\\x41`"
    )]
    Escape(String),
    /// A decimal escape above 255.
    #[error("found the escape `\\{0}` in a string; codes go up to `\\255`")]
    EscapeRange(String),
    /// See [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

pub(super) fn read(source: &[u8]) -> Result<Node, ReadError> {
    Reader { source, at: 0 }.read_only().map_err(|(offset, problem)| ReadError {
        position: Position::of(source, offset),
        offset,
        problem,
    })
}

type Result<T, E = (usize, ReadProblem)> = std::result::Result<T, E>;

struct Reader<'a> {
    source: &'a [u8],
    at: usize,
}

enum Token {
    Open,
    Close,
    SkipNext,
    Atom(BString),
}

/// A list that is still open; the outermost one is the text itself.
#[derive(Default)]
struct Open {
    offset: usize,
    items: Vec<Node>,
    /// Where each `#;` stands that still waits for what it leaves out.
    skips: Vec<usize>,
}

impl Open {
    fn add(&mut self, node: Node) {
        if self.skips.pop().is_none() {
            self.items.push(node);
        }
    }

    fn close(self) -> Result<Node> {
        match self.skips.last() {
            Some(at) => Err((*at, ReadProblem::NothingToSkip)),
            None => Ok(Node { offset: self.offset, kind: NodeKind::List(self.items) }),
        }
    }

    /// The one item of the outermost list, which ends at `end`.
    fn only(mut self, end: usize) -> Result<Node> {
        if let Some(at) = self.skips.last() {
            return Err((*at, ReadProblem::NothingToSkip));
        }
        if let Some(second) = self.items.get(1) {
            return Err((second.offset, ReadProblem::Second));
        }
        self.items.pop().ok_or((end, ReadProblem::Empty))
    }
}

/// There is always one: the text itself.
fn innermost(lists: &mut [Open]) -> &mut Open {
    lists.last_mut().expect("the outermost list is never closed")
}

impl Reader<'_> {
    fn read_only(mut self) -> Result<Node> {
        let mut lists = vec![Open::default()];
        while let Some((offset, token)) = self.token()? {
            match token {
                Token::Open if lists.len() > MAX_DEPTH => {
                    return Err((offset, ReadProblem::TooDeep));
                }
                Token::Open => lists.push(Open { offset, ..Open::default() }),
                Token::Close => match lists.pop() {
                    Some(list) if !lists.is_empty() => innermost(&mut lists).add(list.close()?),
                    _ => return Err((offset, ReadProblem::Unopened)),
                },
                Token::SkipNext => innermost(&mut lists).skips.push(offset),
                Token::Atom(atom) => {
                    innermost(&mut lists).add(Node { offset, kind: NodeKind::Atom(atom) });
                }
            }
        }
        match lists.pop() {
            Some(text) if lists.is_empty() => text.only(self.source.len()),
            list => Err((list.map_or(0, |list| list.offset), ReadProblem::Unclosed)),
        }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.source.get(self.at + ahead).copied()
    }

    /// The next token and where it begins; `None` at the end.
    fn token(&mut self) -> Result<Option<(usize, Token)>> {
        self.skip_blanks()?;
        let start = self.at;
        let token = match (self.peek(0), self.peek(1)) {
            (None, _) => return Ok(None),
            (Some(b'('), _) => {
                self.at += 1;
                Token::Open
            }
            (Some(b')'), _) => {
                self.at += 1;
                Token::Close
            }
            (Some(b'#'), Some(b';')) => {
                self.at += 2;
                Token::SkipNext
            }
            (Some(b'"'), _) => Token::Atom(self.string()?),
            _ => Token::Atom(self.bare()?),
        };
        Ok(Some((start, token)))
    }

    fn skip_blanks(&mut self) -> Result<()> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b' ' | b'\t' | b'\n' | b'\x0c'), _) => self.at += 1,
                (Some(b'\r'), Some(b'\n')) => self.at += 2,
                (Some(b'\r'), _) => return Err((self.at, ReadProblem::LoneCarriageReturn)),
                (Some(b';'), _) => {
                    while self.peek(0).is_some_and(|byte| byte != b'\n' && byte != b'\r') {
                        self.at += 1;
                    }
                }
                (Some(b'#'), Some(b'|')) => self.block_comment()?,
                (Some(b'|'), Some(b'#')) => return Err((self.at, ReadProblem::UnopenedComment)),
                _ => return Ok(()),
            }
        }
    }

    /// Block comments nest, and a string in one hides what looks like the comment's end.
    fn block_comment(&mut self) -> Result<()> {
        let mut open = Vec::new();
        loop {
            match (self.peek(0), self.peek(1)) {
                (None, _) => {
                    let start = open.last().copied().unwrap_or(self.at);
                    return Err((start, ReadProblem::UnclosedComment));
                }
                (Some(b'#'), Some(b'|')) => {
                    open.push(self.at);
                    self.at += 2;
                }
                (Some(b'|'), Some(b'#')) => {
                    open.pop();
                    self.at += 2;
                    if open.is_empty() {
                        return Ok(());
                    }
                }
                (Some(b'"'), _) => drop(self.string()?),
                _ => self.at += 1,
            }
        }
    }

    fn bare(&mut self) -> Result<BString> {
        let start = self.at;
        while let Some(byte) = self.peek(0) {
            match (byte, self.peek(1)) {
                (b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' | b'(' | b')' | b'"' | b';', _) => break,
                (b'#', Some(b'|')) => return Err((self.at, ReadProblem::CommentInAtom("#|"))),
                (b'|', Some(b'#')) => return Err((self.at, ReadProblem::CommentInAtom("|#"))),
                _ => self.at += 1,
            }
        }
        Ok(BString::from(&self.source[start..self.at]))
    }

    fn string(&mut self) -> Result<BString> {
        let start = self.at;
        let mut text = BString::default();
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'"' => {
                    self.at += 1;
                    return Ok(text);
                }
                b'\\' => self.escape(&mut text)?,
                _ => {
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
        Err((start, ReadProblem::UnclosedString))
    }

    fn escape(&mut self, text: &mut BString) -> Result<()> {
        let plain = match self.peek(1) {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'b') => b'\x08',
            Some(b'r') => b'\r',
            Some(b'\n') => return self.line_end(2),
            Some(b'\r') if self.peek(2) == Some(b'\n') => return self.line_end(3),
            Some(byte @ (b'\\' | b'"' | b'\'' | b'\r')) => byte,
            Some(b'x') => return self.code(2, 2, 16, text),
            Some(b'0'..=b'9') => return self.code(1, 3, 10, text),
            // Sexplib keeps what is no escape as it stands.
            _ => {
                text.push(b'\\');
                self.at += 1;
                return Ok(());
            }
        };
        text.push(plain);
        self.at += 2;
        Ok(())
    }

    /// A backslash before a line's end leaves out the end and the blanks that begin the next line.
    fn line_end(&mut self, length: usize) -> Result<()> {
        self.at += length;
        while matches!(self.peek(0), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        Ok(())
    }

    /// Reads the number of `digits` digits that stands `skip` bytes ahead.
    fn code(&mut self, skip: usize, digits: usize, radix: u32, text: &mut BString) -> Result<()> {
        let end = (self.at + skip + digits).min(self.source.len());
        let read = String::from_utf8_lossy(&self.source[self.at + 1..end]).into_owned();
        let number = &read[(skip - 1).min(read.len())..];
        let all_digits =
            number.len() == digits && number.chars().all(|digit| digit.is_digit(radix));
        match u32::from_str_radix(number, radix) {
            Ok(code) if all_digits => match u8::try_from(code) {
                Ok(byte) => text.push(byte),
                Err(_) => return Err((self.at, ReadProblem::EscapeRange(read))),
            },
            _ => return Err((self.at, ReadProblem::Escape(read))),
        }
        self.at = end;
        Ok(())
    }
}
