//! The conformance suite of core, on a real build user.

mod common;

obuilder_core::sandbox_conformance!(common::fixture);

mod without_world {
    obuilder_core::sandbox_conformance!(crate::common::fixture_without_world);
}
