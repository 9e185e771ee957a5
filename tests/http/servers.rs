//! Real servers and clients over loopback: axum, hyper and tonic, HTTP/1.1 and HTTP/2, nginx in front.

pub(crate) mod axum;
mod grpc;
mod hyper;
mod nginx;
pub(crate) mod plain_client;
