//! Options of steps and of images from registries, by the names that `obuild` has for them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fetch_oci::{Access, DockerFetcher, OciFetcher, Platform, Pull};
use obuilder_core::units::{parse_duration, parse_size};
use sandbox_macos::Limits;

use crate::Stop;

/// What one step may take, and where images come from.
#[derive(Debug, Clone, Default, clap::Args, serde::Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Steps and images")]
pub(crate) struct Steps {
    /// Longest time that one step may run
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Most CPU time that one step may use, of all processors together
    #[arg(long, value_name = "TIME")]
    max_cpu: Option<String>,
    /// Most memory that one step may use
    #[arg(long, value_name = "SIZE")]
    max_memory: Option<String>,
    /// Most processes and threads that one step may have at once [default: 4096]
    #[arg(long, value_name = "N")]
    max_processes: Option<u64>,
    /// Largest file that one step may write
    #[arg(long, value_name = "SIZE")]
    max_file_size: Option<String>,
    /// Do not wait for the disk; after a power cut, results and caches may not be whole
    #[arg(long)]
    pub(crate) fast_sync: bool,
    /// What brings images from registries: oci or docker [default: oci]
    #[arg(long, value_name = "WHAT")]
    fetcher: Option<String>,
    /// When registries are asked: missing, always or never [default: missing]
    #[arg(long, value_name = "WHEN")]
    pull: Option<String>,
    /// Which image of several, such as `linux/arm64`
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Keep the layers of images from registries here [default: layers in the state directory]
    #[arg(long, value_name = "DIR")]
    layers: Option<PathBuf>,
    /// Most bytes that an image may unpack to
    #[arg(long, value_name = "SIZE")]
    max_image_size: Option<String>,
    /// Registries that are spoken to without TLS
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    plain_http: Vec<String>,
    /// Further certificates of registries to trust
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Docker's configuration file, for credentials
    #[arg(long, value_name = "FILE")]
    docker_config: Option<PathBuf>,
}

impl Steps {
    /// Puts what `file` says below this.
    pub(crate) fn below(&mut self, file: Self) {
        macro_rules! below {
            ($($field:ident),*) => { $(self.$field = self.$field.take().or(file.$field);)* };
        }
        below!(timeout, max_cpu, max_memory, max_processes, max_file_size, fetcher, pull, platform);
        below!(layers, max_image_size, ca_file, docker_config);
        self.fast_sync |= file.fast_sync;
        if self.plain_http.is_empty() {
            self.plain_http = file.plain_http;
        }
    }

    /// Longest time of a step.
    pub(crate) fn timeout(&self) -> Result<Option<Duration>, Stop> {
        time("timeout", self.timeout.as_deref())
    }

    /// What the system keeps a step to.
    pub(crate) fn limits(&self) -> Result<Limits, Stop> {
        let usual = Limits::default();
        if self.max_processes == Some(0) {
            return Err(Stop::usage("--max-processes: a step needs more than nothing"));
        }
        Ok(Limits {
            cpu: time("max-cpu", self.max_cpu.as_deref())?,
            memory: size("max-memory", self.max_memory.as_deref())?,
            processes: self.max_processes.unwrap_or(usual.processes),
            file_size: size("max-file-size", self.max_file_size.as_deref())?,
        })
    }

    /// Where layers of images are kept.
    pub(crate) fn layers(&self, state_dir: &Path) -> PathBuf {
        self.layers.clone().unwrap_or_else(|| state_dir.join("layers"))
    }

    /// What brings images from layouts, archives and registries.
    pub(crate) fn oci(&self, state_dir: &Path) -> Result<OciFetcher, Stop> {
        let usual = Access::default();
        let access = Access {
            plain_http: self.plain_http.clone(),
            certificates: self.ca_file.clone(),
            docker_config: self.docker_config.clone(),
            ..usual
        };
        let layers = self.layers(state_dir);
        Ok(OciFetcher::new(fetch_oci::Settings {
            platform: self.platform()?,
            unpack: self.unpack()?,
            access,
            pull: self.pull()?,
            ..fetch_oci::Settings::new(layers)
        }))
    }

    /// What brings images from registries instead, if that is Docker.
    pub(crate) fn docker(&self) -> Result<Option<DockerFetcher>, Stop> {
        match self.fetcher.as_deref() {
            None | Some("oci") => Ok(None),
            Some("docker") => Ok(Some(DockerFetcher {
                program: "docker".into(),
                pull: self.pull()?,
                platform: self.platform()?,
                unpack: self.unpack()?,
            })),
            Some(other) => {
                Err(Stop::usage(format!("--fetcher: `{other}` is neither `oci` nor `docker`")))
            }
        }
    }

    fn unpack(&self) -> Result<fetch_oci::Options, Stop> {
        let usual = fetch_oci::Options::default();
        let most_bytes = size("max-image-size", self.max_image_size.as_deref())?;
        Ok(fetch_oci::Options { most_bytes: most_bytes.unwrap_or(usual.most_bytes), ..usual })
    }

    fn pull(&self) -> Result<Pull, Stop> {
        match self.pull.as_deref() {
            None | Some("missing") => Ok(Pull::Missing),
            Some("always") => Ok(Pull::Always),
            Some("never") => Ok(Pull::Never),
            Some(other) => Err(Stop::usage(format!(
                "--pull: `{other}` is none of `missing`, `always` and `never`"
            ))),
        }
    }

    fn platform(&self) -> Result<Option<Platform>, Stop> {
        let parsed = self.platform.as_deref().map(Platform::parse).transpose();
        parsed.map_err(|error| Stop::usage(format!("--platform: {error}")))
    }
}

fn time(name: &str, given: Option<&str>) -> Result<Option<Duration>, Stop> {
    let parsed = given.map(parse_duration).transpose();
    parsed.map_err(|error| Stop::usage(format!("--{name}: {error}")))
}

fn size(name: &str, given: Option<&str>) -> Result<Option<u64>, Stop> {
    match given.map(parse_size).transpose() {
        Ok(Some(0)) => Err(Stop::usage(format!("--{name}: a step needs more than nothing"))),
        parsed => parsed.map_err(|error| Stop::usage(format!("--{name}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_that_were_given() {
        let given = Steps {
            timeout: Some("5m".into()),
            max_cpu: Some("1h".into()),
            max_memory: Some("2GiB".into()),
            max_processes: Some(7),
            max_file_size: Some("1MiB".into()),
            ..Steps::default()
        };
        let limits = given.limits().unwrap();
        assert_eq!(given.timeout().unwrap(), Some(Duration::from_secs(300)));
        assert_eq!((limits.cpu, limits.processes), (Some(Duration::from_secs(3600)), 7));
        assert_eq!((limits.memory, limits.file_size), (Some(2 << 30), Some(1 << 20)));
        for wrong in [
            Steps { max_memory: Some("0".into()), ..Steps::default() },
            Steps { max_cpu: Some("5".into()), ..Steps::default() },
            Steps { max_processes: Some(0), ..Steps::default() },
        ] {
            assert!(wrong.limits().is_err(), "{wrong:?}");
        }
    }
}
