//! Gets a page of metrics over HTTP: small, bounded, and from this machine or near it.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest time for a page.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of a page with its headers.
const LARGEST: u64 = 16 << 20;

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its media type.
    pub content_type: String,
    /// Its text.
    pub body: String,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not `http://HOST[:PORT]/PATH`.
    #[error("`{0}` is not of the form `http://HOST:PORT/PATH`")]
    Url(String),
    /// The server cannot be reached, or stops in the middle.
    #[error("failed to reach the server")]
    Io(#[from] std::io::Error),
    /// It takes too long.
    #[error("no answer in {} s", PATIENCE.as_secs())]
    TimedOut,
    /// It says something else.
    #[error("the server answers `{0}`")]
    Status(String),
    /// It does not say what it gives.
    #[error("the server does not say of which type its answer is")]
    NoContentType,
    /// What it says is no HTTP.
    #[error("the server's answer cannot be read")]
    Malformed,
}

/// Gets the page at `url`.
pub async fn get(url: &str) -> Result<Page, Error> {
    let wrong = || Error::Url(url.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || url.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(wrong());
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { host.to_owned() } else { format!("{host}:80") };
    let asked = tokio::time::timeout(PATIENCE, ask(&address, host, path));
    parse(&asked.await.map_err(|_| Error::TimedOut)??)
}

async fn ask(address: &str, host: &str, path: &str) -> Result<Vec<u8>, Error> {
    let mut stream = TcpStream::connect(address).await?;
    // Version 1.0: the answer ends with the connection and is in one piece.
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nAccept: text/plain\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.take(LARGEST).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<Page, Error> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").ok_or(Error::Malformed)?;
    let mut lines = head.split("\r\n");
    let status =
        lines.next().and_then(|line| line.strip_prefix("HTTP/1.")).ok_or(Error::Malformed)?;
    let status = status.get(2..).ok_or(Error::Malformed)?;
    if !status.starts_with("200") {
        return Err(Error::Status(status.chars().take(100).collect()));
    }
    let headers = lines.filter_map(|line| line.split_once(':'));
    let mut types = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let (_, content_type) = types.next().ok_or(Error::NoContentType)?;
    Ok(Page { content_type: content_type.trim().to_owned(), body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Serves one request with `answer`.
    async fn served(answer: &'static str) -> Result<Page, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/metrics", listener.local_addr().unwrap());
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /metrics HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(get(&url), server).0
    }

    #[tokio::test]
    async fn pages_are_got() {
        let page = served("HTTP/1.1 200 OK\r\ncontent-type: text/plain; v=1\r\nX: y\r\n\r\nup 1\n")
            .await
            .unwrap();
        assert_eq!(page, Page { content_type: "text/plain; v=1".into(), body: "up 1\n".into() });
        let error = served("HTTP/1.0 404 Not Found\r\n\r\n").await.unwrap_err();
        assert_eq!(error.to_string(), "the server answers `404 Not Found`");
        assert!(matches!(served("HTTP/1.0 200 OK\r\n\r\nx").await, Err(Error::NoContentType)));
        assert!(matches!(served("SSH-2.0-x\r\n").await, Err(Error::Malformed)));
        assert!(matches!(get("https://x/").await, Err(Error::Url(_))));
        assert!(matches!(get("http://x y/").await, Err(Error::Url(_))));
    }
}
