//! The command line and the configuration file: the original's options by their names, and some more.

use std::path::{Path, PathBuf};

use crate::Stop;
use crate::steps::Steps;

/// What may be said on the command line and in the configuration file (a key for each flag's long name).
#[derive(Debug, Clone, Default, clap::Args, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Options {
    /// The pool's `.cap` file, from the scheduler
    #[arg(short, long, value_name = "ADDR")]
    pub(crate) connect: Option<PathBuf>,
    /// Name of this worker, which no other worker of the pool has
    #[arg(long, value_name = "ID")]
    pub(crate) name: Option<String>,
    /// Number of jobs that run at once [default: 10]
    #[arg(long, value_name = "N")]
    pub(crate) capacity: Option<u32>,
    /// Directory for mirrors, contexts and logs
    #[arg(long, value_name = "PATH")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Read this configuration file; flags go before what it says
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// Longest time for one job, such as `6h`
    #[arg(long, value_name = "TIME")]
    pub(crate) job_timeout: Option<String>,
    /// Most bytes of one job's log [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_log_size: Option<String>,
    /// Longest wait before a lost scheduler is looked for again [default: 1m]
    #[arg(long, value_name = "TIME")]
    pub(crate) max_reconnect_time: Option<String>,
    /// Register only when `obuild doctor` finds nothing broken and a first health check passes
    #[arg(long)]
    pub(crate) require_healthy: bool,
    /// Serve /metrics and /healthz at this address of this machine, such as `127.0.0.1:9101`
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics_listen: Option<String>,
    /// Metrics of others that the scheduler may ask for
    #[arg(long, value_name = "NAME:URL", value_delimiter = ',')]
    pub(crate) additional_metrics: Vec<String>,
    /// Write what is traced to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Begin that file anew when it has this size [default: 10MiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) log_file_size: Option<String>,
    /// Full files to keep beside it [default: 5]
    #[arg(long, value_name = "N")]
    pub(crate) log_file_count: Option<u32>,
    /// Count jobs whose cache hint looks like this (`*` is any text) as N jobs; the first that fits counts
    #[arg(long, value_name = "HINT=N")]
    pub(crate) job_weight: Vec<String>,
    /// What is traced: error, warning, info or debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) verbosity: Option<String>,
    /// Trace more
    #[arg(short, long, action = clap::ArgAction::Count)]
    #[serde(skip)]
    pub(crate) verbose: u8,
    /// Trace errors alone
    #[arg(short, long)]
    #[serde(skip)]
    pub(crate) quiet: bool,

    /// Key for repositories behind ssh
    #[arg(long, value_name = "FILE", help_heading = "Git")]
    pub(crate) git_ssh_key: Option<PathBuf>,
    /// Public keys of the hosts behind ssh
    #[arg(long, value_name = "FILE", help_heading = "Git")]
    pub(crate) git_known_hosts: Option<PathBuf>,
    /// Directory below which repositories of this machine may lie
    #[arg(long, value_name = "DIR", help_heading = "Git")]
    pub(crate) git_file_root: Vec<PathBuf>,

    /// Store for results, such as `rsync:/path` or `zfs:pool`
    #[arg(long, value_name = "STORE", help_heading = "OBuilder")]
    pub(crate) obuilder_store: Option<String>,
    /// Seconds between health checks; 0 for none [default: 600]
    #[arg(long, value_name = "SECONDS", help_heading = "OBuilder")]
    pub(crate) obuilder_healthcheck: Option<f64>,
    /// Make room when less than this part of the store's volume is free (0-100) [default: 30]
    #[arg(long, value_name = "PERCENTAGE", help_heading = "OBuilder")]
    pub(crate) obuilder_prune_threshold: Option<f64>,
    /// How trees get into an rsync store: auto, copy, hardlink, hardlink_unsafe or reflink
    #[arg(long, value_name = "MODE", help_heading = "OBuilder")]
    pub(crate) rsync_mode: Option<String>,
    /// Directory of base images; may be given several times
    #[arg(long, value_name = "DIR", help_heading = "OBuilder")]
    pub(crate) images: Vec<PathBuf>,
    /// Directory below which jobs may name `oci:` layouts and archives of images as their base; may be given several times
    #[arg(long, value_name = "DIR", help_heading = "OBuilder")]
    pub(crate) image_file_root: Vec<PathBuf>,
    /// Where every build sees its home, on the store's volume
    #[arg(long, value_name = "DIR", help_heading = "OBuilder")]
    pub(crate) home: Option<PathBuf>,
    /// Show the home's `local` to steps at this directory, which must be there; may be given several times [default: Homebrew's]
    #[arg(long, value_name = "DIR", help_heading = "OBuilder")]
    pub(crate) prefixes: Vec<PathBuf>,
    /// Number of the first build user [default: 705]
    #[arg(long, value_name = "N", help_heading = "OBuilder")]
    pub(crate) uid: Option<u32>,
    /// What a build user's name begins with [default: mac]
    #[arg(long, value_name = "NAME", help_heading = "OBuilder")]
    pub(crate) user_prefix: Option<String>,
    /// Steps that run at once, each as a build user of its own [default: 1]
    #[arg(long, value_name = "N", help_heading = "OBuilder")]
    pub(crate) slots: Option<u32>,
    /// Keep steps from the machine by all that the system has (full), or by users and networks alone (users)
    #[arg(long, value_name = "HOW", help_heading = "OBuilder")]
    pub(crate) isolation: Option<String>,
    /// Show steps their trees by a FUSE filesystem mounted here
    #[arg(long, value_name = "DIR", help_heading = "OBuilder")]
    pub(crate) fuse: Option<PathBuf>,

    /// Docker repositories to which jobs may push
    #[arg(long, value_name = "REPO", value_delimiter = ',', help_heading = "Docker")]
    pub(crate) allow_push: Vec<String>,

    /// Prune Docker's images when less than this part of their volume is free (0-100)
    #[arg(long, value_name = "PERCENTAGE", help_heading = "Docker")]
    pub(crate) prune_threshold: Option<f64>,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) steps: Steps,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) accepted: Accepted,
}

