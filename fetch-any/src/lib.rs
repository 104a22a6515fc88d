//! Where `(from NAME)` leads: `scratch`, an image in the store's pool, a directory of images, a layout or archive, a registry, in this
//! order.
//!
//! [`Images`] is all fetchers as one, for programs that offer them all. It brings nothing itself.

#![forbid(unsafe_code)]

mod images;

pub use images::Images;
