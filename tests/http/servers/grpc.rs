//! A tonic server: the status of a denial, and what its details say.

use std::net::SocketAddr;
use std::time::Duration;

use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;
use traffik::http::{Charge, PeerAddr, Rule, ThrottleLayer};
use traffik::{OnError, Throttle};

use crate::support::{backend, builder, throttle};

async fn served(layer: ThrottleLayer) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_reporter, health) = tonic_health::server::health_reporter();
    let server = Server::builder().layer(layer).add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

async fn client(address: SocketAddr) -> HealthClient<tonic::transport::Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    HealthClient::new(endpoint.connect().await.unwrap())
}

fn ask(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_is_a_status_with_the_wait_and_the_limits() {
    let (backend, _clock) = backend();
    let calls = builder("calls", "2/min", &backend).named("calls a minute").build().unwrap();
    let mut client = client(served(ThrottleLayer::new(calls, PeerAddr::new())).await).await;
    for left in ["1", "0"] {
        let response = client.check(ask("")).await.unwrap();
        let said = response.metadata().get("ratelimit").unwrap().to_str().unwrap();
        assert!(said.starts_with(&format!("\"calls a minute\";r={left}")), "{said}");
    }
    let status = client.check(ask("")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "too many requests; retry after 30 seconds");
    let details = status.get_error_details();
    let wait = details.retry_info().unwrap().retry_delay;
    assert_eq!(wait, Some(Duration::from_secs(30)));
    let violations = &details.quota_failure().unwrap().violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].subject, "calls a minute");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_by_the_policy_is_unavailable() {
    use test_support::{Failing, Mode};

    let failing = Failing::new(Mode::Fail(traffik::ErrorKind::Unavailable));
    let failing: std::sync::Arc<dyn traffik::Backend> = std::sync::Arc::new(failing);
    let policy = OnError::throttle(Duration::from_secs(3));
    let calls = Throttle::builder("calls").rate("2/s").backend(failing).on_error(policy);
    let layer = ThrottleLayer::new(calls.build().unwrap(), PeerAddr::new());
    let status = client(served(layer).await).await.check(ask("")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let details = status.get_error_details();
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_counted_by_their_grpc_status() {
    let (backend, _clock) = backend();
    let rule = Rule::new(throttle("failures", "2/min", &backend), PeerAddr::new());
    let layer = ThrottleLayer::of_rules([rule.charge(Charge::failures())]);
    let mut client = client(served(layer).await).await;
    for _ in 0..5 {
        client.check(ask("")).await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(client.check(ask("unknown")).await.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(client.check(ask("")).await.unwrap_err().code(), Code::ResourceExhausted);
}
