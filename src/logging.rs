//! The developer's log, on standard error: warnings, or what `OBUILD_LOG` asks for.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Begins to write what the libraries trace.
pub(crate) fn start() {
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false);
    match std::env::var_os("OBUILD_LOG") {
        Some(_) => log.with_env_filter(EnvFilter::from_env("OBUILD_LOG")).init(),
        None => log.with_max_level(LevelFilter::WARN).without_time().with_target(false).init(),
    }
}
