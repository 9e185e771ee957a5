//! [`AcquireService`]: the service that waits before it sends.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use thiserror::Error as ThisError;
use tower_service::Service;

use super::AcquireLayer;
use crate::error::Error;
use crate::http::identity::Refusal;

/// The service of an [`AcquireLayer`].
#[derive(Clone)]
pub struct AcquireService<S> {
    inner: S,
    layer: Arc<AcquireLayer>,
}

/// Why an outgoing request failed.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum AcquireError<E> {
    /// Its turn did not come: see [`Throttle::acquire`](crate::Throttle::acquire). It was not sent.
    #[error(transparent)]
    Throttle(Error),
    /// Nobody knows whose request it is. It was not sent.
    #[error("{}", .0.text())]
    Unidentified(Refusal),
    /// The inner service failed.
    #[error(transparent)]
    Inner(E),
}

impl<S> AcquireService<S> {
    pub(super) const fn new(inner: S, layer: Arc<AcquireLayer>) -> Self {
        Self { inner, layer }
    }

    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for AcquireService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    ReqBody: Send + 'static,
    ResBody: Send,
{
    type Response = Response<ResBody>;
    type Error = AcquireError<S::Error>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    /// Always ready: whoever waits for its turn holds nothing of the inner service meanwhile.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let mut inner = self.inner.clone();
        let layer = Arc::clone(&self.layer);
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let (key, cost) = (layer.key_of(&parts)?, layer.cost_of(&parts));
            let turn = layer.wait(key.as_ref(), cost).await.map_err(AcquireError::Throttle)?;
            poll_fn(|cx| inner.poll_ready(cx)).await.map_err(AcquireError::Inner)?;
            if let Some(turn) = turn {
                turn.commit();
            }
            let sent = inner.call(Request::from_parts(parts, body)).await;
            let response = sent.map_err(AcquireError::Inner)?;
            layer.heed(key.as_ref(), response.status(), response.headers()).await;
            Ok(response)
        })
    }
}

impl<S: fmt::Debug> fmt::Debug for AcquireService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireService")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}
