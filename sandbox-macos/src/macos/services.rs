//! Services that the system runs for a user.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long launchd may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Boots out the launchd domain `user/UID` with its jobs, which launchd would start again when they are killed. Most users
/// have none, which is an error to `launchctl`.
pub(crate) fn stop_of(uid: u32) {
    let mut command = Command::new("/bin/launchctl");
    command.args(["bootout", &format!("user/{uid}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn().and_then(|mut child| wait(&mut child)) {
        Ok(true) => {}
        Ok(false) => tracing::warn!(uid, "`launchctl bootout` does not end"),
        Err(error) => tracing::warn!(uid, %error, "failed to run `launchctl bootout`"),
    }
}

/// Waits for `child`, and kills it when that takes too long; says whether it has ended by itself.
fn wait(child: &mut Child) -> std::io::Result<bool> {
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > PATIENCE {
            child.kill()?;
            return child.wait().map(|_| false);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(true)
}
