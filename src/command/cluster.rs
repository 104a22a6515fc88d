//! `obuild cluster`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use ocluster::admin::AdminClient;
use ocluster::connect::{Options, Session};
use ocluster::uri::Server;
use ocluster::{CallError, ConnectError, cap_file};
use tokio::task::LocalSet;

use crate::cli::Done;
use crate::error::{CommandError, Kind};
use crate::output;

/// Look at an OCluster scheduler
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the pools, or one pool with its workers
    Show {
        /// The administrator's `.cap` file, from the scheduler
        #[arg(short, long, value_name = "CAP")]
        connect: PathBuf,
        /// The pool to show
        pool: Option<String>,
    },
}

pub(crate) fn run(args: &Args) -> Done {
    let Command::Show { connect: cap, pool } = &args.command;
    in_session(async {
        let session = connect(cap).await?;
        let shown = show(&AdminClient::of(&session), pool.as_deref()).await;
        output::print(shown.map_err(|error| CommandError::from_error(Kind::System, &error))?)?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn show(admin: &AdminClient, pool: Option<&str>) -> Result<String, CallError> {
    let Some(name) = pool else {
        return Ok(admin.pools().await?.iter().map(|name| format!("{name}\n")).collect());
    };
    let pool = admin.pool(name);
    let mut text = format!("{}\n", pool.show().await?.trim_end());
    for worker in pool.workers().await? {
        let state = match (worker.connected, worker.active) {
            (false, _) => "away",
            (true, true) => "active",
            (true, false) => "paused",
        };
        text.push_str(&format!("worker {}: {state}\n", worker.name));
    }
    Ok(text)
}

/// Runs what speaks to a scheduler, to its end.
pub(super) fn in_session(work: impl Future<Output = Done>) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| CommandError::system("failed to begin").caused_by(&error))?;
    LocalSet::new().block_on(&runtime, work)
}

/// Connects to the service that a `.cap` file names.
pub(super) async fn connect(cap: &Path) -> Result<Session, CommandError> {
    let uri = cap_file::read(cap).map_err(|error| {
        CommandError::from_error(Kind::Usage, &error)
            .hint("the scheduler writes such files, or its administrator does")
    })?;
    if uri.server == Server::Insecure {
        output::warn(format!(
            "`{}` is not reached by TLS: anybody on the way may listen",
            uri.address
        ));
    }
    ocluster::connect(&uri, &Options::default()).await.map_err(|error| {
        let hint = match &error {
            ConnectError::WrongServer { .. } => {
                "get the capability anew from whoever runs the scheduler; if the key has not been changed there, somebody else answers"
            }
            _ => "is the scheduler running, and does nothing stand between?",
        };
        CommandError::from_error(Kind::System, &error).hint(hint)
    })
}
