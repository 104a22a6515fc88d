//! The command line.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use usrlocal_fs::{Config, MountPoint, Otherwise, Status};

/// Show every calling user another tree at one path
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "`obuilderfs SCOREBOARD MOUNTPOINT [-o OPTIONS]`, OBuilder's form, works too: \
    it mounts in the background."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Mount, and serve until SIGTERM, SIGINT or an unmount
    Mount(MountArguments),
    /// Unmount
    Unmount {
        /// Where to unmount
        #[arg(required = true, value_name = "MOUNTPOINT")]
        mount_points: Vec<PathBuf>,
        /// Unmount even if it is in use; what uses it gets errors
        #[arg(long)]
        force: bool,
    },
    /// Say what goes on in a mount; only root is told
    Status {
        /// The mount
        #[arg(value_name = "MOUNTPOINT")]
        mount_point: PathBuf,
        /// How to say it
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        /// The same as `--format json`
        #[arg(long, conflicts_with = "format")]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MountArguments {
    /// The directory of symlinks `UID -> TREE`
    #[arg(long, value_name = "DIR")]
    pub(crate) scoreboard: PathBuf,
    /// Where to mount; several share the scoreboard
    #[arg(required = true, value_name = "MOUNTPOINT")]
    mount_points: Vec<PathBuf>,
    /// Which directory of a tree is seen; `.` is the tree itself. Given once it holds for every mount point,
    /// else once for each
    #[arg(long, value_name = "PATH", default_value = "local")]
    subdirectory: Vec<PathBuf>,
    /// What users without an entry see, instead of what was there before
    #[arg(long, value_name = "DIR", conflicts_with = "nothing")]
    fallback: Option<PathBuf>,
    /// Users without an entry see nothing
    #[arg(long)]
    nothing: bool,
    /// Show the mount points themselves the same to everybody, as root's and open to all, which saves a question on each path
    /// from `/`; what a caller may do there is still its own tree's to say
    #[arg(long)]
    same_top: bool,
    /// Return when it is mounted, and serve in the background
    #[arg(long)]
    pub(crate) background: bool,
    /// Seconds for which the kernel remembers names and attributes below the first level
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    remember: f64,
    /// Threads that answer requests, for each mount point
    #[arg(long, value_name = "N", default_value_t = 8)]
    workers: usize,
    /// Do not let the kernel read and write open files by itself
    #[arg(long)]
    no_passthrough: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
    /// For Prometheus
    Prometheus,
}

impl MountArguments {
    /// What is to be served.
    pub(crate) fn config(&self) -> Config {
        let otherwise = match (&self.fallback, self.nothing) {
            (Some(dir), _) => Otherwise::Directory(dir.clone()),
            (None, true) => Otherwise::Nothing,
            (None, false) => Otherwise::Underneath,
        };
        let last = self.subdirectory.last().cloned().unwrap_or_else(|| "local".into());
        let subdirectories = self.subdirectory.iter().chain(std::iter::repeat(&last));
        let points = self.mount_points.iter().zip(subdirectories);
        let points = points.map(|(at, below)| {
            let at = std::path::absolute(at).unwrap_or_else(|_| at.clone());
            let point = MountPoint::new(at).showing(below).otherwise(otherwise.clone());
            if self.same_top { point.with_same_top() } else { point }
        });
        let mut config = Config::new(&self.scoreboard, points.collect());
        config.remember = Duration::try_from_secs_f64(self.remember).unwrap_or(config.remember);
        config.workers = self.workers;
        config.passthrough = !self.no_passthrough;
        config
    }
}

/// Reads OBuilder's form: by the name that the program is called by, or by two paths in the place of a subcommand.
pub(crate) fn obuilderfs(arguments: impl Iterator<Item = OsString>) -> Option<Command> {
    let arguments: Vec<_> = arguments.collect();
    let name = PathBuf::from(arguments.first()?);
    let named = name.file_name() == Some(OsStr::new("obuilderfs"));
    let looks_so = arguments.get(1).is_some_and(|first| first.as_encoded_bytes().contains(&b'/'));
    if !named && !looks_so {
        return None;
    }
    let mut paths = Vec::new();
    let mut foreground = false;
    let mut rest = arguments.into_iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            // Everything that can be said there, such as `allow_other`, is so anyway.
            Some("-o") => drop(rest.next()),
            Some("-f") => foreground = true,
            Some(option) if option.starts_with('-') => {}
            _ => paths.push(argument),
        }
    }
    let [scoreboard, mount_point] = paths.as_slice() else { return None };
    let mut command = vec![OsString::from("usrlocal-fs"), "mount".into(), "--scoreboard".into()];
    command.extend([scoreboard.clone(), mount_point.clone()]);
    if !foreground {
        command.push("--background".into());
    }
    Cli::try_parse_from(command).ok().map(|cli| cli.command)
}

/// The status for people.
pub(crate) fn text(status: &Status) -> String {
    let mut text = String::new();
    let passthrough =
        if status.passthrough { "by the kernel itself" } else { "through the server" };
    let _ = writeln!(text, "server: process {}", status.server);
    let _ = writeln!(text, "reads and writes: {passthrough}");
    let _ = writeln!(text, "known files: {}, open: {}", status.nodes, status.open_files);
    for view in &status.views {
        let who =
            view.uid.map_or_else(|| "users without an entry".into(), |uid| format!("uid {uid}"));
        let calls: u64 = view.calls.iter().map(|(_, count)| count).sum();
        let _ = writeln!(text, "{who}: {calls} calls");
    }
    for operation in &status.operations {
        let mean = operation.nanoseconds / operation.calls.max(1) / 1000;
        let (name, calls) = (&operation.name, operation.calls);
        let _ = writeln!(
            text,
            "{name}: {calls} calls, {} failed, {mean} us on average",
            operation.failed
        );
    }
    for cache in &status.caches {
        let _ =
            writeln!(text, "{} cache: {} hits, {} misses", cache.name, cache.hits, cache.misses);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Command> {
        obuilderfs(line.split(' ').map(OsString::from))
    }

    #[test]
    fn obuilders_form_is_read_by_name_and_without_a_subcommand() {
        for line in [
            "/usr/bin/obuilderfs score mnt -o allow_other",
            "usrlocal-fs ./score ./mnt -o allow_other",
        ] {
            let Some(Command::Mount(arguments)) = read(line) else {
                panic!("`{line}` mounts nothing")
            };
            assert!(arguments.background && arguments.scoreboard.ends_with("score"));
            assert!(arguments.config().mount_points[0].at.ends_with("mnt"));
        }
        assert!(read("usrlocal-fs status /mnt").is_none());
    }

    #[test]
    fn a_subdirectory_holds_for_every_mount_point_or_one_for_each() {
        let parse = |line: &str| match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Mount(arguments) => arguments.config().mount_points,
            _ => panic!("no mount"),
        };
        let points = parse("usrlocal-fs mount --scoreboard s /a /b --subdirectory x");
        assert!(points.iter().all(|point| point.subdirectory == OsStr::new("x")));
        let points =
            parse("usrlocal-fs mount --scoreboard s /a /b --subdirectory local --subdirectory .");
        assert_eq!(points[1].subdirectory, OsStr::new("."));
    }
}
