//! A WebSocket whose messages are limited: a client that is too fast is told when to go on, and keeps its connection.
//!
//! Opening a connection is limited by the layer, and messages by the handler. `cargo run --features axum --example
//! websocket` serves on 127.0.0.1:3000; `cargo test --features axum --example websocket` talks to it.

use std::error::Error;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use axum::routing::any;
use tokio::net::TcpListener;
use traffik::http::{ClientKey, PeerAddr, ThrottleLayer, serve, shutdown_signal};
use traffik::{InMemory, LifespanExt, Outcome, Throttle};

async fn open(
    upgrade: WebSocketUpgrade,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    State(messages): State<Throttle>,
) -> Response {
    let client = PeerAddr::new().key_of(peer.ip());
    upgrade.on_upgrade(move |socket| talk(socket, client, messages))
}

async fn talk(mut socket: WebSocket, client: ClientKey, messages: Throttle) {
    while let Some(Ok(message)) = socket.recv().await {
        // Each costs, also one that is not answered.
        let reply = match messages.hit(client).await.map(|decision| decision.outcome()) {
            Ok(Outcome::Allowed) => match message {
                Message::Text(text) => Message::text(format!("echo: {text}")),
                _ => continue,
            },
            Ok(Outcome::Denied { retry_after }) => {
                let seconds = retry_after.as_secs_f64();
                Message::text(format!(r#"{{"type":"rate_limit","retry_after":{seconds:.3}}}"#))
            }
            Ok(Outcome::Never) | Err(_) => Message::text(r#"{"type":"error"}"#),
        };
        if socket.send(reply).await.is_err() {
            return;
        }
    }
}

fn app(backend: InMemory) -> Result<Router, traffik::BuildError> {
    let connections =
        Throttle::builder("connections").rate("5/min").backend(backend.clone()).build()?;
    let messages = Throttle::builder("messages").rate("2/s").backend(backend).build()?;
    Ok(Router::new()
        .route("/ws", any(open))
        .layer(ThrottleLayer::new(connections, PeerAddr::new()))
        .with_state(messages))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = InMemory::new();
    let life = backend.lifespan().await?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("connect to ws://{}/ws", listener.local_addr()?);
    Ok(serve(listener, app(backend)?)
        .lifespan(life)
        .with_graceful_shutdown(shutdown_signal())
        .await?)
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use serde_json::Value;
    use tokio_tungstenite::tungstenite;
    use traffik::ManualClock;

    use super::*;

    #[tokio::test]
    async fn a_client_that_is_too_fast_is_told_and_stays() {
        let clock = ManualClock::new();
        let backend = InMemory::builder().clock(clock.clone()).build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        tokio::spawn(async move { serve(listener, app(backend).unwrap()).await });

        let (mut socket, _response) = tokio_tungstenite::connect_async(&url).await.unwrap();
        let mut say = async |text: &str| {
            socket.send(tungstenite::Message::text(text)).await.unwrap();
            socket.next().await.unwrap().unwrap().into_text().unwrap().to_string()
        };
        assert_eq!(say("a").await, "echo: a");
        assert_eq!(say("b").await, "echo: b");
        let told: Value = serde_json::from_str(&say("c").await).unwrap();
        assert_eq!(told["type"], "rate_limit");
        let wait = told["retry_after"].as_f64().unwrap();
        clock.advance(std::time::Duration::from_secs_f64(wait));
        assert_eq!(say("c").await, "echo: c");

        for _ in 0..4 {
            drop(tokio_tungstenite::connect_async(&url).await.unwrap());
        }
        let refused = tokio_tungstenite::connect_async(&url).await.unwrap_err();
        let tungstenite::Error::Http(response) = refused else { panic!("{refused}") };
        assert_eq!(response.status(), 429);
    }
}
