//! A port of a web server, for clients that take it for something else.

use std::io::{Read, Write};

use super::ports;

/// Answers whatever comes like a web server, as long as the process runs. Returns the port.
pub fn web_server() -> u16 {
    let (port, listener) = ports::bind();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.read(&mut [0; 1024]);
            let _ = client.write_all(
                b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
    });
    port
}
