//! Which store a URL such as `rsync:/path` or `zfs:pool` is for, for programs that offer them all. It opens nothing itself.

#![forbid(unsafe_code)]

mod url;

pub use url::StoreUrl;
