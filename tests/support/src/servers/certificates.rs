//! Certificates for servers of tests.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::dir::TempDir;

/// An authority, and a certificate by it for a server; as PEM files, removed on drop.
#[derive(Debug)]
pub struct Certificates(TempDir);

impl Certificates {
    /// For `localhost` and `127.0.0.1`.
    pub fn new() -> Self {
        Self::for_names(&["localhost", "127.0.0.1"])
    }

    /// For a server of those names or addresses.
    pub fn for_names(names: &[&str]) -> Self {
        let files = Self(TempDir::new());
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().unwrap();
        std::fs::write(files.ca(), authority.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(authority, key);

        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut server = CertificateParams::new(names).unwrap();
        server.distinguished_name.push(DnType::CommonName, "server of a test");
        let key = KeyPair::generate().unwrap();
        let certificate = server.signed_by(&key, &issuer).unwrap();
        std::fs::write(files.certificate(), certificate.pem()).unwrap();
        std::fs::write(files.key(), key.serialize_pem()).unwrap();
        files
    }

    /// What a client must trust.
    pub fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    pub fn certificate(&self) -> PathBuf {
        self.0.join("server.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.0.join("server.key")
    }
}
