//! Stores by name: one table gives each kind its name, its form, and what is said where it cannot be had.

use std::path::PathBuf;

use store_zfs::Place;

/// A store as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl {
    /// Its directory.
    pub path: PathBuf,
    /// The pool that is mounted there, for a ZFS store.
    pub pool: Option<Place>,
}

struct Kind {
    name: &'static str,
    form: &'static str,
    served: bool,
}

const KINDS: [Kind; 5] = [
    Kind { name: "rsync", form: "rsync:/path", served: true },
    Kind { name: "zfs", form: "zfs:pool", served: true },
    Kind { name: "btrfs", form: "btrfs:/path", served: false },
    Kind { name: "xfs", form: "xfs:/path", served: false },
    Kind { name: "overlayfs", form: "overlayfs:/path", served: false },
];

impl StoreUrl {
    /// Reads `KIND:PATH`; the error says what is wrong, and what could be written instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Err(format!("`{text}` lacks the kind of store; did you mean `rsync:{text}`?"));
        }
        let can = "this version can use `rsync:/path` and `zfs:pool`";
        let Some((name, rest)) = text.split_once(':') else {
            return Err(format!("`{text}` is not a store such as `rsync:/path`; {can}"));
        };
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
            let like = |kind: &Kind| strsim::jaro_winkler(name, kind.name);
            let near = KINDS.iter().max_by(|a, b| like(a).total_cmp(&like(b)));
            let near = near.filter(|kind| like(kind) > 0.75);
            let near =
                near.map(|kind| format!(", did you mean `{}`?", kind.name)).unwrap_or_default();
            return Err(format!("there is no kind of store `{name}`{near}; {can}"));
        };
        if !kind.served {
            return Err(format!("stores of the form `{}` are not served yet; {can}", kind.form));
        }
        if name == "zfs" {
            return zfs(rest).ok_or_else(|| {
                format!("`{text}` names no pool; write `zfs:pool`, or `zfs:/mount/point/of/pool`")
            });
        }
        if !rest.starts_with('/') {
            return Err(format!("the path in `{text}` is not absolute; write `{}`", kind.form));
        }
        Ok(Self { path: rest.into(), pool: None })
    }
}

/// A pool (or a dataset in one) at its usual place, or one that is mounted elsewhere by its own name, as pools on a Mac are.
fn zfs(text: &str) -> Option<StoreUrl> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (pool, root) = match text.rsplit_once('/') {
        Some((_, name)) if text.starts_with('/') => (name, PathBuf::from(text)),
        _ => (text, PathBuf::from("/").join(text)),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
    let named = pool.starts_with(|c: char| c.is_ascii_alphabetic()) && pool.chars().all(fits);
    let plain = named && pool.split('/').all(|part| !matches!(part, "" | "." | ".."));
    plain
        .then(|| StoreUrl { path: root.clone(), pool: Some(Place { pool: pool.to_owned(), root }) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_at_their_usual_place_or_where_they_are_said_to_be() {
        for (text, pool, root) in [
            ("zfs:tank", "tank", "/tank"),
            ("zfs:tank/ci", "tank/ci", "/tank/ci"),
            ("zfs:/Volumes/tank", "tank", "/Volumes/tank"),
            ("zfs:/tank/", "tank", "/tank"),
        ] {
            let url = StoreUrl::parse(text).unwrap();
            assert_eq!(url.path, PathBuf::from(root));
            assert_eq!(url.pool, Some(Place { pool: pool.into(), root: root.into() }));
        }
    }

    #[test]
    fn stores_are_read() {
        let error = |text: &str| StoreUrl::parse(text).unwrap_err();
        assert_eq!(StoreUrl::parse("rsync:/a:b").unwrap().path, PathBuf::from("/a:b"));
        assert!(error("/a:b").contains("did you mean `rsync:/a:b`?"));
        assert!(error("a").contains("is not a store such as"));
        assert!(error("rsnyc:/a").contains("did you mean `rsync`?"));
        assert!(error("xfs:/a").contains("not served yet; this version can use `rsync:/path`"));
        for bad in ["zfs:", "zfs:/", "zfs:a//b", "zfs:a/..", "zfs:-r", "zfs:a b"] {
            assert!(error(bad).contains("names no pool"), "{bad}");
        }
        assert!(error("rsync:a").contains("is not absolute"));
        assert!(error("rsync:").contains("is not absolute"));
    }
}
