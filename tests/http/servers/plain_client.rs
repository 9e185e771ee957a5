//! A client that binds its own address, so that a server sees another than its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpSocket;

/// Sends requests over one connection from that loopback address.
pub(crate) struct Client {
    sender: Sender,
    host: SocketAddr,
}

enum Sender {
    One(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Two(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    pub(crate) async fn http1(server: SocketAddr, from: [u8; 4]) -> Self {
        let stream = connect(server, from).await;
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self { sender: Sender::One(sender), host: server }
    }

    pub(crate) async fn http2(server: SocketAddr, from: [u8; 4]) -> Self {
        let stream = connect(server, from).await;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self { sender: Sender::Two(sender), host: server }
    }

    pub(crate) async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
        self.ask(Method::GET, path, headers).await.unwrap()
    }

    /// Sends any request; the connection or the body may break.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> hyper::Result<Response<Bytes>> {
        let mut request =
            Request::builder().method(method).uri(format!("http://{}{path}", self.host));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if matches!(self.sender, Sender::One(_)) {
            request = request.header("host", self.host.to_string());
        }
        let request = request.body(Empty::new()).unwrap();
        let response = match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Two(sender) => sender.send_request(request).await?,
        };
        let (head, body) = response.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }
}

async fn connect(server: SocketAddr, from: [u8; 4]) -> TokioIo<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(from)), 0)).unwrap();
    TokioIo::new(socket.connect(server).await.unwrap())
}
