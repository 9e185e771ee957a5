//! nginx in front of an axum server, on the way that most services are reached.

use ::axum::Router;
use ::axum::routing::get;
use http::StatusCode;
use test_support::servers::NginxServer;
use traffik::http::{ClientAddr, ForwardedHeader, ThrottleLayer};

use super::axum::served;
use super::plain_client::Client;
use crate::support::{backend, throttle};

/// nginx connects from 127.0.0.1, and clients from other loopback addresses.
async fn behind_nginx(header: ForwardedHeader, setting: &str) -> NginxServer {
    let (backend, _clock) = backend();
    let clients = ClientAddr::behind(["127.0.0.1"]).unwrap().header(header);
    let layer = ThrottleLayer::new(throttle("api", "2/min", &backend), clients);
    let address = served(Router::new().route("/", get(async || "served")).layer(layer)).await;
    let location = format!("location / {{ proxy_pass http://{address}; {setting} }}");
    tokio::task::spawn_blocking(move || NginxServer::start(&location)).await.unwrap()
}

const ADDS: &str = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
const SETS: &str = "proxy_set_header X-Real-IP $remote_addr;";
const FORWARDED: &str =
    "proxy_set_header Forwarded \"$http_forwarded, for=$remote_addr;proto=http\";";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_apart_and_cannot_forge() {
    for (header, setting) in [
        (ForwardedHeader::XForwardedFor, ADDS),
        (ForwardedHeader::XRealIp, SETS),
        (ForwardedHeader::Forwarded, FORWARDED),
    ] {
        let nginx = behind_nginx(header.clone(), setting).await;
        for from in [[127, 0, 0, 2], [127, 0, 0, 3]] {
            let mut client = Client::http1(nginx.address(), from).await;
            let mut statuses = Vec::new();
            for forged in ["198.51.100.1", "for=198.51.100.2", "\"", "127.0.0.1"] {
                let headers = [header.name()].map(|name| (name.as_str().to_owned(), forged));
                let headers = headers.each_ref().map(|(name, value)| (name.as_str(), *value));
                statuses.push(client.get("/", &headers).await.status());
            }
            let (ok, denied) = (StatusCode::OK, StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(statuses, [ok, ok, denied, denied], "{header:?} from {from:?}");
        }
    }
}
