//! What a scheduler may ask of a worker.

use std::future::Future;
use std::rc::Rc;

use crate::error::CallError;
use crate::job_descr::text;
use crate::schema_capnp::worker;

/// Whose metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsSource {
    /// The worker's own.
    Agent,
    /// Its machine's.
    Host,
}

/// Metrics in Prometheus's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Their media type.
    pub content_type: String,
    /// Themselves.
    pub data: String,
}

/// What a worker does for its scheduler.
pub trait Served: 'static {
    /// Gives metrics.
    fn metrics(&self, source: MetricsSource) -> impl Future<Output = Result<Metrics, CallError>>;

    /// Gives those that go by a name; `None` where there are none of it.
    fn additional_metric(
        &self,
        source: String,
    ) -> impl Future<Output = Result<Option<Metrics>, CallError>>;

    /// Finishes what runs and restarts; gives why not, and otherwise never ends.
    fn self_update(&self) -> impl Future<Output = CallError>;
}

/// A worker as its scheduler sees it.
#[derive(Clone)]
pub struct WorkerClient(pub(crate) worker::Client);

impl WorkerClient {
    /// Serves `worker`.
    pub fn serve<W: Served>(worker: Rc<W>) -> Self {
        Self(capnp_rpc::new_client(Server(worker)))
    }

    /// See [`Served::metrics`].
    pub async fn metrics(&self, source: MetricsSource) -> Result<Metrics, CallError> {
        let mut request = self.0.metrics_request();
        request.get().set_source(match source {
            MetricsSource::Agent => worker::MetricsSource::Agent,
            MetricsSource::Host => worker::MetricsSource::Host,
        });
        let response = request.send().promise.await?;
        let response = response.get()?;
        let (content_type, data) = (response.get_content_type()?, response.get_data()?);
        Ok(Metrics { content_type: text(content_type)?, data: text(data)? })
    }

    /// See [`Served::additional_metric`].
    pub async fn additional_metric(&self, source: &str) -> Result<Option<Metrics>, CallError> {
        use crate::schema_capnp::additional_metric::Which;
        let mut request = self.0.additional_metric_request();
        request.get().set_source(source);
        let response = request.send().promise.await?;
        let metric = response.get()?.get_metric()?;
        Ok(match metric.which().map_err(capnp::Error::from)? {
            Which::NotReported(()) => None,
            Which::Metric(metric) => {
                let metric = metric?;
                let (content_type, data) = (metric.get_content_type()?, metric.get_data()?);
                Some(Metrics { content_type: text(content_type)?, data: text(data)? })
            }
        })
    }

    /// Has the worker restart. It has done so when the connection to it is lost.
    pub async fn self_update(&self) -> Result<(), CallError> {
        match self.0.self_update_request().send().promise.await.map_err(CallError::from) {
            Err(error) if error.is_disconnected() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                Err(CallError::Failed("the worker says it has updated, and is still there".into()))
            }
        }
    }
}

struct Server<W>(Rc<W>);

impl<W: Served> worker::Server for Server<W> {
    async fn metrics(
        self: Rc<Self>,
        params: worker::MetricsParams,
        mut results: worker::MetricsResults,
    ) -> Result<(), capnp::Error> {
        let source = match params.get()?.get_source() {
            Ok(worker::MetricsSource::Agent) => MetricsSource::Agent,
            Ok(worker::MetricsSource::Host) => MetricsSource::Host,
            Err(_) => return Err(CallError::Failed("Unknown metrics source".into()).into()),
        };
        let metrics = self.0.metrics(source).await?;
        let mut results = results.get();
        results.set_content_type(&*metrics.content_type);
        results.set_data(&*metrics.data);
        Ok(())
    }

    async fn self_update(
        self: Rc<Self>,
        _: worker::SelfUpdateParams,
        _: worker::SelfUpdateResults,
    ) -> Result<(), capnp::Error> {
        Err(self.0.self_update().await.into())
    }

    async fn additional_metric(
        self: Rc<Self>,
        params: worker::AdditionalMetricParams,
        mut results: worker::AdditionalMetricResults,
    ) -> Result<(), capnp::Error> {
        let source = text(params.get()?.get_source()?)?;
        let found = self.0.additional_metric(source).await?;
        let mut metric = results.get().init_metric();
        match found {
            None => metric.set_not_reported(()),
            Some(found) => {
                let mut metric = metric.init_metric();
                metric.set_content_type(&*found.content_type);
                metric.set_data(&*found.data);
            }
        }
        Ok(())
    }
}