/// What the original takes and this worker has no use for.
#[derive(Debug, Clone, Default, clap::Args, serde::Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Accepted for the original's sake, without effect in this version")]
pub(crate) struct Accepted {
    /// Prune Docker when its images take more than this
    #[arg(long, value_name = "GIGABYTES")]
    docker_max_df_size: Option<f64>,
    /// Results that are pruned at a time
    #[arg(long, value_name = "ITEMS")]
    obuilder_prune_limit: Option<u64>,
    /// Prune when there are more results
    #[arg(long, value_name = "ITEMS")]
    obuilder_prune_item_threshold: Option<u64>,
    /// Directory to show to users without a home
    #[arg(long, value_name = "DIR")]
    fallback: Option<PathBuf>,
    /// Where the filesystem is mounted
    #[arg(long, value_name = "DIR")]
    fuse_path: Option<PathBuf>,
    /// Directory that says which user sees which tree
    #[arg(long, value_name = "DIR")]
    scoreboard: Option<PathBuf>,
    /// Do without the filesystem
    #[arg(long)]
    no_fuse: bool,
    /// Homebrew's prefix
    #[arg(long, value_name = "DIR")]
    brew_path: Option<PathBuf>,
    /// Processors for Docker as a sandbox
    #[arg(long, value_name = "CPUS")]
    docker_cpus: Option<f64>,
    /// Docker's isolation, as a sandbox
    #[arg(long, value_name = "ISOLATION")]
    docker_isolation: Option<String>,
    /// Memory for Docker as a sandbox
    #[arg(long, value_name = "MEMORY")]
    docker_memory: Option<String>,
    /// Network for Docker as a sandbox
    #[arg(long, value_name = "NETWORK")]
    docker_network: Option<String>,
    /// Whether messages are coloured
    #[arg(long, value_name = "WHEN")]
    color: Option<String>,
}

impl Accepted {
    /// Puts what `file` says below this.
    fn below(&mut self, file: Self) {
        macro_rules! below {
            ($($field:ident),*) => { $(self.$field = self.$field.take().or(file.$field);)* };
        }
        below!(docker_max_df_size, obuilder_prune_limit);
        below!(docker_cpus, docker_isolation, docker_memory, docker_network);
        below!(obuilder_prune_item_threshold, fallback, fuse_path, scoreboard, brew_path, color);
        self.no_fuse |= file.no_fuse;
    }

    /// Names of what was given.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        let all = [
            (self.docker_max_df_size.is_some(), "--docker-max-df-size"),
            (self.obuilder_prune_limit.is_some(), "--obuilder-prune-limit"),
            (self.obuilder_prune_item_threshold.is_some(), "--obuilder-prune-item-threshold"),
            (self.fallback.is_some(), "--fallback"),
            (self.fuse_path.is_some(), "--fuse-path"),
            (self.scoreboard.is_some(), "--scoreboard"),
            (self.no_fuse, "--no-fuse"),
            (self.brew_path.is_some(), "--brew-path"),
            (self.docker_cpus.is_some(), "--docker-cpus"),
            (self.docker_isolation.is_some(), "--docker-isolation"),
            (self.docker_memory.is_some(), "--docker-memory"),
            (self.docker_network.is_some(), "--docker-network"),
        ];
        all.into_iter().filter(|(given, _)| *given).map(|(_, name)| name).collect()
    }
}

