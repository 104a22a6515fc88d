//! What is known of an image: a file in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::request::Request;
use crate::sources::Source;

/// The file in an image that says what it was made from; only copies of one image have the same.
pub const RECORD: &str = ".obuild-base-image.json";

/// What an image was made from. It holds no time, so that the same image made twice is the same.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// What was asked for.
    #[serde(flatten)]
    pub request: Request,
    /// Where its parts came from, by name.
    pub sources: Vec<(String, Source)>,
    /// The id of the result that it is.
    pub result: String,
    /// The home that opam's files in it name: builds on it must see theirs at the same place.
    pub home: PathBuf,
}

impl Record {
    /// Whether `other` is of the very same image, wherever its parts were brought from.
    pub(crate) fn is_same_image(&self, other: &Self) -> bool {
        let Self { request, sources: _, result, home } = self;
        // Being the default is no part of an image.
        let request = Request { default: other.request.default, ..request.clone() };
        (&request, result, home) == (&other.request, &other.result, &other.home)
    }

    /// The record of the image in `dir`; `None` where there is no image of ours.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(RECORD);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let wrong =
            |error: serde_json::Error| Error::Table { path: path.clone(), what: error.to_string() };
        serde_json::from_slice(&text).map(Some).map_err(wrong)
    }

    /// Writes it into the tree of an image.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(RECORD);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::io("write", &path)(error.into()))?;
        // The tree may hold a link of that name.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("replace", path)(error));
            }
            _ => {}
        }
        fs::write(&path, text).map_err(Error::io("write", path))
    }
}
