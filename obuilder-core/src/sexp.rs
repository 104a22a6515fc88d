//! The Sexplib reader and its two printers.
