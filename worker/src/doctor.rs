//! `obuild-worker doctor`, and the gate of `--require-healthy`: what `obuild doctor` finds with the worker's settings.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use crate::Stop;
use crate::options::Options;

/// The part of the report that the gate asks for.
#[derive(serde::Deserialize)]
struct Report {
    healthy: bool,
    checks: Vec<Check>,
}

#[derive(serde::Deserialize)]
struct Check {
    name: String,
    status: String,
    finding: String,
}

/// Shows a person what `obuild doctor` finds.
pub(crate) fn show(options: Options) -> Result<ExitCode, Stop> {
    let options = options.with_file()?;
    crate::values::check(&options)?;
    let mut command = doctor(&options)?;
    let status = command.status().map_err(|error| missing(&command, &error))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// Refuses a machine on which builds cannot run.
pub(crate) fn gate(options: &Options) -> Result<(), Stop> {
    let mut command = doctor(options)?;
    command.arg("--json");
    let output = command.output().map_err(|error| missing(&command, &error))?;
    let report: Report = serde_json::from_slice(&output.stdout).map_err(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        let why = if said.trim().is_empty() { error.to_string() } else { said.trim().to_owned() };
        Stop::system(format!(
            "`obuild doctor` has ended with {} and no report: {why}",
            output.status
        ))
    })?;
    for check in report.checks.iter().filter(|check| check.status == "weak") {
        tracing::warn!("{}: {}", check.name, check.finding);
    }
    if report.healthy {
        return Ok(());
    }
    let broken = report.checks.iter().filter(|check| check.status == "broken");
    let broken: Vec<_> = broken.map(|check| format!("{}: {}", check.name, check.finding)).collect();
    Err(Stop::system(format!("builds cannot run here: {}", broken.join("; "))))
}

/// `obuild doctor` with the settings of `options`, and none of a configuration file of its own.
fn doctor(options: &Options) -> Result<Command, Stop> {
    let mut command = Command::new(obuild());
    command.arg("doctor").stdin(Stdio::null());
    command.env("OBUILD_CONFIG", "/dev/null");
    let number = |number: u32| OsString::from(number.to_string());
    let text = |text: &Option<String>| text.as_ref().map(OsString::from);
    let path = |path: &Option<PathBuf>| path.as_ref().map(OsString::from);
    let flags = [
        ("--store", text(&options.obuilder_store)),
        ("--rsync-mode", text(&options.rsync_mode)),
        ("--user-prefix", text(&options.user_prefix)),
        ("--isolation", text(&options.isolation)),
        ("--uid", options.uid.map(number)),
        ("--slots", options.slots.map(number)),
        ("--home", path(&options.home)),
        ("--fuse", path(&options.fuse)),
    ];
    for (flag, value) in flags {
        command.args(value.into_iter().flat_map(|value| [flag.into(), value]));
    }
    let store = crate::backend::store_url(options)?;
    for images in store.iter().flat_map(|url| crate::backend::image_dirs(options, &url.path)) {
        command.arg("--images").arg(images);
    }
    for prefix in &options.prefixes {
        command.arg("--prefixes").arg(prefix);
    }
    Ok(command)
}

/// The `obuild` that came with this program, or whichever there is.
fn obuild() -> PathBuf {
    let beside = std::env::current_exe().map(|program| program.with_file_name("obuild"));
    beside.ok().filter(|path| path.exists()).unwrap_or_else(|| "obuild".into())
}

fn missing(command: &Command, error: &std::io::Error) -> Stop {
    let program = command.get_program().to_string_lossy().into_owned();
    Stop::system(format!("failed to run `{program}`, which looks at the machine: {error}"))
}
