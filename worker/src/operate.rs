//! `obuild-worker install`, `uninstall`, `start`, `stop`, `status` and `logs`: the worker as a service of the system.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use obuild_worker::service::{Deed, Manager, Service, Step, Unit};
use obuilder_core::units::parse_duration;

use crate::options::Options;
use crate::settings::Settings;
use crate::{Stop, say};

/// In a unit, before the name of the file that the worker writes what it says to.
const LOG_MARK: &str = " log file: ";

/// Who keeps the service running.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Launchd,
    Systemd,
}

/// Which service is meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Name of the service
    #[arg(long, value_name = "NAME", default_value = "obuild-worker")]
    service: String,
    /// Who keeps it running [default: whoever this system has]
    #[arg(long, value_name = "WHO")]
    manager: Option<Kind>,
    /// Where units are, if not where they always are
    #[arg(long, value_name = "DIR")]
    unit_dir: Option<PathBuf>,
    /// Change nothing: print what would be written or run
    #[arg(long)]
    print: bool,
}

impl Which {
    fn service(&self) -> Result<Service, Stop> {
        if !Service::is_name(&self.service) {
            let name = &self.service;
            return Err(Stop::usage(format!("`{name}` cannot be the name of a service")));
        }
        let manager = match self.manager {
            Some(Kind::Launchd) => Manager::Launchd,
            Some(Kind::Systemd) => Manager::Systemd,
            None => Manager::of_this_system(),
        };
        let (name, unit_dir) = (self.service.clone(), self.unit_dir.clone());
        Ok(Service { manager, name, unit_dir, log_file: None })
    }

    /// The service as its unit has it.
    fn installed(&self) -> Result<Service, Stop> {
        let service = self.service()?;
        let unit = fs::read_to_string(service.unit_path()).unwrap_or_default();
        let marked = unit.lines().find_map(|line| line.split_once(LOG_MARK));
        let log_file = marked.map(|(_, path)| path.trim_end_matches(" -->").into());
        Ok(Service { log_file, ..service })
    }
}

/// What `install` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    #[command(flatten)]
    which: Which,
    /// Do not start it now
    #[arg(long)]
    no_start: bool,
    /// Put it in the place of another of the same name, whose jobs end before
    #[arg(long)]
    replace: bool,
    /// How long jobs may take to end when the service is stopped
    #[arg(long, value_name = "TIME", default_value = "10m")]
    drain: String,
    /// The program to run, if not this one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// The worker's options, with absolute paths
    #[arg(last = true, value_name = "WORKER-OPTION")]
    worker: Vec<String>,
}

/// The worker's options as a command line has them.
#[derive(Debug, Parser)]
#[command(name = "obuild-worker", disable_help_flag = true)]
struct Given {
    #[command(flatten)]
    options: Options,
}

