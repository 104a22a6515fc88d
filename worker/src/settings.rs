//! The options with everything that nobody said filled in, and checked.

use std::path::PathBuf;
use std::time::Duration;

use obuild_worker::agent::Config;
use obuild_worker::log_file::LogFile;
use obuild_worker::weight::Weights;
use obuilder_core::units::{parse_duration, parse_size};
use ocluster::connect;

use crate::Stop;
use crate::options::Options;

/// First wait before a lost scheduler is looked for again.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// What the parts of the worker are told.
#[derive(Debug)]
pub(crate) struct Settings {
    /// For the agent.
    pub(crate) agent: Config,
    /// The file with the capability.
    pub(crate) cap: PathBuf,
    /// Directory for mirrors, contexts and logs.
    pub(crate) state_dir: PathBuf,
    /// Time between health checks; `None` for none.
    pub(crate) healthcheck: Option<Duration>,
    /// Percentage of the store's volume that is to be free.
    pub(crate) prune_threshold: f64,
    /// The rest.
    pub(crate) options: Options,
}

impl Settings {
    /// Reads the options, and the capability.
    pub(crate) fn new(options: Options) -> Result<Self, Stop> {
        let options = options.with_file()?;
        crate::values::check(&options)?;
        let missing = |name: &str| Stop::usage(format!("--{name} is missing"));
        let cap = options.connect.clone().ok_or_else(|| missing("connect"))?;
        let name =
            options.name.clone().filter(|name| !name.is_empty()).ok_or_else(|| missing("name"))?;
        let state_dir = options.state_dir.clone().ok_or_else(|| missing("state-dir"))?;
        let state_dir = std::path::absolute(&state_dir)
            .map_err(|error| Stop::usage(format!("--state-dir: {error}")))?;
        let scheduler = read_cap(&cap)?;
        let capacity = options.capacity.unwrap_or(10);
        if capacity == 0 || capacity > 1000 {
            return Err(Stop::usage("--capacity is a number from 1 to 1000"));
        }
        let time = |name: &str, given: &Option<String>| {
            let parsed = given.as_deref().map(parse_duration).transpose();
            parsed.map_err(|error| Stop::usage(format!("--{name}: {error}")))
        };
        let size = options.max_log_size.as_deref().map_or(Ok(1 << 30), parse_size);
        let longest = time("max-reconnect-time", &options.max_reconnect_time)?;
        let longest = longest.unwrap_or(Duration::from_secs(60));
        let log_cap = size.map_err(|error| Stop::usage(format!("--max-log-size: {error}")))?;
        let agent = Config {
            name,
            capacity,
            scheduler,
            connect: connect::Options::default(),
            reconnect: (FIRST_WAIT.min(longest), longest),
            log_dir: state_dir.join("logs"),
            log_cap,
            ended_logs_cap: log_cap.saturating_mul(4),
            job_timeout: time("job-timeout", &options.job_timeout)?,
            linger: Duration::from_secs(5),
            weights: weights(&options.job_weight)?,
            patience: Duration::from_secs(30),
            additional_metrics: additional(&options.additional_metrics)?,
        };
        let seconds = options.obuilder_healthcheck.unwrap_or(600.0);
        let healthcheck = Duration::try_from_secs_f64(seconds)
            .map_err(|error| Stop::usage(format!("--obuilder-healthcheck: {error}")))?;
        let prune_threshold = options.obuilder_prune_threshold.unwrap_or(30.0);
        if !(0.0..=100.0).contains(&prune_threshold) {
            return Err(Stop::usage("--obuilder-prune-threshold is a number from 0 to 100"));
        }
        let healthcheck = (!healthcheck.is_zero()).then_some(healthcheck);
        Ok(Self { agent, cap, state_dir, healthcheck, prune_threshold, options })
    }

    /// The file for what is traced, if there is to be one.
    pub(crate) fn log_file(options: &Options) -> Result<Option<LogFile>, Stop> {
        let Some(path) = &options.log_file else { return Ok(None) };
        let size = options.log_file_size.as_deref().map_or(Ok(10 << 20), parse_size);
        let size = size.map_err(|error| Stop::usage(format!("--log-file-size: {error}")))?;
        let file = LogFile::open(path, size, options.log_file_count.unwrap_or(5).min(1000));
        let shown = path.display();
        file.map(Some).map_err(|error| {
            Stop::system(format!("failed to open the log file `{shown}`: {error}"))
        })
    }

    /// The level of what is traced.
    pub(crate) fn level(options: &Options) -> &'static str {
        let by_name = match options.verbosity.as_deref() {
            Some("quiet" | "error") => "error",
            Some("warning" | "warn") => "warn",
            Some("debug") => "debug",
            _ => "info",
        };
        match (options.quiet, options.verbose) {
            (true, _) => "error",
            (_, 0 | 1) => by_name,
            _ => "debug",
        }
    }
}

/// Reads a `.cap` file.
pub(crate) fn read_cap(path: &std::path::Path) -> Result<ocluster::CapUri, Stop> {
    ocluster::cap_file::read(path).map_err(|error| Stop::usage(obuilder_core::error::chain(&error)))
}

fn weights(given: &[String]) -> Result<Weights, Stop> {
    Weights::parse(given).map_err(|text| Stop::usage(format!("--job-weight: {text}")))
}

fn additional(given: &[String]) -> Result<Vec<(String, String)>, Stop> {
    let mut all: Vec<(String, String)> = Vec::new();
    for one in given {
        let (name, url) = one
            .split_once(':')
            .ok_or_else(|| Stop::usage(format!("`{one}` is not of the form NAME:URL")))?;
        if all.iter().any(|(other, _)| other == name) {
            return Err(Stop::usage(format!("there are several additional metrics `{name}`")));
        }
        all.push((name.to_owned(), url.to_owned()));
    }
    Ok(all)
}
