//! A gRPC service with a limit for each client: the status of a denial says when to come back, and what is used up.
//!
//! `cargo run --features tonic --example tonic` starts a server, calls it, and ends.

use std::error::Error;

use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;
use traffik::http::{PeerAddr, ThrottleLayer};
use traffik::{InMemory, Throttle};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let calls = Throttle::builder("calls").rate("2/min").backend(InMemory::new()).build()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    // Any service; this one is a health check.
    let (_reporter, service) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .layer(ThrottleLayer::new(calls, PeerAddr::new()))
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);

    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let mut client = HealthClient::new(endpoint.connect().await?);
    for _ in 0..3 {
        match client.check(HealthCheckRequest::default()).await {
            Ok(response) => {
                let said = response.metadata().get("ratelimit").ok_or("no field")?.to_str()?;
                println!("served, ratelimit: {said}");
            }
            Err(status) => {
                let details = status.get_error_details();
                let wait = details.retry_info().and_then(|info| info.retry_delay);
                let used_up = details.quota_failure().map(|quota| &quota.violations[0].subject);
                println!("{:?}: {}", status.code(), status.message());
                println!("retry after {wait:?}, used up: {used_up:?}");
            }
        }
    }
    Ok(())
}
