//! Calls outside of a tokio runtime.

use super::world::{patient, with_policy};
use test_support::servers::RedisServer;

#[test]
fn every_call_outside_of_a_runtime_is_a_clear_error() {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    test_support::remote::calls_outside_of_a_runtime_are_clear_errors(backend.clone(), |policy| {
        with_policy(&backend, policy)
    });
}
