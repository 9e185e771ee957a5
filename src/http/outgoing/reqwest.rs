//! [`AcquireLayer`] as a middleware of reqwest.

use async_trait::async_trait;
use http::Extensions;
use http::request::Parts;
use reqwest_middleware::reqwest::{Request, Response, Url};
use reqwest_middleware::{Error, Middleware, Next, Result};

use super::{AcquireError, AcquireLayer};

#[async_trait]
impl Middleware for AcquireLayer {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let parts = head_of(&request, extensions)?;
        let failed = |error: AcquireError<std::convert::Infallible>| Error::middleware(error);
        let key = self.key_of(&parts).map_err(|failure| failed(failure.into()))?;
        let cost = self.cost_of(&parts);
        drop(parts);
        let turn = self.wait(key.as_ref(), cost).await;
        if let Some(turn) = turn.map_err(|error| failed(AcquireError::Throttle(error)))? {
            turn.commit();
        }
        let asked = origin_of(request.url());
        let response = next.run(request, extensions).await?;
        // After a redirect it is what another host says.
        if origin_of(response.url()) == asked {
            self.heed(key.as_ref(), response.status(), response.headers()).await;
        }
        Ok(response)
    }
}

/// The host of a URL with its port.
fn origin_of(url: &Url) -> (Option<String>, Option<u16>) {
    (url.host_str().map(str::to_owned), url.port_or_known_default())
}

/// The head of a request, as identities read it.
fn head_of(request: &Request, extensions: &Extensions) -> Result<Parts> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri =
        request.url().as_str().parse().map_err(Error::middleware::<http::uri::InvalidUri>)?;
    parts.headers = request.headers().clone();
    parts.extensions = extensions.clone();
    Ok(parts)
}
