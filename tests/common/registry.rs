//! A real registry on loopback, ended with the test, and the tools that speak to it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs;
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
    _dir: TempDir,
}

impl Registry {
    /// Starts one; `None`, and a visible skip, where it is not installed.
    pub fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (child, host) = match launch(&dir) {
            Ok(launched) => launched,
            Err(error) => {
                super::skip(&format!("`docker-registry` cannot be run here: {error}"));
                return None;
            }
        };
        Some(Self { child, host, _dir: dir })
    }

    /// Ends it.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(dir: &TempDir) -> std::io::Result<(Child, String)> {
    // Another may take the port before it is used; then another is tried.
    for _ in 0..20 {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let host = format!("127.0.0.1:{port}");
        let config = dir.path().join("config.yml");
        let data = dir.path().join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {host}\n",
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

/// Runs a program that must succeed; a visible skip, and `false`, where it is not installed.
pub fn tool(program: &str, args: &[&str]) -> bool {
    match Command::new(program).args(args).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {args:?}: {said}");
            true
        }
        Err(error) => {
            super::skip(&format!("`{program}` cannot be run here: {error}"));
            false
        }
    }
}
