//! What an image runs on.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::manifest::Descriptor;

/// A system and a processor, as `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The processor, by Go's names.
    #[serde(default)]
    pub architecture: String,
    /// The system, by Go's names.
    #[serde(default)]
    pub os: String,
    /// The kind of processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Reads `OS/ARCHITECTURE` or `OS/ARCHITECTURE/VARIANT`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split('/');
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        match (os, architecture, parts.next()) {
            (Some(os), Some(architecture), None)
                if !os.is_empty() && !architecture.is_empty() && variant != Some("") =>
            {
                let variant = variant.map(str::to_owned);
                Ok(Self { architecture: normal(architecture).into(), os: os.into(), variant })
            }
            _ => Err(Error::BadName {
                text: text.to_owned(),
                why: "a platform is written as `linux/arm64`".to_owned(),
            }),
        }
    }

    /// This machine's.
    pub fn host() -> Self {
        let architecture = normal(std::env::consts::ARCH);
        let os = match std::env::consts::OS {
            "macos" => "darwin",
            other => other,
        };
        Self { architecture: architecture.into(), os: os.into(), variant: None }
    }

    /// What to look for when nobody says: this machine's own, and then Linux on its processor.
    pub(crate) fn usual() -> Vec<Self> {
        let host = Self::host();
        let linux = Self { os: "linux".to_owned(), ..host.clone() };
        if linux == host { vec![host] } else { vec![host, linux] }
    }

    /// Whether an image for `self` will do for `wanted`; a variant matters where both have one.
    pub(crate) fn serves(&self, wanted: &Self) -> bool {
        let named = |variant: &Option<String>| variant.clone().filter(|name| !name.is_empty());
        let variants = match (named(&self.variant), named(&wanted.variant)) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        let architectures = normal(&self.architecture) == normal(&wanted.architecture);
        self.os == wanted.os && architectures && variants
    }
}

/// A processor by Go's name for it; some tools write the kernel's, and Rust has its own.
fn normal(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i386" | "i686" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// Says what is wrong with an image that is itself for `found` and that no index has said to be for anything. One that does not say
/// either is for everything.
pub(crate) fn check(found: &Platform, wanted: &[Platform]) -> Result<()> {
    let silent = found.os.is_empty() || found.architecture.is_empty();
    if silent || wanted.iter().any(|wanted| found.serves(wanted)) {
        return Ok(());
    }
    let wanted = wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    Err(Error::NoPlatform { wanted, known: vec![found.to_string()] })
}

/// Chooses the image for the first of `wanted` that any is for. One that does not say what it is for is for everything.
pub(crate) fn choose<'a>(all: &[&'a Descriptor], wanted: &[Platform]) -> Result<&'a Descriptor> {
    let serving = |wanted: &Platform| {
        all.iter().find(|one| one.platform.as_ref().is_some_and(|has| has.serves(wanted)))
    };
    let unmarked = || all.iter().find(|one| one.platform.is_none());
    if let Some(found) = wanted.iter().find_map(serving).or_else(unmarked) {
        return Ok(found);
    }
    let name = |platform: &Platform| platform.to_string();
    let known = all.iter().filter_map(|one| one.platform.as_ref()).map(name).collect();
    let wanted = wanted.iter().map(name).collect::<Vec<_>>().join(" or ");
    Err(Error::NoPlatform { wanted, known })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn image(platform: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: Digest::of(platform.unwrap_or_default().as_bytes()),
            size: 0,
            platform: platform.map(|text| Platform::parse(text).unwrap()),
            annotations: None,
        }
    }

    fn check(all: &[Option<&str>], wanted: &[&str]) -> std::result::Result<Option<String>, String> {
        let all: Vec<_> = all.iter().copied().map(image).collect();
        let wanted: Vec<_> = wanted.iter().map(|text| Platform::parse(text).unwrap()).collect();
        choose(&all.iter().collect::<Vec<_>>(), &wanted)
            .map(|found| found.platform.as_ref().map(ToString::to_string))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_first_platform_that_there_is_is_chosen() {
        let all = [Some("linux/arm/v7"), Some("linux/amd64"), Some("linux/arm64/v8")];
        let chosen = |wanted: &[&str]| check(&all, wanted).unwrap().unwrap();
        assert_eq!(chosen(&["linux/amd64"]), "linux/amd64");
        assert_eq!(chosen(&["darwin/arm64", "linux/arm64"]), "linux/arm64/v8");
        assert_eq!(chosen(&["linux/arm"]), "linux/arm/v7");
        let expected =
            "the image is not for linux/arm/v6, only for linux/arm/v7, linux/amd64, linux/arm64/v8";
        assert_eq!(check(&all, &["linux/arm/v6"]).unwrap_err(), expected);
        assert_eq!(check(&[None], &["linux/amd64"]), Ok(None));
    }

    #[test]
    fn platforms_are_read() {
        for bad in ["", "linux", "linux/", "/amd64", "a/b/", "a/b/c/d"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }
}
