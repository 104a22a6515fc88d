//! A real registry on loopback, ended with the test, and the tools that speak to it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The user `ann` with the password `secret`, as `htpasswd -B` writes it.
const ANN: &str = "ann:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

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
        Self::configured("127.0.0.1", tempfile::tempdir().unwrap(), "")
    }

    /// The same, for the user `ann` with the password `secret` alone.
    pub fn for_ann() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let users = dir.path().join("users");
        fs::write(&users, ANN).unwrap();
        let auth = format!("auth:\n  htpasswd:\n    realm: tests\n    path: {}\n", users.display());
        Self::configured("127.0.0.1", dir, &auth)
    }

    /// The same, under a name that need not be this machine's, with TLS; [`Registry::authority`] has signed its certificate.
    pub fn with_tls() -> Option<Self> {
        let Some(name) = other_name_of_loopback() else {
            super::skip("this machine has no name but `localhost` for loopback");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        if !certificates(dir.path(), &name) {
            return None;
        }
        let path = |name: &str| dir.path().join(name).display().to_string();
        let tls =
            format!("  tls:\n    certificate: {}\n    key: {}\n", path("own.pem"), path("own.key"));
        Self::configured(&name, dir, &tls)
    }

    /// The certificate of the authority behind [`Registry::with_tls`].
    pub fn authority(&self) -> String {
        self.dir.path().join("ca.pem").display().to_string()
    }

    fn configured(name: &str, dir: TempDir, more: &str) -> Option<Self> {
        let (child, host) = match launch(&dir, name, more) {
            Ok(launched) => launched,
            Err(error) => {
                super::skip(&format!("`docker-registry` cannot be run here: {error}"));
                return None;
            }
        };
        Some(Self { child, host, dir })
    }

    /// Ends it.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A name of this machine that resolves to loopback, but might be another machine's for all that its letters say.
fn other_name_of_loopback() -> Option<String> {
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let names = [own.trim(), "ip6-loopback"].map(str::to_ascii_lowercase);
    let is_loopback = |name: &str| {
        let found = (name, 0).to_socket_addrs();
        found.is_ok_and(|found| found.peekable().peek().is_some_and(|a| a.ip().is_loopback()))
    };
    names.into_iter().find(|name| !name.starts_with("localhost") && is_loopback(name))
}

/// Makes an authority, and a certificate for `name`, in `dir`.
fn certificates(dir: &Path, name: &str) -> bool {
    let path = |name: &str| dir.join(name).display().to_string();
    fs::write(path("extensions"), format!("subjectAltName=DNS:{name}\n")).unwrap();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority = ["req", "-x509", "-days", "2", "-subj", "/CN=tests"];
    let request = ["req", "-subj", "/CN=registry"];
    let (ca, ca_key, own, own_key) =
        (path("ca.pem"), path("ca.key"), path("own.pem"), path("own.key"));
    let asked = path("own.csr");
    let extensions = path("extensions");
    let sign = ["x509", "-req", "-days", "2", "-CAcreateserial", "-CA", &ca, "-CAkey", &ca_key];
    tool("openssl", &[&authority[..], &key, &["-keyout", &ca_key, "-out", &ca]].concat())
        && tool("openssl", &[&request[..], &key, &["-keyout", &own_key, "-out", &asked]].concat())
        && tool(
            "openssl",
            &[&sign[..], &["-in", &asked, "-out", &own, "-extfile", &extensions]].concat(),
        )
}

fn launch(dir: &TempDir, name: &str, more: &str) -> std::io::Result<(Child, String)> {
    // Another may take the port before it is used; then another is tried.
    for _ in 0..20 {
        let address = TcpListener::bind((name, 0))?.local_addr()?;
        let host = format!("{name}:{}", address.port());
        let config = dir.path().join("config.yml");
        let data = dir.path().join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: '{address}'\n{more}",
            data.display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            if TcpStream::connect(address).is_ok() {
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