/// Writes the unit, and starts the service.
pub(crate) fn install(args: &Install) -> Result<ExitCode, Stop> {
    let (service, unit) = described(args)?;
    let (path, text) = (service.unit_path(), marked(&service, service.unit(&unit)));
    if args.which.print {
        say(text.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    allowed(&service)?;
    let shown = path.display();
    let mut steps = Vec::new();
    match fs::read_to_string(&path) {
        Ok(there) if there == text => say(&format!("`{shown}` is there already")),
        Ok(_) if !args.replace => {
            return Err(Stop::usage(format!(
                "there is another `{shown}`; with --replace it makes way when its jobs have ended"
            )));
        }
        there => {
            if there.is_ok() {
                let stopped = run(&service.steps(Deed::Uninstall))?;
                if stopped != ExitCode::SUCCESS {
                    return Ok(stopped);
                }
            }
            write(&path, &text)?;
            say(&format!("wrote `{shown}`"));
            steps = service.steps(Deed::Install);
        }
    }
    if !args.no_start {
        steps.extend(service.steps(Deed::Start));
    }
    run(&steps)
}

/// What is to be installed.
fn described(args: &Install) -> Result<(Service, Unit), Stop> {
    let words = [&["obuild-worker".to_owned()][..], &args.worker[..]].concat();
    let given = Given::try_parse_from(words)
        .map_err(|error| Stop::usage(format!("after `--`: {}", error.to_string().trim_end())))?;
    let mut service = args.which.service()?;
    let options = given.options;
    absolute("--config", options.config.as_deref())?;
    // What is only printed may be meant for another machine.
    let options = if args.which.print { options } else { checked(options)? };
    let paths = [
        ("--connect", &options.connect),
        ("--state-dir", &options.state_dir),
        ("--log-file", &options.log_file),
    ];
    for (name, path) in paths {
        absolute(name, path.as_deref())?;
    }
    let mut argv = vec![program(args)?];
    argv.extend(args.worker.iter().cloned());
    service.log_file = options.log_file;
    if service.manager == Manager::Launchd && service.log_file.is_none() {
        // Nobody else keeps what it says within bounds.
        let file = format!("/var/log/{}.log", service.name);
        argv.extend(["--log-file".to_owned(), file.clone()]);
        service.log_file = Some(file.into());
    }
    let drain = parse_duration(&args.drain)
        .map_err(|error| Stop::usage(format!("--drain: {error}")))?
        .max(Duration::from_secs(1));
    let drain = u32::try_from(drain.as_secs()).map_err(|_| Stop::usage("--drain is too long"))?;
    let path = match service.manager {
        Manager::Launchd => "/usr/local/bin:/opt/homebrew/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        Manager::Systemd => "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    };
    Ok((service, Unit { argv, drain, path: path.into() }))
}

/// The options with those of the configuration file, if a worker could start with them.
fn checked(options: Options) -> Result<Options, Stop> {
    Ok(Settings::new(options)?.options)
}

fn absolute(name: &str, path: Option<&Path>) -> Result<(), Stop> {
    match path.filter(|path| path.is_relative()) {
        None => Ok(()),
        Some(path) => Err(Stop::usage(format!(
            "{name}: a service runs elsewhere; write `{}` as an absolute path",
            path.display()
        ))),
    }
}

fn program(args: &Install) -> Result<String, Stop> {
    absolute("--program", args.program.as_deref())?;
    let path =
        args.program.clone().map_or_else(std::env::current_exe, Ok).map_err(|error| {
            Stop::system(format!("failed to find this program on disk: {error}"))
        })?;
    if !path.is_file() {
        return Err(Stop::usage(format!("--program: there is no file `{}`", path.display())));
    }
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Stop::usage(format!("`{}` is not UTF-8", path.display())))
}

/// The unit `text` with a line for those who look for the log.
fn marked(service: &Service, text: String) -> String {
    let Some(log) = &service.log_file else { return text };
    let log = log.display().to_string();
    match service.manager {
        Manager::Systemd => format!("#{LOG_MARK}{log}\n{text}"),
        // These two may not stand in an XML comment.
        Manager::Launchd if log.contains("--") => text,
        Manager::Launchd => format!("{text}<!--{LOG_MARK}{log} -->\n"),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Stop> {
    let failed = |error: io::Error| {
        Stop::system(format!("failed to write the unit `{}`: {error}", path.display()))
    };
    fs::write(path, text).map_err(failed)?;
    // Who keeps services running refuses a unit that others may change.
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(failed)
}

/// Stops the service and removes its unit.
pub(crate) fn uninstall(which: &Which) -> Result<ExitCode, Stop> {
    let service = which.installed()?;
    let (path, forget) = (service.unit_path(), service.steps(Deed::Forget));
    if which.print {
        print(&service.steps(Deed::Uninstall));
        say(&format!("rm -f {}", quoted(&path.to_string_lossy())));
        print(&forget);
        return Ok(ExitCode::SUCCESS);
    }
    allowed(&service)?;
    // What the manager does not know need not be stopped. What cannot be stopped keeps its unit.
    if path.exists() {
        let stopped = run(&service.steps(Deed::Uninstall))?;
        if stopped != ExitCode::SUCCESS {
            return Ok(stopped);
        }
    }
    match fs::remove_file(&path) {
        Ok(()) => say(&format!("removed `{}`", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            say(&format!("there is no `{}`", path.display()));
        }
        Err(error) => {
            let path = path.display();
            return Err(Stop::system(format!("failed to remove the unit `{path}`: {error}")));
        }
    }
    run(&forget)
}

/// Does `deed` with a service that is installed.
pub(crate) fn operate(which: &Which, deed: Deed) -> Result<ExitCode, Stop> {
    let service = which.installed()?;
    let steps = service.steps(deed);
    if which.print {
        print(&steps);
        return Ok(ExitCode::SUCCESS);
    }
    allowed(&service)?;
    if !service.unit_path().exists() {
        let path = service.unit_path();
        return Err(Stop::usage(format!(
            "there is no `{}`; `obuild-worker install` writes it",
            path.display()
        )));
    }
    run(&steps)
}

/// Without root launchd would look at another domain, and say of everything that it is not there.
fn allowed(service: &Service) -> Result<(), Stop> {
    let ours = service.manager == Manager::Launchd && cfg!(target_os = "macos");
    match ours && !nix::unistd::geteuid().is_root() {
        true => Err(Stop::usage("only root can drive a daemon of launchd; use sudo")),
        false => Ok(()),
    }
}

fn print(steps: &[Step]) {
    for step in steps {
        let words: Vec<_> = step.argv.iter().map(|word| quoted(&word.to_string_lossy())).collect();
        say(&words.join(" "));
    }
}

/// `word` as a shell reads it as one.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Runs the steps up to one that fails, which has said why itself; its code is ours.
fn run(steps: &[Step]) -> Result<ExitCode, Stop> {
    for step in steps {
        let mut command = Command::new(&step.argv[0]);
        command.args(&step.argv[1..]).stdin(Stdio::null());
        if step.may_fail {
            command.stderr(Stdio::null());
        }
        let program = step.argv[0].to_string_lossy();
        let status = command
            .status()
            .map_err(|error| Stop::system(format!("failed to run `{program}`: {error}")))?;
        if !status.success() && !step.may_fail {
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            return Ok(ExitCode::from(code));
        }
    }
    Ok(ExitCode::SUCCESS)
}
