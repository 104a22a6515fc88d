//! Which files of this machine a job may name as a base image.

use std::path::PathBuf;

use fetch_oci::ImageName;
use obuilder_core::bstr::{BStr, ByteSlice};
use obuilder_core::spec::Spec;

/// Directories below which layouts and archives may lie; without any no job reads one.
///
/// A job's author chooses the name, and the worker would open it as root: private archives, pipes that nobody writes to, the
/// results of others.
#[derive(Debug, Clone, Default)]
pub struct ImageRoots(Vec<PathBuf>);

impl ImageRoots {
    /// These directories, which need not exist yet.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self(roots)
    }

    /// Why `spec` may not be built, if its images, or those of the builds in it, lie elsewhere.
    pub fn refuse(&self, spec: &Spec) -> Option<String> {
        let from = spec.from.as_bstr();
        if ImageName::is_file(from) && !self.allow(from) {
            return Some(format!(
                "The image `{from}` is refused: jobs may use layouts and archives only from directories that the operator of this \
                 worker names by --image-file-root"
            ));
        }
        spec.builds.iter().find_map(|(_, nested)| self.refuse(nested))
    }

    fn allow(&self, from: &BStr) -> bool {
        let path = match from.to_str().map(ImageName::parse) {
            Ok(Ok(ImageName::Layout { path, .. } | ImageName::DockerArchive { path, .. })) => path,
            _ => return false,
        };
        // Links are followed first: where they lead counts.
        let Ok(path) = path.canonicalize() else { return false };
        let mut roots = self.0.iter().filter_map(|root| root.canonicalize().ok());
        roots.any(|root| path.starts_with(root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_lie_below_the_roots_or_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (root, out) = (dir.path().join("root"), dir.path().join("rooted"));
        for dir in [&root, &out] {
            std::fs::create_dir(dir).unwrap();
        }
        std::fs::write(root.join("a.tar"), "").unwrap();
        std::fs::write(out.join("b.tar"), "").unwrap();
        std::os::unix::fs::symlink(&out, root.join("link")).unwrap();
        let roots = ImageRoots::new(vec![root, "/nonexistent".into()]);
        let refused = |roots: &ImageRoots, from: &str| {
            let from = from.replace("DIR", dir.path().to_str().unwrap());
            let nested = format!("((build x ((from \"{from}\"))) (from scratch))");
            let refused = [format!("((from \"{from}\"))"), nested]
                .map(|text| roots.refuse(&Spec::parse(text.as_bytes()).unwrap()).is_some());
            assert_eq!(refused[0], refused[1], "{from}");
            refused[0]
        };
        for from in ["scratch", "debian:12", "registry.example/x/y", "oci"] {
            assert!(!refused(&ImageRoots::default(), from), "{from}");
        }
        for from in ["docker-archive:DIR/root/a.tar", "oci:DIR/root/a.tar", "oci:DIR/root"] {
            assert!(refused(&ImageRoots::default(), from), "{from}");
            assert!(!refused(&roots, from), "{from}");
        }
        for from in [
            "oci:",
            "oci:DIR/rooted/b.tar",
            "oci:DIR/root/link/b.tar",
            "docker-archive:DIR/root/../rooted/b.tar",
            "oci:DIR/root/missing",
            "docker-archive:/dev/zero",
        ] {
            assert!(refused(&roots, from), "{from}");
        }
    }
}
