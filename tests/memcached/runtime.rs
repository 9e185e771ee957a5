//! Calls outside of a tokio runtime.

use traffik::Throttle;

use crate::world::{PATIENCE, builder};
use test_support::servers::MemcachedServer;

#[test]
fn every_call_outside_of_a_runtime_is_a_clear_error() {
    let server = MemcachedServer::start();
    let backend = builder(&server).track_keys(true).build().unwrap();
    test_support::remote::calls_outside_of_a_runtime_are_clear_errors(backend.clone(), |policy| {
        let builder = Throttle::builder("plain").rate("5/30d").backend(backend.clone());
        builder.deadline(PATIENCE).on_error(policy).build().unwrap()
    });
}
