//! The `obuild` command.

fn main() {}