impl Options {
    /// Puts what the configuration file says below what the command line says.
    pub(crate) fn with_file(mut self) -> Result<Self, Stop> {
        let Some(path) = self.config.take() else { return Ok(self) };
        let file = read(&path)?;
        macro_rules! below {
            ($($field:ident),*) => { $(self.$field = self.$field.take().or(file.$field);)* };
        }
        macro_rules! below_list {
            ($($field:ident),*) => { $(if self.$field.is_empty() { self.$field = file.$field; })* };
        }
        below!(connect, name, capacity, state_dir, job_timeout, max_log_size, max_reconnect_time);
        below!(log_file, log_file_size, log_file_count);
        below!(metrics_listen, verbosity, git_ssh_key, git_known_hosts, obuilder_store);
        below!(obuilder_healthcheck, obuilder_prune_threshold, rsync_mode, home, uid, user_prefix);
        below!(slots, isolation, fuse, prune_threshold);
        below_list!(
            prefixes,
            job_weight,
            additional_metrics,
            git_file_root,
            images,
            image_file_root,
            allow_push
        );
        self.steps.below(file.steps);
        self.accepted.below(file.accepted);
        self.require_healthy |= file.require_healthy;
        Ok(self)
    }
}

fn read(path: &Path) -> Result<Options, Stop> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Stop::usage(format!("failed to read the configuration file `{shown}`: {error}"))
    })?;
    toml::from_str(&text).map_err(|error| Stop::usage(format!("`{shown}`: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn parse(args: &[&str]) -> Options {
        Cli::try_parse_from([&["x"], args].concat()).unwrap().options
    }

    #[test]
    fn a_plist_of_the_original_is_understood() {
        let options = parse(&[
            "--connect",
            "/etc/pool.cap",
            "--name",
            "m1",
            "--capacity=1",
            "--state-dir",
            "/var/lib/w",
            "--obuilder-store=rsync:/Volumes/rsync",
            "--rsync-mode",
            "copy",
            "--uid=705",
            "--fallback=/Users/administrator/lib",
            "--scoreboard=/Users/administrator/scoreboard",
            "--obuilder-prune-threshold=10",
            "--verbosity=info",
            "--allow-push=a,b",
        ]);
        assert_eq!(options.name.as_deref(), Some("m1"));
        assert_eq!(options.allow_push, ["a", "b"]);
        assert_eq!(options.accepted.given(), ["--fallback", "--scoreboard"]);
    }

    #[test]
    fn every_option_of_the_original_is_understood_in_both_forms() {
        let with_values = [
            ("--connect", "/etc/pool.cap"),
            ("--name", "m1"),
            ("--capacity", "4"),
            ("--state-dir", "/var/lib/ocluster-worker"),
            ("--allow-push", "ocurrent/a,ocurrent/b"),
            ("--additional-metrics", "a:http://127.0.0.1:9200/metrics,b:http://[::1]/"),
            ("--prune-threshold", "10."),
            ("--docker-max-df-size", "100."),
            ("--obuilder-store", "rsync:/Volumes/rsync"),
            ("--rsync-mode", "hardlink_unsafe"),
            ("--obuilder-healthcheck", "600."),
            ("--obuilder-prune-threshold", "30."),
            ("--obuilder-prune-limit", "100"),
            ("--obuilder-prune-item-threshold", "1000"),
            ("--uid", "705"),
            ("--fallback", "/Users/administrator/lib"),
            ("--fuse-path", "/usr/local"),
            ("--scoreboard", "/Users/administrator/scoreboard"),
            ("--brew-path", "/opt/homebrew"),
            ("--docker-cpus", "2."),
            ("--docker-isolation", "default"),
            ("--docker-memory", "1g"),
            ("--docker-network", "host"),
            ("--verbosity", "info"),
            ("--color", "never"),
        ];
        for (name, value) in with_values {
            parse(&[name, value]);
            parse(&[&format!("{name}={value}")]);
        }
        parse(&["-c", "/etc/pool.cap"]);
        for flag in ["--no-fuse", "--fast-sync", "-v", "-vv", "--verbose", "-q", "--quiet"] {
            parse(&[flag]);
        }
        assert_eq!(parse(&["--verbose", "--verbose"]).verbose, 2);
    }

    #[test]
    fn flags_go_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.toml");
        std::fs::write(
            &path,
            "name = \"file\"\ncapacity = 3\nallow-push = [\"x\"]\nmax-processes = 0\n\
             brew-path = \"/x\"\nprefixes = [\"/p\"]\ndocker-cpus = 2.0\n",
        )
        .unwrap();
        let given = path.to_str().unwrap();
        let options = parse(&["--config", given, "--name", "flag"]).with_file().unwrap();
        assert_eq!((options.name.as_deref(), options.capacity), (Some("flag"), Some(3)));
        assert_eq!(options.allow_push, ["x"]);
        assert!(options.steps.limits().is_err(), "the file's limit counts");
        assert_eq!(options.prefixes, [PathBuf::from("/p")]);
        let told = options.accepted.given();
        assert_eq!(told, ["--brew-path", "--docker-cpus"], "what has no effect is told");
        std::fs::write(&path, "nmae = \"x\"\n").unwrap();
        let error = parse(&["--config", given]).with_file().unwrap_err();
        assert!(error.text.contains("nmae"), "{}", error.text);
    }
}
