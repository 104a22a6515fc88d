//! What Sexplib reads, refuses and prints, checked against Sexplib itself when the tables were written.

use obuilder_core::sexp::{MAX_DEPTH, Position, ReadProblem, Sexp};

/// `source` is read as what Sexplib's machine form of it is.
#[track_caller]
fn check(source: &[u8], machine: &str) {
    let sexp = Sexp::parse(source).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(sexp.to_machine(), machine);
}

#[track_caller]
fn refuse(source: &[u8], at: &str, problem: ReadProblem) {
    let error = Sexp::parse(source).expect_err("Sexplib refuses it");
    assert_eq!((error.position.to_string().as_str(), error.problem), (at, problem));
}

#[test]
fn atoms_are_text() {
    check(b"(1.10 007 1e3 +1 -x)", "(1.10 007 1e3 +1 -x)");
    check(b"  atom\n", "atom");
    check(b"( )", "()");
    check(b"(a\tb\x0cc\r\nd\ne)", "(a b c d e)");
    check(b"(# | #a a# |a a| #x|)", "(# | #a a# |a a| #x|)");
    check(b"(a'b [c] {d} `e` a\\b)", "(a'b [c] {d} `e`\"a\\\\b\")");
    check(b"(caf\xc3\xa9 \xff \x01)", r#"("caf\195\169""\255""\001")"#);
}

#[test]
fn neighbours_need_no_blank_when_one_is_quoted() {
    check(b"(a b)", "(a b)");
    check(b"(a\"b\"c)", "(a b c)");
    check(b"(a \"b c\" d)", "(a\"b c\"d)");
    check(b"(\"\" \"\")", "(\"\"\"\")");
    check(b"(a (b) c)", "(a(b)c)");
    check(b"(() () a)", "(()()a)");
    check(b"(\"b c\" (d) \"e\")", "(\"b c\"(d)e)");
}

#[test]
fn strings_have_ocaml_escapes() {
    check(br#""\n\t\b\r\\\"\'""#, r#""\n\t\b\r\\\"'""#);
    check(br#""\065\x41\x6a\x6A""#, "AAjj");
    check(br#""\000\255\x00\xff""#, r#""\000\255\000\255""#);
    check(b"\"a\\\n   \tb\"", "ab");
    check(b"\"a\\\r\n  b\"", "ab");
    check(b"\"a\nb\"", r#""a\nb""#);
    check(b"\"a\r\nb\"", r#""a\r\nb""#);
    check(b"\"a\\\rb\"", r#""a\rb""#);
    // No escapes: the backslash stays.
    check(br#""\q\ \(\e""#, r#""\\q\\ \\(\\e""#);
}

#[test]
fn comments_are_left_out() {
    check(b"; one\n(a ; two )\n b);three", "(a b)");
    check(b"(a;b\r\nc)", "(a c)");
    check(b"(a #;b c)", "(a c)");
    check(b"(a #; (b (c)) d)", "(a d)");
    check(b"(a #;#;b c d)", "(a d)");
    check(b"(a #; #| b |# c d)", "(a d)");
    check(b"#;a b #;(c) ", "b");
    check(b"(a#;b\n)", "(a#)");
    check(b"(a #| b #| c |# d |# e)", "(a e)");
    check(b"(a #|b|#c)", "(a c)");
    check(br#"(a #| "|#" |# b)"#, "(a b)");
    check(br#"(a #| "\"|#" ' |# b)"#, "(a b)");
    check(b"(a #|; |# b)", "(a b)");
}

#[test]
fn what_is_no_expression_is_refused_where_it_stands() {
    refuse(b"", "1:1", ReadProblem::Empty);
    refuse(b" ; x\n", "2:1", ReadProblem::Empty);
    refuse(b"a b", "1:3", ReadProblem::Second);
    refuse(b"(a)\n (b)", "2:2", ReadProblem::Second);
    refuse(b"(a))", "1:4", ReadProblem::Unopened);
    refuse(b"(a\n  (b", "2:3", ReadProblem::Unclosed);
    refuse(b"(a \"b)", "1:4", ReadProblem::UnclosedString);
    refuse(b"(a \"b\\\")", "1:4", ReadProblem::UnclosedString);
    refuse(b"(a #| #| |#)", "1:4", ReadProblem::UnclosedComment);
    refuse(b"#| \" |#", "1:4", ReadProblem::UnclosedString);
    refuse(b"(a |# b)", "1:4", ReadProblem::UnopenedComment);
    refuse(b"(a#|b|#)", "1:3", ReadProblem::CommentInAtom("#|"));
    refuse(b"(a|#)", "1:3", ReadProblem::CommentInAtom("|#"));
    refuse(b"(a #;)", "1:4", ReadProblem::NothingToSkip);
    refuse(b"a #;", "1:3", ReadProblem::NothingToSkip);
    refuse(b"(a\rb)", "1:3", ReadProblem::LoneCarriageReturn);
    refuse(b"(a;b\rc\n)", "1:5", ReadProblem::LoneCarriageReturn);
    refuse(br#""\256""#, "1:2", ReadProblem::EscapeRange("256".into()));
    refuse(br#""\12x""#, "1:2", ReadProblem::Escape("12x".into()));
    refuse(br#""\x4""#, "1:2", ReadProblem::Escape("x4\"".into()));
    refuse(br#"#| "\x4g" |# a"#, "1:5", ReadProblem::Escape("x4g".into()));
}

#[test]
fn columns_count_characters() {
    refuse("(été \"日本\" \u{1F42B} #;)".as_bytes(), "1:13", ReadProblem::NothingToSkip);
    refuse(b"(\xff\xfe )) ", "1:6", ReadProblem::Unopened);
    assert_eq!(Position::of(b"a\nb", 99), Position { line: 2, column: 2 });
}

#[test]
fn depth_is_bounded() {
    let nested = |depth| [b"(".repeat(depth), b")".repeat(depth)].concat();
    let deepest = Sexp::parse(&nested(MAX_DEPTH)).expect("still allowed");
    assert_eq!(deepest.to_string().len(), 2 * MAX_DEPTH);
    let at = format!("1:{}", MAX_DEPTH + 1);
    refuse(&nested(MAX_DEPTH + 1), &at, ReadProblem::TooDeep);
    refuse(&b"(".repeat(100_000), &at, ReadProblem::TooDeep);
    refuse(&b"#;".repeat(100_000), "1:199999", ReadProblem::NothingToSkip);
    let comment = [b"#|".repeat(100_000), b"|#".repeat(100_000), b"a".to_vec()].concat();
    check(&comment, "a");
}

#[test]
fn people_get_one_blank_between_items() {
    let sexp = Sexp::parse(b"(a\"b c\"(d()\"\\n\"))").expect("reads");
    assert_eq!(sexp.to_string(), r#"(a "b c" (d () "\n"))"#);
}
