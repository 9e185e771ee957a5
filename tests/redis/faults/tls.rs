//! TLS, in processes of their own: the system's certificates and the provider of cryptography are of a
//! whole process.

use std::time::Duration;

use traffik::{Backend, Effect, Redis};

use super::common::{PATIENT, PLENTY, ends, patient, throttle};
use test_support::servers::{Certificates, RedisServer, Workers, wait_until, workers};

/// Uses the server that it is told of, and reports what came of it.
#[test]
#[ignore = "run by another test as a process of its own"]
fn worker() {
    if workers::number().is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let patience = Duration::from_millis(workers::variable("PATIENCE").parse().unwrap());
        let url = workers::variable("URL");
        let builder = match url.strip_prefix("cluster+") {
            Some(url) => Redis::builder().cluster([url]),
            None => Redis::builder().url(url),
        };
        let builder =
            builder.connect_timeout(PATIENT).command_timeout(patience).initialize_timeout(patience);
        let backend = builder.build().unwrap();
        if let Err(error) = ends(backend.initialize()).await {
            assert!(ends(throttle(&backend, PLENTY).hit("key")).await.is_err());
            assert_eq!(error.effect(), Effect::NotApplied, "{error}");
            return format!("{:?} {error}", error.kind());
        }
        let decision = ends(throttle(&backend, PLENTY).hit("key")).await.unwrap();
        format!("remaining {}", decision.remaining())
    });
    workers::report(&outcome);
}

fn outcome(url: &str, trusted: &Certificates, patience: &str) -> String {
    let ca = trusted.ca();
    let envs = [("URL", url), ("SSL_CERT_FILE", ca.to_str().unwrap()), ("PATIENCE", patience)];
    Workers::run(1, "faults::tls::worker", &envs).remove(0)
}

#[test]
fn a_tls_url_works_without_more() {
    let server = RedisServer::with_tls(&["--requirepass", "secret"]);
    let expected = format!("remaining {}", PLENTY - 1);
    assert_eq!(outcome(&server.tls_url(), server.certificates(), "20000"), expected);
    let by_name = server.tls_url().replace("127.0.0.1", "localhost");
    let expected = format!("remaining {}", PLENTY - 2);
    assert_eq!(outcome(&by_name, server.certificates(), "20000"), expected);
}

/// The cluster names its node by address and port, which is not what the seed was called.
#[test]
fn nodes_that_a_seed_names_are_connected_by_tls_too() {
    let server = RedisServer::with_tls(&[
        "--requirepass",
        "secret",
        "--cluster-enabled",
        "yes",
        "--tls-cluster",
        "yes",
        "--cluster-announce-ip",
        "127.0.0.1",
    ]);
    server.cmd("CLUSTER ADDSLOTSRANGE 0 16383");
    wait_until("the cluster is up", PATIENT, || {
        server.cmd("CLUSTER INFO").text().contains("cluster_state:ok")
    });
    let seed = format!("cluster+{}", server.tls_url().replace("127.0.0.1", "localhost"));
    let expected = format!("remaining {}", PLENTY - 1);
    assert_eq!(outcome(&seed, server.certificates(), "20000"), expected);
    let by_name = server.cmd("CLUSTER SLOTS").array()[0].array()[2].array()[0].text();
    assert_eq!(by_name, "127.0.0.1");
}

#[test]
fn a_wrong_certificate_is_a_clear_error() {
    let server = RedisServer::with_tls(&[]);
    let stranger = outcome(&server.tls_url(), &Certificates::new(), "2000");
    assert!(stranger.starts_with("Unavailable"), "{stranger}");
    assert!(stranger.contains("certificate"), "{stranger}");

    let certificates = Certificates::for_names(&["another.example"]);
    let server = RedisServer::with_certificates(&[], certificates);
    let other_name = outcome(&server.tls_url(), server.certificates(), "2000");
    assert!(other_name.starts_with("Unavailable"), "{other_name}");
    assert!(other_name.contains("certificate"), "{other_name}");
}

#[test]
fn tls_to_a_port_without_it_is_an_error() {
    let server = RedisServer::with_tls(&[]);
    let plain = format!("rediss://127.0.0.1:{}", server.port());
    let outcome = outcome(&plain, server.certificates(), "2000");
    assert!(outcome.starts_with("Misconfigured") && outcome.contains("redis://"), "{outcome}");
}

#[tokio::test]
async fn no_tls_to_a_port_of_tls_is_an_error() {
    let server = RedisServer::with_tls(&[]);
    let backend = patient(format!("redis://127.0.0.1:{}", server.tls_port()));
    assert!(ends(throttle(&backend, PLENTY).hit("key")).await.is_err());
}
