//! What fetchers tell of images.

use bstr::BString;

/// What an image is, so that a change behind its name is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// Cheap to find out; equal stamps mean an unchanged image.
    pub stamp: String,
    /// Digest of the contents; images are the same when their digests are.
    pub digest: String,
}

/// An image that was brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its environment.
    pub env: Vec<(BString, BString)>,
    /// What was brought.
    pub fingerprint: Fingerprint,
}
