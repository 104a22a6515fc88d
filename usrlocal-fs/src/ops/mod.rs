//! What is done for each request; the answers are sent by [`crate::fs`].

pub(crate) mod attributes;
pub(crate) mod extended;
pub(crate) mod files;
pub(crate) mod listing;
pub(crate) mod names;
