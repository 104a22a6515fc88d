//! What the settings say of images and registries.

use std::path::PathBuf;

use fetch_oci::{Access, DockerFetcher, Options, Platform, Pull};

use super::resolve::Settings;
use super::table::{Key, switch};
use crate::error::CommandError;

/// Reads when registries are asked.
pub(super) fn pull(text: &str) -> Result<Pull, String> {
    match text {
        "missing" => Ok(Pull::Missing),
        "always" => Ok(Pull::Always),
        "never" => Ok(Pull::Never),
        _ => Err(format!("`{text}` is none of `missing`, `always` and `never`")),
    }
}

/// Reads whether images from registries are brought by Docker.
pub(super) fn by_docker(text: &str) -> Result<bool, String> {
    match text {
        "oci" => Ok(false),
        "docker" => Ok(true),
        _ => Err(format!("`{text}` is neither `oci` nor `docker`")),
    }
}

impl Settings {
    /// Where the layers of images from registries are kept.
    pub(crate) fn layers(&self) -> PathBuf {
        self.text(Key::Layers).into()
    }

    /// How images are brought from layouts, archives and registries.
    pub(crate) fn oci(&self) -> Result<fetch_oci::Settings, CommandError> {
        Ok(fetch_oci::Settings {
            platform: self.platform()?,
            unpack: self.unpack(),
            access: self.access(),
            pull: self.pull()?,
            ..fetch_oci::Settings::new(self.layers())
        })
    }

    /// What brings images from registries, if that is Docker.
    pub(crate) fn docker(&self) -> Result<Option<DockerFetcher>, CommandError> {
        if !by_docker(self.text(Key::Fetcher)).map_err(CommandError::usage)? {
            return Ok(None);
        }
        Ok(Some(DockerFetcher {
            program: "docker".into(),
            pull: self.pull()?,
            platform: self.platform()?,
            unpack: self.unpack(),
        }))
    }

    /// How registries are reached.
    pub(crate) fn access(&self) -> Access {
        let file = |key| Some(PathBuf::from(self.text(key))).filter(|path| *path != PathBuf::new());
        let usual = Access::default();
        let hosts = self.text(Key::PlainHttp).split(',').map(str::trim);
        Access {
            plain_http: hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect(),
            certificates: file(Key::CaFile),
            docker_config: file(Key::DockerConfig),
            retries: self.text(Key::Retries).parse().unwrap_or(usual.retries),
            ..usual
        }
    }

    fn unpack(&self) -> Options {
        let usual = Options::default();
        let most_bytes = self.size(Key::MaxImageSize).unwrap_or(usual.most_bytes);
        let devices = switch(self.text(Key::ImageDevices)) == Ok(true);
        Options { most_bytes, devices, ..usual }
    }

    fn pull(&self) -> Result<Pull, CommandError> {
        pull(self.text(Key::Pull)).map_err(CommandError::usage)
    }

    fn platform(&self) -> Result<Option<Platform>, CommandError> {
        match self.text(Key::Platform) {
            "" => Ok(None),
            text => {
                let wrong = |error: fetch_oci::Error| CommandError::usage(error.to_string());
                Platform::parse(text).map(Some).map_err(wrong)
            }
        }
    }
}
