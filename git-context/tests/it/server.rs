//! Real servers on loopback: Git's own daemon, Git's own program for web servers behind a small one, and files behind it.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::fixture::git;

/// How a server answers.
#[derive(Clone)]
pub(crate) enum Kind {
    /// `git daemon`, with these settings of the repositories.
    Daemon(Vec<String>),
    /// `git http-backend`.
    Smart,
    /// Plain files.
    Dumb,
    /// `git http-backend`, for who brings this header.
    Guarded(String),
    /// Some other program.
    Program(Vec<OsString>),
    /// Takes connections and never answers.
    Silent,
    /// Advertises references without an end.
    Endless,
    /// Sends everybody to this URL.
    Elsewhere(String),
}

/// A server that runs as long as the test process does.
pub(crate) struct Server {
    pub(crate) port: u16,
    seen: Arc<Seen>,
}

/// What a server has seen.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

impl Server {
    pub(crate) fn start(repos: &Path, kind: Kind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, repos) = (Arc::new(Seen::default()), repos.to_owned());
        std::thread::spawn({
            let seen = seen.clone();
            move || {
                for stream in listener.incoming() {
                    seen.connections.fetch_add(1, Ordering::SeqCst);
                    let (kind, repos, seen) = (kind.clone(), repos.clone(), seen.clone());
                    std::thread::spawn(move || serve(stream.unwrap(), &kind, &repos, &seen));
                }
            }
        });
        Self { port, seen }
    }

    /// Runs this for each connection, with the connection as its standard streams.
    pub(crate) fn start_program(argv: Vec<OsString>) -> Self {
        Self::start(Path::new("/"), Kind::Program(argv))
    }

    pub(crate) fn url(&self, scheme: &str, repo: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/{repo}", self.port)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// All requests so far, with their headers.
    pub(crate) fn requests(&self) -> String {
        self.seen.requests.lock().unwrap().join("\n")
    }
}

fn serve(stream: TcpStream, kind: &Kind, repos: &Path, seen: &Seen) {
    match kind {
        Kind::Daemon(settings) => daemon(stream, repos, settings),
        Kind::Program(argv) => run(stream, Command::new(&argv[0]).args(&argv[1..])),
        Kind::Silent => {
            let mut rest = Vec::new();
            let _ = (&stream).read_to_end(&mut rest);
        }
        _ => {
            let request = Request::read(&stream);
            seen.requests.lock().unwrap().push(request.head.clone());
            let answer = match kind {
                Kind::Dumb => file(&request, repos),
                Kind::Guarded(header) if !request.head.contains(header.as_str()) => {
                    b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n".to_vec()
                }
                Kind::Endless => return endless(&stream),
                Kind::Elsewhere(url) => {
                    let rest = request.path.clone() + &request.query;
                    format!("HTTP/1.1 302 Found\r\nLocation: {url}{rest}\r\nContent-Length: 0\r\n\r\n").into()
                }
                _ => backend(&request, repos),
            };
            let _ = (&stream).write_all(&answer);
        }
    }
}

fn daemon(stream: TcpStream, repos: &Path, settings: &[String]) {
    let mut command = git();
    for setting in settings {
        command.args(["-c", setting]);
    }
    command.args([
        "daemon",
        "--inetd",
        "--export-all",
        "--informative-errors",
        "--log-destination=none",
    ]);
    command.arg(format!("--base-path={}", repos.display()));
    command.args(["--timeout=60"]);
    run(stream, &mut command);
}

fn run(stream: TcpStream, command: &mut Command) {
    let output: OwnedFd = stream.try_clone().unwrap().into();
    command.stdin(OwnedFd::from(stream)).stdout(output).stderr(Stdio::null());
    let _ = command.status();
}

struct Request {
    method: String,
    path: String,
    /// With its question mark.
    query: String,
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: &TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                break;
            }
        }
        let mut line = head.lines().next().unwrap_or_default().split(' ');
        let (method, target) = (line.next().unwrap_or_default(), line.next().unwrap_or_default());
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        let mut request = Self {
            method: method.into(),
            path: path.into(),
            query: query.into(),
            body: Vec::new(),
            head: head.clone(),
        };
        if request.header("transfer-encoding").is_some() {
            request.body = chunks(&mut reader);
        } else if let Some(length) = request.header("content-length") {
            let _ = reader.take(length.parse().unwrap()).read_to_end(&mut request.body);
        }
        request
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value)
    }
}

fn chunks(reader: &mut impl BufRead) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let length = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk).unwrap_or_default();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

fn backend(request: &Request, repos: &Path) -> Vec<u8> {
    let input = tempfile::tempfile().unwrap();
    (&input).write_all(&request.body).unwrap();
    std::io::Seek::rewind(&mut &input).unwrap();
    let mut command = git();
    command.arg("http-backend").env("GIT_PROJECT_ROOT", repos).env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("REQUEST_METHOD", &request.method).env("PATH_INFO", &request.path);
    command.env("QUERY_STRING", request.query.trim_start_matches('?'));
    command.env("CONTENT_LENGTH", request.body.len().to_string()).env("REMOTE_ADDR", "127.0.0.1");
    for (variable, header) in [
        ("CONTENT_TYPE", "content-type"),
        ("HTTP_CONTENT_ENCODING", "content-encoding"),
        ("GIT_PROTOCOL", "git-protocol"),
    ] {
        command.envs(request.header(header).map(|value| (variable, value)));
    }
    let answer = command.stdin(input).output().unwrap().stdout;
    let text = String::from_utf8_lossy(&answer);
    let status =
        text.lines().next().and_then(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    [format!("HTTP/1.1 {}\r\nConnection: close\r\n", status.trim()).as_bytes(), &answer].concat()
}

fn endless(mut stream: &TcpStream) {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\r\n\
                001e# service=git-upload-pack\n0000";
    let lines: String =
        (0..2000).map(|n| format!("0040{:040x} refs/heads/{n:07}\n", n + 1)).collect();
    let mut next = head.to_string();
    while stream.write_all(next.as_bytes()).is_ok() {
        next.clone_from(&lines);
    }
}

fn file(request: &Request, repos: &Path) -> Vec<u8> {
    let path: PathBuf = repos.join(request.path.trim_start_matches('/'));
    match fs::read(path) {
        Ok(bytes) => {
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                bytes.len()
            );
            [head.as_bytes(), &bytes].concat()
        }
        Err(_) => b"HTTP/1.1 404 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec(),
    }
}
