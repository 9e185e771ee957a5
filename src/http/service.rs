//! [`ThrottleService`]: the service that asks before it serves.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::ask::Asking;
use super::body::ResponseBody;
use super::future::ResponseFuture;
use super::settings::Settings;

/// The service of a [`ThrottleLayer`](super::ThrottleLayer).
#[derive(Clone)]
pub struct ThrottleService<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> ThrottleService<S> {
    pub(super) const fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }

    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service. What is called on it is not limited.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for ThrottleService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body<Data: From<Bytes>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> ResponseFuture<S, ReqBody> {
        let (mut parts, body) = request.into_parts();
        match self.settings.ask(&mut parts) {
            Asking::Nobody => {
                self.settings.pass_by(&mut parts);
                let call = || self.inner.call(Request::from_parts(parts, body));
                ResponseFuture::serving(call, None)
            }
            Asking::Admitted(admitted) => {
                let call = || self.inner.call(Request::from_parts(parts, body));
                ResponseFuture::serving(call, Some(admitted))
            }
            Asking::Denied(response) => ResponseFuture::denied(response),
            Asking::Later(answer) => {
                // The one that is ready answers this request, and its clone becomes ready for the next.
                let clone = self.inner.clone();
                let ready = mem::replace(&mut self.inner, clone);
                let request = Request::from_parts(parts, body);
                ResponseFuture::later(answer, request, ready, Arc::clone(&self.settings))
            }
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for ThrottleService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleService")
            .field("inner", &self.inner)
            .field("settings", &self.settings)
            .finish()
    }
}
