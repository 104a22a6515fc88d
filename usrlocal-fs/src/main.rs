//! The command `usrlocal-fs`, and `obuilderfs` in the form that OBuilder calls.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program speaks to people")]

mod background;
mod cli;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use cli::{Command, Format, MountArguments};
use tracing_subscriber::EnvFilter;
use usrlocal_fs::{Mounts, Result, status, unmount};

fn main() -> ExitCode {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,fuser=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let command = match cli::obuilderfs(std::env::args_os()) {
        Some(command) => command,
        None => cli::Cli::parse().command,
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&*error);
            ExitCode::from(3)
        }
    }
}

fn report(error: &(dyn std::error::Error + 'static)) {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("caused by: {error}");
        cause = error.source();
    }
}

fn run(command: Command) -> std::result::Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Mount(arguments) if arguments.background => {
            background::run(|ready| serve(&arguments, ready))?
        }
        Command::Mount(arguments) => serve(&arguments, || ())?,
        Command::Unmount { mount_points, force } => {
            for at in mount_points {
                unmount(&at, force)?;
            }
        }
        Command::Status { mount_point, format, json } => {
            let format = if json { Format::Json } else { format };
            let status = status(&mount_point)?;
            match format {
                Format::Json => println!("{}", status.to_json()),
                Format::Prometheus => print!("{}", status.to_prometheus(&mount_point)),
                Format::Text => print!("{}", cli::text(&status)),
            }
        }
    }
    Ok(())
}

/// Serves until a signal ends it or everything was unmounted.
fn serve(arguments: &MountArguments, ready: impl FnOnce()) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in
        [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
    {
        if let Err(error) = signal_hook::flag::register(signal, stop.clone()) {
            tracing::warn!(%error, signal, "a signal will not unmount");
        }
    }
    let mounts = Mounts::serve(&arguments.config())?;
    ready();
    while !stop.load(Ordering::Relaxed) && mounts.is_serving() {
        std::thread::sleep(Duration::from_millis(50));
    }
    mounts.unmount()
}
