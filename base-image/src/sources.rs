//! Where the parts of an image come from: a TOML file.
//!
//! ```toml
//! [homebrew]
//! url = "https://…/brew-4.6.0.tar.gz"      # a tar archive; `file://` works, too
//! sha256 = "…"
//! formulae = ["git", "gpatch"]             # what is installed with it; these two unless others are named
//! environment = { HOMEBREW_ARTIFACT_DOMAIN = "https://mirror.example" }
//!
//! [opam."2.1".arm64-macos]                 # a source for one platform; without that last part for all
//! url = "https://…/opam-2.1.6-arm64-macos"
//! sha256 = "…"
//!
//! [repository]
//! git = "https://github.com/ocaml/opam-repository.git"
//! commit = "…"
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::version::Opam;

/// The platforms that a source may be for.
pub const PLATFORMS: [&str; 4] = ["arm64-macos", "x86_64-macos", "arm64-linux", "x86_64-linux"];

/// Formulae that opam, and those who use it, need: Apple's own git and patch are too old, or differ.
const FORMULAE: [&str; 2] = ["git", "gpatch"];

/// The platform that this program runs on, such as `arm64-macos`.
pub fn this_platform() -> String {
    let processor = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        other => other,
    };
    format!("{processor}-{}", std::env::consts::OS)
}

/// Where one part comes from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", untagged)]
pub enum Source {
    /// A file behind a URL; a directory where a `file://` URL names one, which has no digest.
    Url {
        /// `https://`, `http://` or `file://`.
        url: String,
        /// What it must have, in hexadecimal.
        #[serde(skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
    },
    /// A commit of a git repository.
    Git {
        /// The repository's URL.
        git: String,
        /// The commit, in hexadecimal and full length.
        commit: String,
    },
}

impl Source {
    /// The directory that this is, where it is one.
    pub fn directory(&self) -> Option<&Path> {
        let Self::Url { url, .. } = self else { return None };
        url.strip_prefix("file://").map(Path::new).filter(|path| path.is_dir())
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        match self {
            Self::Url { url, .. } => url,
            Self::Git { git, .. } => git,
        }
    }
}

/// Homebrew, and what is installed with it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Homebrew {
    /// An archive (or directory) of its sources; whatever one directory stands around them is taken off an archive.
    pub source: Source,
    /// Formulae to install.
    pub formulae: Vec<String>,
    /// Variables while they are installed, such as mirrors.
    pub environment: BTreeMap<String, String>,
}

/// The sources of all parts on one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The file they were read from.
    path: PathBuf,
    platform: String,
    /// Homebrew.
    pub homebrew: Homebrew,
    opam: BTreeMap<Opam, Source>,
    /// opam's repository of packages: a commit, an archive or a directory.
    pub repository: Source,
}

impl Sources {
    /// Reads the sources for `platform` from `text`, the contents of the file at `path`.
    pub fn read(path: &Path, text: &str, platform: &str) -> Result<Self> {
        let mut file: Table = toml::from_str(text)
            .map_err(|source| Error::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        let reader = Reader { path, platform };
        let mut homebrew = reader.part(&mut file, "homebrew")?;
        let mut repository = reader.part(&mut file, "repository")?;
        let formulae = reader.formulae(&mut homebrew)?;
        let environment = reader.environment(&mut homebrew)?;
        let mut opam = BTreeMap::new();
        for (version, value) in reader.part(&mut file, "opam")? {
            let number: Opam = version.parse().map_err(|what| reader.wrong(what))?;
            let what = format!("opam {version}");
            let Value::Table(mut entry) = value else {
                return Err(reader.wrong(format!("{what} must be a table")));
            };
            // Another platform's alone is no mistake.
            if let Some(source) = reader.source(&mut entry, &what)? {
                opam.insert(number, source);
            }
        }
        reader.nothing_left(&file, "it")?;
        let needed = |found: Option<Source>, what: &str| {
            found.ok_or_else(|| reader.missing(what, "other platforms".to_owned()))
        };
        let source = needed(reader.source(&mut homebrew, "homebrew")?, "Homebrew")?;
        Ok(Self {
            path: path.to_owned(),
            platform: platform.to_owned(),
            homebrew: Homebrew { source, formulae, environment },
            opam,
            repository: needed(reader.source(&mut repository, "repository")?, "the repository")?,
        })
    }

    /// The source of opam `version`.
    pub fn opam(&self, version: &Opam) -> Result<&Source> {
        let reader = Reader { path: &self.path, platform: &self.platform };
        let known = || format!("opam {}", crate::request::words(&self.all_opam()));
        self.opam.get(version).ok_or_else(|| reader.missing(&format!("opam {version}"), known()))
    }

    /// Every version of opam that has a source, the oldest first.
    pub fn all_opam(&self) -> Vec<Opam> {
        let mut all: Vec<_> = self.opam.keys().cloned().collect();
        let numbers = |version: &Opam| {
            let part = |part: &str| part.parse::<u32>().unwrap_or(u32::MAX);
            version.to_string().split('.').map(part).collect::<Vec<_>>()
        };
        all.sort_by_key(numbers);
        all
    }
}

/// Reads one file for one platform.
struct Reader<'a> {
    path: &'a Path,
    platform: &'a str,
}

