//! The README's example of a layer compiles and runs.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use traffik::http::{
    Charge, ClientAddr, Everyone, Lookup, Rule, ThrottleLayer, extension, path, route,
};

use crate::support::{backend, request, throttle};

#[tokio::test]
async fn its_layer_limits() -> Result<(), Box<dyn std::error::Error>> {
    let (backend, _clock) = backend();
    let (logins, api) = (throttle("logins", "5/min", &backend), throttle("api", "2/min", &backend));
    let (clients, service) =
        (throttle("clients", "9/s", &backend), throttle("service", "99/s", &backend));

    #[derive(Clone)]
    struct User {
        id: u64,
    }

    let client = ClientAddr::behind(["10.0.0.0/8"])?; // by X-Forwarded-For, of your proxies alone
    let layer = ThrottleLayer::of_rules([
        Rule::new(logins, client.clone()).only(route("/login")).charge(Charge::failures()),
        Rule::new(api, extension(|user: &User| user.id).or_refuse(StatusCode::FORBIDDEN))
            .only(path("/api/**")),
        Rule::new(clients, client),
        Rule::new(service, Everyone),
    ]);

    let inner = layer.layer(service_fn(async |_request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let status =
        async |request| inner.clone().oneshot(request).await.map(|it| it.status().as_u16());
    let keyed = || {
        let mut request = request("/api/items", "10.0.0.1");
        request.extensions_mut().insert(User { id: 7 });
        request
    };
    assert_eq!(status(request("/api/items", "10.0.0.1")).await, Ok(403));
    assert_eq!(status(keyed()).await, Ok(200));
    assert_eq!(status(keyed()).await, Ok(200));
    assert_eq!(status(keyed()).await, Ok(429));
    assert_eq!(status(request("/", "10.0.0.1")).await, Ok(200));
    Ok(())
}
