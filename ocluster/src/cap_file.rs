//! `.cap` files: a capability URI on one line, for its owner's eyes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::uri::{CapUri, UriError};

/// Most bytes a file may have.
const LARGEST: u64 = 64 * 1024;

/// Why a file gives no URI.
#[derive(Debug, thiserror::Error)]
pub enum CapFileError {
    /// It cannot be read or written.
    #[error("failed to {action} `{path}`")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("`{path}` holds no capability")]
    Uri {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: UriError,
    },
}

/// Reads the URI in the file `path`; white space around it does not count.
pub fn read(path: &Path) -> Result<CapUri, CapFileError> {
    let failed = |source| CapFileError::Io { action: "read", path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        let path = path.display();
        tracing::warn!(
            "others may read `{path}`, and whoever does can use the service; `chmod 600` it"
        );
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(failed)?;
    let wrong = |source| CapFileError::Uri { path: path.into(), source };
    let text = str::from_utf8(&bytes).map_err(|_| wrong(UriError::Scheme))?;
    text.trim().parse().map_err(wrong)
}

/// Writes `uri` to the file `path`, which only its owner can then read.
pub fn write(path: &Path, uri: &CapUri) -> Result<(), CapFileError> {
    let failed = |source| CapFileError::Io { action: "write", path: path.into(), source };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).map_err(failed)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    file.write_all(format!("{uri}\n").as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_for_its_owner_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool-x.cap");
        let uri: CapUri = "capnp://insecure@[::1]:9000/aGVsbG8".parse().unwrap();
        write(&path, &uri).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap(), uri);
        std::fs::write(&path, b"\xff\n").unwrap();
        assert_eq!(
            read(&path).unwrap_err().to_string(),
            format!("`{}` holds no capability", path.display())
        );
        let missing = read(&dir.path().join("none")).unwrap_err();
        assert!(missing.to_string().starts_with("failed to read `"), "{missing}");
    }
}
