//! A real registry on loopback, ended with the test.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Debian's `docker-registry`.
pub struct Registry {
    child: Child,
    /// As `127.0.0.1:PORT`.
    pub host: String,
    dir: TempDir,
}

impl Registry {
    /// Starts one; `None`, and a visible skip, where it is not installed.
    pub fn start() -> Option<Self> {
        Self::configured("")
    }

    /// The same, for `user` with `password` alone.
    pub fn for_user(user_line: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let users = dir.path().join("users");
        fs::write(&users, user_line).unwrap();
        let auth = format!("auth:\n  htpasswd:\n    realm: tests\n    path: {}\n", users.display());
        let mut registry = Self::configured(&auth)?;
        // Kept as long as the registry.
        let keep = registry.dir.path().join("users");
        fs::rename(&users, &keep).unwrap();
        drop(dir);
        registry.restart(&auth.replace(&users.display().to_string(), &keep.display().to_string()));
        Some(registry)
    }

    fn configured(more: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (child, host) = match launch(&dir, more) {
            Ok(launched) => launched,
            Err(error) => {
                let _ = writeln!(
                    std::io::stderr(),
                    "SKIP: `docker-registry` cannot be run here: {error}"
                );
                return None;
            }
        };
        Some(Self { child, host, dir })
    }

    fn restart(&mut self, more: &str) {
        self.stop();
        (self.child, self.host) = launch(&self.dir, more).unwrap();
    }

    /// Ends it.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(dir: &TempDir, more: &str) -> std::io::Result<(Child, String)> {
    // Another may take the port before it is used; then another is tried.
    for _ in 0..20 {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let host = format!("127.0.0.1:{port}");
        let config = dir.path().join("config.yml");
        let data = dir.path().join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {host}\n{more}",
            data.display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            if TcpStream::connect(&host).is_ok() {
                return Ok((child, host));
            }
            if child.try_wait()?.is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    panic!("docker-registry does not start");
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
