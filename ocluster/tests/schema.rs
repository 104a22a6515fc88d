//! The generated code is that of the schema, and the schema is the protocol's.

use std::path::Path;
use std::process::Command;

/// Generates the code anew and compares; with `OCLUSTER_GENERATE` set, writes it instead.
#[test]
fn the_generated_code_is_fresh() {
    if Command::new("capnp").arg("--version").output().is_err() {
        eprintln!("SKIP: whether the generated code is fresh: there is no `capnp` here");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let mut compiler = capnpc::CompilerCommand::new();
    compiler.src_prefix(root).file(root.join("schema.capnp")).output_path(out.path());
    compiler.run().unwrap();
    let fresh = std::fs::read_to_string(out.path().join("schema_capnp.rs")).unwrap();
    let committed = root.join("src/schema_capnp.inc");
    if std::env::var_os("OCLUSTER_GENERATE").is_some() {
        std::fs::write(&committed, &fresh).unwrap();
    }
    let same = fresh == std::fs::read_to_string(&committed).unwrap();
    assert!(same, "generate it: OCLUSTER_GENERATE=1 cargo test -p ocluster --test schema");
}