impl Reader<'_> {
    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::Table { path: self.path.to_owned(), what: what.into() }
    }

    fn missing(&self, what: &str, known: String) -> Error {
        let (path, platform) = (self.path.to_owned(), self.platform.to_owned());
        Error::NoSource { path, what: what.to_owned(), platform, known }
    }

    /// Takes the table `[name]`.
    fn part(&self, file: &mut Table, name: &str) -> Result<Table> {
        match file.remove(name) {
            Some(Value::Table(part)) => Ok(part),
            Some(_) => Err(self.wrong(format!("`{name}` must be a table"))),
            None => Err(self.wrong(format!("there is no table `[{name}]`"))),
        }
    }

    /// The source in `entry`, or in its table for this platform; `None` where it is for other platforms alone.
    fn source(&self, entry: &mut Table, what: &str) -> Result<Option<Source>> {
        if !entry.contains_key("url") && !entry.contains_key("git") {
            if let Some(stray) = entry.keys().find(|key| !PLATFORMS.contains(&key.as_str())) {
                let known = ["url", "sha256", "git", "commit"].into_iter().chain(PLATFORMS);
                let hint = nearest(stray, known);
                return Err(self.wrong(format!("{what} has nothing called `{stray}`{hint}")));
            }
            return match entry.remove(self.platform) {
                None if !entry.is_empty() => Ok(None),
                Some(Value::Table(mut own)) => self.plain_source(&mut own, what).map(Some),
                _ => Err(self.wrong(format!("{what} has neither `url` nor `git`"))),
            };
        }
        self.plain_source(entry, what).map(Some)
    }

    fn plain_source(&self, entry: &mut Table, what: &str) -> Result<Source> {
        let mut take = |key: &str| match entry.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(format!("{what}: `{key}` must be a string"))),
        };
        let (url, sha256, git, commit) =
            (take("url")?, take("sha256")?, take("git")?, take("commit")?);
        self.nothing_left(entry, what)?;
        let source = match (url, git, commit) {
            (Some(url), None, None) => Source::Url { url, sha256 },
            (None, Some(git), Some(commit)) if sha256.is_none() => Source::Git { git, commit },
            _ => {
                let form = "either `url` and `sha256`, or `git` and `commit`";
                return Err(self.wrong(format!("{what} must have {form}")));
            }
        };
        check(&source).map_err(|problem| self.wrong(format!("{what}: {problem}")))?;
        Ok(source)
    }

    fn nothing_left(&self, table: &Table, what: &str) -> Result<()> {
        match table.keys().next() {
            Some(stray) => {
                let known = ["url", "sha256", "git", "commit", "homebrew", "opam", "repository"];
                let hint = nearest(stray, known);
                Err(self.wrong(format!("{what} has nothing called `{stray}`{hint}")))
            }
            None => Ok(()),
        }
    }

    fn formulae(&self, homebrew: &mut Table) -> Result<Vec<String>> {
        let Some(value) = homebrew.remove("formulae") else {
            return Ok(FORMULAE.map(str::to_owned).to_vec());
        };
        let good = |c: u8| c.is_ascii_alphanumeric() || b"@._+/-".contains(&c);
        let name = |value: &Value| {
            let text = value.as_str()?;
            (text.bytes().all(good) && !text.starts_with('-') && !text.is_empty())
                .then(|| text.to_owned())
        };
        let names = value.as_array().and_then(|all| all.iter().map(name).collect());
        names.ok_or_else(|| self.wrong("homebrew: `formulae` must be a list of names"))
    }

    fn environment(&self, homebrew: &mut Table) -> Result<BTreeMap<String, String>> {
        let problem = || self.wrong("homebrew: `environment` must be a table of variables");
        let all = match homebrew.remove("environment") {
            None => Table::new(),
            Some(Value::Table(all)) => all,
            Some(_) => return Err(problem()),
        };
        let good = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
        let pair = |(name, value): (String, Value)| match value {
            Value::String(text) if name.bytes().all(good) && !text.contains(['\n', '\0']) => {
                Ok((name, text))
            }
            _ => Err(problem()),
        };
        all.into_iter().map(pair).collect()
    }
}

