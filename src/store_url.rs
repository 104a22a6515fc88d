//! Stores by name: one table gives each kind its name, its form, and what is said where it cannot be had.

use std::path::PathBuf;

use store_rsync::Mode;

use crate::nearest::nearest;

/// A store as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreUrl {
    /// Its directory.
    pub(crate) path: PathBuf,
}

struct Kind {
    name: &'static str,
    form: &'static str,
    served: bool,
}

const KINDS: [Kind; 5] = [
    Kind { name: "rsync", form: "rsync:/path", served: true },
    Kind { name: "zfs", form: "zfs:pool", served: false },
    Kind { name: "btrfs", form: "btrfs:/path", served: false },
    Kind { name: "xfs", form: "xfs:/path", served: false },
    Kind { name: "overlayfs", form: "overlayfs:/path", served: false },
];

impl StoreUrl {
    /// Reads `KIND:PATH`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Err(format!("`{text}` lacks the kind of store; did you mean `rsync:{text}`?"));
        }
        let can = "this version can use `rsync:/path`";
        let Some((name, rest)) = text.split_once(':') else {
            return Err(format!("`{text}` is not a store such as `rsync:/path`; {can}"));
        };
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
            let near = nearest(name, KINDS.iter().map(|kind| kind.name));
            let near = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
            return Err(format!("there is no kind of store `{name}`{near}; {can}"));
        };
        if !kind.served {
            return Err(format!("stores of the form `{}` are not served yet; {can}", kind.form));
        }
        if !rest.starts_with('/') {
            return Err(format!("the path in `{text}` is not absolute; write `{}`", kind.form));
        }
        Ok(Self { path: rest.into() })
    }
}

/// Reads an rsync mode.
pub(crate) fn parse_mode(text: &str) -> Result<Mode, String> {
    text.parse().map_err(|error: store_rsync::UnknownMode| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_read() {
        let error = |text: &str| StoreUrl::parse(text).unwrap_err();
        assert_eq!(StoreUrl::parse("rsync:/a:b").unwrap().path, PathBuf::from("/a:b"));
        assert!(error("/a:b").contains("did you mean `rsync:/a:b`?"));
        assert!(error("a").contains("is not a store such as"));
        assert!(error("rsnyc:/a").contains("did you mean `rsync`?"));
        assert!(error("zfs:tank").contains("not served yet; this version can use `rsync:/path`"));
        assert!(error("rsync:a").contains("is not absolute"));
        assert!(error("rsync:").contains("is not absolute"));
    }
}
