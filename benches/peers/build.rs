//! Tells the benchmark which compiler made it, and how: only known while it is built.

use std::process::Command;

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .map_or_else(|_| "unknown".into(), |out| String::from_utf8_lossy(&out.stdout).into_owned());
    let level = std::env::var("OPT_LEVEL").unwrap_or_default();
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    println!("cargo:rustc-env=VERSUS_RUSTC={}", version.trim());
    println!("cargo:rustc-env=VERSUS_OPT_LEVEL={level}");
    println!("cargo:rustc-env=VERSUS_RUSTFLAGS={}", flags.replace('\x1f', " "));
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RUSTFLAGS");
}
