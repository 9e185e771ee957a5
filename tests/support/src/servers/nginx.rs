//! An nginx server.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::Path;

use super::instance::{Instance, on_a_free_port};

/// Where Debian has it, which is not on everybody's path.
const SYSTEM: &str = "/usr/sbin/nginx";

/// An nginx server of its own, which ends with the value.
#[derive(Debug)]
pub struct NginxServer {
    instance: Instance,
    port: u16,
}

impl Deref for NginxServer {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for NginxServer {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
}

impl NginxServer {
    /// Starts one with these locations.
    pub fn start(locations: &str) -> Self {
        on_a_free_port(|port| Self::start_on(port, locations))
    }

    /// Starts one; whether it answers.
    fn start_on(port: u16, locations: &str) -> (Self, bool) {
        let program = if Path::new(SYSTEM).exists() { SYSTEM } else { "nginx" };
        let mut server = Self { instance: Instance::new(program), port };
        let file = server.dir().join("nginx.conf");
        std::fs::write(&file, server.configuration(locations)).unwrap();
        let mut command = server.instance.command();
        command.arg("-p").arg(server.dir().path()).arg("-c").arg(file).args(["-e", "stderr"]);
        server.instance.spawn(command);
        let address = server.address();
        let answers = server.instance.answers(|pid| its_pid(address) == Some(pid));
        (server, answers)
    }

    fn configuration(&self, locations: &str) -> String {
        let port = self.port;
        let temporary = |name: &str| format!("{name}_temp_path temp-{name}; ");
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(temporary);
        format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr;
             events {{ worker_connections 256; }}
             http {{
               access_log off; {}
               server {{
                 listen 127.0.0.1:{port};
                 location = /.pid {{ return 200 $pid; }}
                 {locations}
               }}
             }}",
            temporary.concat()
        )
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

/// The number of the process that answers there.
fn its_pid(address: SocketAddr) -> Option<u32> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /.pid HTTP/1.0\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    reply.rsplit('\n').next()?.trim().parse().ok()
}
