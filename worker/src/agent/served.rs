//! What the scheduler may ask of the worker.

use std::rc::Rc;
use std::sync::Arc;

use ocluster::CallError;
use ocluster::worker::{Metrics as Given, MetricsSource, Served};

use super::{Config, Leaving, State};
use crate::http;
use crate::metrics::{CONTENT_TYPE, Metrics};

/// Where machines have their own metrics.
const NODE_EXPORTER: &str = "http://127.0.0.1:9100/metrics";

/// Answers the scheduler.
pub(super) struct Desk {
    metrics: Arc<Metrics>,
    state: Rc<State>,
    additional: Vec<(String, String)>,
}

impl Desk {
    pub(super) fn new(config: &Config, metrics: Arc<Metrics>, state: Rc<State>) -> Self {
        Self { metrics, state, additional: config.additional_metrics.clone() }
    }
}

/// Metrics that somebody on this machine offers.
async fn fetch(url: &str) -> Result<Given, CallError> {
    let found = http::get(url).await.map_err(|error| {
        tracing::warn!("failed to get metrics from `{url}`: {error}");
        CallError::Failed(match error {
            http::Error::Status(status) => format!("prometheus-node-exporter: {status}"),
            http::Error::NoContentType => {
                "Missing Content-Type in HTTP response from prometheus-node-exporter".into()
            }
            _ => "Failed to connect to prometheus-node-exporter".into(),
        })
    })?;
    Ok(Given { content_type: found.content_type, data: found.body })
}

impl Served for Desk {
    async fn metrics(&self, source: MetricsSource) -> Result<Given, CallError> {
        match source {
            MetricsSource::Agent => {
                Ok(Given { content_type: CONTENT_TYPE.into(), data: self.metrics.text() })
            }
            MetricsSource::Host => fetch(NODE_EXPORTER).await,
        }
    }

    async fn additional_metric(&self, source: String) -> Result<Option<Given>, CallError> {
        match self.additional.iter().find(|(name, _)| *name == source) {
            Some((_, url)) => fetch(url).await.map(Some),
            None => Ok(None),
        }
    }

    async fn self_update(&self) -> CallError {
        tracing::info!("the scheduler asks for a restart");
        self.state.leave(Leaving::Update);
        // Success is that the connection is lost.
        std::future::pending().await
    }
}
