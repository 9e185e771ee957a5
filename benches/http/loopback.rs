//! A server over loopback, under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::{Case, layers};

const CONNECTIONS: usize = 32;

pub(crate) async fn run(is_denied: bool, rounds: usize, quick: bool) -> Vec<Case> {
    let router = || Router::new().route("/", get(async || "served"));
    let mut all = vec![
        (Case::new("no layer"), server(router()).await),
        (Case::new("traffik"), server(router().layer(layers::traffik(is_denied))).await),
        (
            Case::new("tower_governor"),
            server(router().layer(layers::tower_governor!(is_denied))).await,
        ),
        (
            Case::new("axum-governor"),
            server(router().layer(layers::axum_governor(is_denied))).await,
        ),
    ];
    let time = Duration::from_millis(if quick { 50 } else { 500 });
    for round in 0..=rounds {
        for (case, address) in &mut all {
            let rate = load(*address, time).await;
            if round > 0 {
                case.figures.push(rate);
            }
        }
    }
    all.into_iter().map(|(case, _)| case).collect()
}

async fn server(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Returns the responses a second.
async fn load(address: SocketAddr, time: Duration) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut sender = connect(address).await;
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let mut count = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let request = Request::get("/").header("host", "localhost");
                let request = request.body(Empty::<Bytes>::new()).unwrap();
                let response = sender.send_request(request).await.unwrap();
                response.into_body().collect().await.unwrap();
                count += 1;
            }
            count
        });
    }
    let start = Instant::now();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let counts = clients.join_all().await;
    let seconds = start.elapsed().as_secs_f64();
    counts.into_iter().map(f64::from).sum::<f64>() / seconds
}

async fn connect(address: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender
}
