//! Names of images.

use crate::version::Ocaml;

/// What stands in a name between the system and the compiler.
const OCAML: &str = "-ocaml-";

/// The name that images for `version` have unless another is asked for, such as `macos-homebrew-ocaml-5.4`.
pub fn usual_name(version: &Ocaml) -> String {
    format!("macos-homebrew{OCAML}{}", version.short())
}

/// The name under which the default image of a fleet goes besides its own: `macos-homebrew` for `macos-homebrew-ocaml-5.4`.
pub fn alias_of(name: &str) -> Option<&str> {
    name.split_once(OCAML).map(|(system, _)| system).filter(|system| !system.is_empty())
}

/// The compiler that a name promises, such as `5.4`.
pub(crate) fn release_of(name: &str) -> Option<&str> {
    let (_, release) = name.split_once(OCAML)?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    let (major, minor) = release.split_once('.')?;
    (digits(major) && digits(minor)).then_some(release)
}

/// Says what is wrong with `name` as the name of an image.
///
/// It becomes the name of a directory, and stands in shell scripts and in specs.
pub fn check_name(name: &str) -> Result<(), String> {
    let good = |c: u8| c.is_ascii_alphanumeric() || b"._+~-".contains(&c);
    match name.as_bytes() {
        [] => Err("an empty name names no image".to_owned()),
        [first, ..] if !first.is_ascii_alphanumeric() => {
            Err(format!("`{name}` cannot name an image: it must begin with a letter or a digit"))
        }
        _ if name == "scratch" => {
            Err("`scratch` is the image that is always there and empty".to_owned())
        }
        _ if name.ends_with(".env") => {
            Err(format!("`{name}` cannot name an image: it would be the environment of another"))
        }
        bytes if !bytes.iter().all(|c| good(*c)) || bytes.len() > 128 => Err(format!(
            "`{name}` cannot name an image: letters, digits and `. _ + ~ -`, at most 128"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_compiler() {
        let name = usual_name(&"5.4.1".parse().unwrap());
        assert_eq!(name, "macos-homebrew-ocaml-5.4");
        assert_eq!(alias_of(&name), Some("macos-homebrew"));
        assert_eq!(release_of(&name), Some("5.4"));
        assert_eq!(release_of("linux-ocaml-4.08"), Some("4.08"));
        assert_eq!((alias_of("mine"), release_of("mine")), (None, None));
        assert_eq!((alias_of("-ocaml-5.4"), release_of("x-ocaml-5.4.1")), (None, None));
        assert_eq!(release_of("x-ocaml-trunk"), None);
    }

    #[test]
    fn names_are_checked() {
        for good in ["macos-homebrew-ocaml-5.4", "a", "x_1.2+y~z"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let long = "a".repeat(129);
        for bad in ["", ".x", "-x", "a/b", "a b", "scratch", "a'b", "a.env", "..", long.as_str()] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
