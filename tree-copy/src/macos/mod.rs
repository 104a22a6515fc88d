//! What macOS does its own way.

mod attributes;
mod clone;
mod special;

pub(crate) use attributes::{
    attributes, attributes_of_name, copy_attributes, copy_attributes_of_name, forget_inherited,
};
pub(crate) use clone::{make_file, send};
pub(crate) use special::{
    make_device, make_fifo, make_traversable, set_mode_of_name, sync_one, sync_volume,
};
