use super::*;

fn listing(pairs: &[(&str, &str)]) -> Vec<u8> {
    pairs.iter().flat_map(|(key, value)| format!("{key}\n{value}\0").into_bytes()).collect()
}

fn module(name: &str, path: &str, url: &str) -> Vec<u8> {
    let key = |variable: &str| format!("submodule.{name}.{variable}");
    listing(&[(&key("path"), path), (&key("url"), url)])
}

#[test]
fn what_git_prints() {
    let mut text = module("a.b/c", "lib/x", "../x.git");
    text.extend(listing(&[
        ("submodule.skip.path", "y"),
        ("submodule.skip.url", "https://h/y"),
        ("submodule.skip.update", "none"),
        ("submodule.half.url", "https://h/z"),
        ("core.fsmonitor", "touch /tmp/x"),
        ("submodule.a.b/c.branch", "main"),
    ]));
    let modules = Modules::parse(&text).unwrap();
    let expected = Module { name: "a.b/c".into(), url: "../x.git".into(), skipped: false };
    assert_eq!(modules.at("lib/x".into()), Some(&expected));
    assert!(modules.at("y".into()).unwrap().skipped);
    assert_eq!(modules.at("z".into()), None);
}

#[test]
fn names_and_values_that_lead_elsewhere() {
    for name in ["../x", "a/../../x", "..", "a//b", "/a", ".git", "a/.GIT/hooks", "-x", "a\\b"] {
        let error = Modules::parse(&module(name, "x", "https://h/x")).expect_err(name);
        assert!(error.to_string().contains("is refused"), "{error}");
    }
    assert!(Modules::parse(&module("a", "x\r", "https://h/x")).is_err());
    assert!(Modules::parse(&module("a", "x", "https://h/x\ny")).is_err());
    assert!(Modules::parse(b"submodule.\xff.path\nx\0").is_err());
    let command = listing(&[("submodule.a.update", "!touch x")]);
    assert!(Modules::parse(&[module("a", "x", "https://h/x"), command].concat()).is_err());
}

#[test]
fn two_of_a_kind() {
    let twice = [module("a", "x", "https://h/x"), module("b", "x", "https://h/x")].concat();
    assert!(Modules::parse(&twice).unwrap_err().to_string().contains("same path"));
    let twice = [module("a", "x", "https://h/x"), module("a", "x", "https://h/y")].concat();
    assert!(Modules::parse(&twice).unwrap_err().to_string().contains("two values for `url`"));
    let nested =
        [module("a", "x", "https://h/x"), module("A/objects", "y", "https://h/y")].concat();
    let modules = Modules::parse(&nested).unwrap();
    assert!(Modules::check_names(modules.0.values()).is_err());
    let apart = [module("a", "x", "https://h/x"), module("ab", "y", "https://h/y")].concat();
    assert!(Modules::check_names(Modules::parse(&apart).unwrap().0.values()).is_ok());
}

proptest::proptest! {
    #[test]
    fn whatever_is_printed_is_read_or_refused(text in "(submodule\\.[a-z./]{0,6}\\.(path|url|update)\n[ -~\n]{0,8}\0|[ -~\n\0]{0,9}){0,6}") {
        if let Ok(modules) = Modules::parse(text.as_bytes()) {
            for module in modules.0.values() {
                proptest::prop_assert!(!module.name.split('/').any(|part| matches!(part, "" | "..")));
            }
        }
    }
}