/// What is wrong with the text of `source`.
fn check(source: &Source) -> Result<(), String> {
    let hex = |text: &str, lengths: &[usize]| {
        lengths.contains(&text.len())
            && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
    };
    let known = |url: &str, schemes: &[&str]| schemes.iter().any(|scheme| url.starts_with(scheme));
    match source {
        Source::Url { url, .. } if !known(url, &["https://", "http://", "file:///"]) => {
            Err(format!("`{url}` is no URL that begins with https://, http:// or file:///"))
        }
        Source::Url { sha256: Some(digest), .. } if !hex(digest, &[64]) => {
            Err(format!("`{digest}` is not a sha256: 64 digits, 0-9 and a-f"))
        }
        Source::Git { git, .. } if !known(git, &["https://", "http://", "ssh://", "file:///"]) => {
            Err(format!("`{git}` is no URL that begins with https://, http://, ssh:// or file:///"))
        }
        Source::Git { commit, .. } if !hex(commit, &[40, 64]) => {
            Err(format!("`{commit}` is not a whole commit id: 40 digits, 0-9 and a-f"))
        }
        _ if source.url().bytes().any(|c| c.is_ascii_control() || c == b' ') => {
            Err(format!("`{}` has a blank in it", source.url().escape_debug()))
        }
        _ => Ok(()),
    }
}

/// `; did you mean …?` for a known word that is like `word`.
fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let like = known.into_iter().map(|known| (strsim::jaro_winkler(word, known), known));
    let best = like.filter(|(like, _)| *like > 0.8).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map(|(_, known)| format!("; did you mean `{known}`?")).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    pub(crate) fn read(text: &str) -> std::result::Result<Sources, String> {
        let read = Sources::read(Path::new("s.toml"), text, "arm64-macos");
        read.map_err(|error| format!("{error}; {}", error.hint().unwrap_or_default()))
    }

    pub(crate) fn example() -> String {
        let commit = &DIGEST[..40];
        format!(
            "[homebrew]\nurl = 'https://example.org/brew.tar.gz'\nsha256 = '{DIGEST}'\n\
             [opam.'2.1'.arm64-macos]\nurl = 'https://example.org/opam-a'\nsha256 = '{DIGEST}'\n\
             [opam.'2.1'.x86_64-macos]\nurl = 'https://example.org/opam-x'\nsha256 = '{DIGEST}'\n\
             [opam.'2.10']\nurl = 'file:///mirror/opam'\n[opam.'2.9']\nurl = 'file:///mirror/opam'\n\
             [opam.dev]\nurl = 'file:///mirror/dev'\n[opam.'2.0'.x86_64-macos]\nurl = 'file:///x'\n\
             [repository]\ngit = 'https://example.org/r.git'\ncommit = '{commit}'\n"
        )
    }

    #[test]
    fn each_platform_has_its_sources() {
        let sources = read(&example()).unwrap();
        let two_one = sources.opam(&"2.1".parse().unwrap()).unwrap();
        assert_eq!(two_one.url(), "https://example.org/opam-a");
        assert_eq!(crate::request::words(&sources.all_opam()), "2.1, 2.9, 2.10, dev");
        assert_eq!(sources.homebrew.formulae, FORMULAE);
        let error = sources.opam(&"2.0".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "s.toml: there is no source of opam 2.0 for arm64-macos");
        assert_eq!(error.hint().unwrap(), "the file has opam 2.1, 2.9, 2.10, dev");
    }

    #[test]
    fn mistakes_are_told() {
        let check = |from: &str, to: &str, expected: &str| {
            let text = example().replacen(from, to, 1);
            let found = read(&text).unwrap_err();
            assert!(found.contains("s.toml") && found.contains(expected), "{found}");
        };
        check("[homebrew]", "[homebrw]", "there is no table `[homebrew]`");
        check("sha256", "sha265", "homebrew has nothing called `sha265`; did you mean `sha256`?");
        check("commit =", "sha256 =", "must have either `url` and `sha256`, or `git` and `commit`");
        check("https://example.org/brew", "ftp://example.org/brew", "no URL that begins with");
        check(DIGEST, "abc", "`abc` is not a sha256");
        check(
            "arm64-macos",
            "arm-macos",
            "nothing called `arm-macos`; did you mean `arm64-macos`?",
        );
        check("[opam.dev]", "[opam.latest]", "`latest` is not a version of opam");
        check("https://example.org/r.git", "-oProxyCommand=x", "is no URL");
        check(&format!("'{}'", &DIGEST[..40]), "'main'", "`main` is not a whole commit id");
        check("[repository]", "[other]\nx = 1\n[repository]", "it has nothing called `other`");
        check("brew.tar.gz", "br ew", "has a blank in it");
        let one = example().replacen("[homebrew]\n", "[homebrew.x86_64-macos]\n", 1);
        assert!(read(&one).unwrap_err().contains("there is no source of Homebrew for arm64-macos"));
        let more =
            |line: &str| example().replacen("[homebrew]\n", &format!("[homebrew]\n{line}\n"), 1);
        assert!(read(&more("formulae = ['a b']")).unwrap_err().contains("a list of names"));
        assert!(read(&more("environment = {A = 1}")).unwrap_err().contains("table of variables"));
    }
}
