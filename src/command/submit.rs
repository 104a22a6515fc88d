//! `obuild submit`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ocluster::connect::Session;
use ocluster::job::JobClient;
use ocluster::submission::SubmissionClient;
use ocluster::{CallError, JobDescr, Secret};

use super::build::secrets;
use super::cluster::{connect, in_session};
use crate::cli::Done;
use crate::error::{CommandError, Kind};
use crate::output;

/// Submit a spec to an OCluster scheduler and follow the job to its end
///
/// The job's log goes to standard output. An interrupt cancels the job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The submission's `.cap` file, from the scheduler
    #[arg(short, long, value_name = "CAP")]
    connect: PathBuf,

    /// The pool of workers that is to do it
    #[arg(long, value_name = "POOL")]
    pool: String,

    /// The spec's file; `-` for standard input
    spec: PathBuf,

    /// URL of the Git repository that the spec copies from
    #[arg(requires = "commits")]
    repository: Option<String>,

    /// The commit to check out, and those to merge into it
    commits: Vec<String>,

    /// Give the spec this secret, read from a file; may be given several times
    #[arg(long = "secret", value_name = "ID:FILE")]
    secrets: Vec<String>,

    /// Have jobs of the same hint done by the same worker where that can be
    #[arg(long, value_name = "TEXT", default_value = "")]
    cache_hint: String,

    /// Have it done before jobs that are not urgent
    #[arg(long)]
    urgent: bool,
}

pub(crate) fn run(args: &Args) -> Done {
    let descr = describe(args)?;
    in_session(async {
        let session = connect(&args.connect).await?;
        follow(args, &session, &descr).await
    })
}

fn describe(args: &Args) -> Result<JobDescr, CommandError> {
    let secrets = secrets(&args.secrets)?.into_iter().map(|(id, value)| {
        let value: Vec<u8> = value.into();
        // A text on the wire ends at the first of these.
        match value.contains(&0) {
            true => Err(CommandError::usage(format!("the secret `{id}` holds a zero byte"))),
            false => Ok(Secret { id: id.to_string(), value }),
        }
    });
    Ok(JobDescr {
        cache_hint: args.cache_hint.clone(),
        repository: args.repository.clone().unwrap_or_default(),
        commits: args.commits.clone(),
        secrets: secrets.collect::<Result<_, _>>()?,
        ..JobDescr::obuilder(read(&args.spec)?)
    })
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    let read = if path == Path::new("-") {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut text).map(|_| text)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| {
        CommandError::usage(format!("failed to read the spec `{}`", path.display()))
            .caused_by(&error)
    })
}

async fn follow(args: &Args, session: &Session, descr: &JobDescr) -> Done {
    let submission = SubmissionClient::of(session);
    let ticket = submission.submit(&args.pool, descr, args.urgent).map_err(lost)?;
    let job = ticket.job();
    let outcome = tokio::select! {
        outcome = ended(&job) => outcome,
        interrupted = interrupt() => {
            interrupted?;
            // Going away cancels the job as well; this only asks sooner.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(2), ticket.cancel()).await;
            return Err(CommandError::new(Kind::Interrupted, "interrupted: the job is cancelled"));
        }
    };
    let output = outcome?;
    if !output.is_empty() {
        output::print(format!("Result: {output:?}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the log to its end, and gives what came of the job.
async fn ended(job: &JobClient) -> Result<String, CommandError> {
    let mut at = 0;
    let mut read = true;
    while read {
        let chunk = job.log(at).await.map_err(lost)?;
        if chunk.bytes.is_empty() {
            break;
        }
        at = chunk.next;
        read = output::write(&chunk.bytes)?;
    }
    job.result().await.map_err(|error| match error {
        CallError::Failed(why) => {
            CommandError::new(Kind::Step, format!("the job failed: {why}")).hint("its log says why")
        }
        error => lost(error),
    })
}

fn lost(error: CallError) -> CommandError {
    CommandError::from_error(Kind::System, &error)
}

async fn interrupt() -> Result<(), CommandError> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error| CommandError::system("failed to catch signals").caused_by(&error);
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
