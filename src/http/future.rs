//! [`ResponseFuture`]: asks, if that takes a while, then serves.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::ask::RequestAnswerFuture;
use super::body::ResponseBody;
use super::conclude::Admitted;
use super::settings::Settings;

pin_project! {
    /// The response of a [`ThrottleService`](super::ThrottleService).
    ///
    /// Dropped, it drops the request. What one throttle took stays used, as for
    /// [`Throttle::hit`](crate::Throttle::hit); what several took is given back while they are asked, as for
    /// [`all`](crate::all()). Once the request is served, [`Charge`](super::Charge) decides.
    pub struct ResponseFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: RequestStage<S, ReqBody, S::Future>,
    }
}

pin_project! {
    #[project = RequestStageProjected]
    enum RequestStage<S, ReqBody, F> {
        Asking { answer: RequestAnswerFuture, waiting: Option<Box<Waiting<S, ReqBody>>> },
        Serving { #[pin] future: F, admitted: Option<Admitted> },
        Denied { response: Option<Box<Response<Bytes>>> },
    }
}

/// A request that waits for its answer, and who will serve it.
struct Waiting<S, ReqBody> {
    request: Request<ReqBody>,
    service: S,
    settings: Arc<Settings>,
}

impl<S, ReqBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    /// Served by this call, which is made where its future is to be: a copy costs more than the call.
    #[inline]
    pub(super) fn serving(call: impl FnOnce() -> S::Future, admitted: Option<Admitted>) -> Self {
        Self { state: RequestStage::Serving { future: call(), admitted } }
    }

    pub(super) const fn denied(response: Box<Response<Bytes>>) -> Self {
        Self { state: RequestStage::Denied { response: Some(response) } }
    }

    pub(super) fn later(
        answer: RequestAnswerFuture,
        request: Request<ReqBody>,
        service: S,
        settings: Arc<Settings>,
    ) -> Self {
        let waiting = Some(Box::new(Waiting { request, service, settings }));
        Self { state: RequestStage::Asking { answer, waiting } }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data: From<Bytes>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                RequestStageProjected::Asking { answer, waiting } => {
                    let answer = ready!(answer.as_mut().poll(cx));
                    let Waiting { request, mut service, settings } =
                        *waiting.take().expect("`ResponseFuture` polled after completion");
                    let (mut parts, body) = request.into_parts();
                    match settings.conclude(answer, &mut parts) {
                        Ok(admitted) => {
                            let future = service.call(Request::from_parts(parts, body));
                            RequestStage::Serving { future, admitted: Some(admitted) }
                        }
                        Err(response) => RequestStage::Denied { response: Some(response) },
                    }
                }
                RequestStageProjected::Serving { future, admitted } => {
                    let response = ready!(future.poll(cx))?;
                    return Poll::Ready(Ok(match admitted {
                        Some(admitted) => admitted.complete(response),
                        None => response.map(ResponseBody::inner),
                    }));
                }
                RequestStageProjected::Denied { response } => {
                    let response = response.take();
                    let response = response.expect("`ResponseFuture` polled after completion");
                    return Poll::Ready(Ok(response.map(ResponseBody::denial)));
                }
            };
            this.state.set(next);
        }
    }
}

impl<S, ReqBody> fmt::Debug for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            RequestStage::Asking { .. } => "Asking",
            RequestStage::Serving { .. } => "Serving",
            RequestStage::Denied { .. } => "Denied",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
