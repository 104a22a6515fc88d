//! `/metrics` and `/healthz` over HTTP, for this machine's own monitoring.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::metrics::{CONTENT_TYPE, Metrics};

/// Longest time for one request.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most requests at once.
const MOST: usize = 16;

/// Answers at `listener` until it is dropped. Must be called in a [`tokio::task::LocalSet`].
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    let places = Arc::new(tokio::sync::Semaphore::new(MOST));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let metrics = metrics.clone();
                tokio::task::spawn_local(async move {
                    // Whoever asks too slowly gets no answer.
                    let _ = tokio::time::timeout(PATIENCE, answer(stream, &metrics)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("failed to take a request for metrics: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, metrics: &Metrics) -> io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < 8192 {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
    let line = String::from_utf8_lossy(&request);
    let path = line.split(' ').nth(1).unwrap_or_default();
    let (status, kind, body) = match path {
        "/metrics" => ("200 OK", CONTENT_TYPE, metrics.text()),
        "/healthz" => health(metrics),
        _ => ("404 Not Found", "text/plain", "there is /metrics and /healthz\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// Healthy is who is registered and can build.
fn health(metrics: &Metrics) -> (&'static str, &'static str, String) {
    let is = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed) == 1;
    match (is(&metrics.registered), is(&metrics.unhealthy)) {
        (true, false) => ("200 OK", "text/plain", "ok\n".to_owned()),
        (false, _) => ("503 Service Unavailable", "text/plain", "no scheduler\n".to_owned()),
        (true, true) => {
            ("503 Service Unavailable", "text/plain", "the health check fails\n".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;
    use crate::metrics::set;

    #[tokio::test(flavor = "local")]
    async fn metrics_and_health_are_told() {
        let metrics = Arc::new(Metrics::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::task::spawn_local(serve(listener, metrics.clone()));
        let get = |path: &str| {
            let url = format!("http://{address}{path}");
            async move { http::get(&url).await }
        };
        let page = get("/metrics").await.unwrap();
        assert_eq!(page.content_type, CONTENT_TYPE);
        assert!(page.body.contains("ocluster_worker_running_jobs 0"));
        assert!(get("/healthz").await.unwrap_err().to_string().contains("503"));
        set(&metrics.registered, 1);
        assert_eq!(get("/healthz").await.unwrap().body, "ok\n");
        assert!(get("/x").await.unwrap_err().to_string().contains("404"));
        server.abort();
    }
}
