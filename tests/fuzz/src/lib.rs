//! Fuzz targets for everything that reads bytes from outside.
//!
//! A target is a function of bytes that panics where something does not hold. `seeds/` has the first inputs of each, and
//! every input that ever found a fault; all of them are run by an ordinary test. `tests/fuzz/run` fuzzes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "that is how a target says what it found"
)]

mod access_log;
mod admission;
mod config;
mod dns;
mod first_bytes;
mod heads;
mod http1;
mod manifest;
mod parts;
mod workload;

pub use access_log::{access_log_format, access_log_values};
pub use admission::admission;
pub use config::{config_document, config_flags};
pub use dns::{discovery, dns_message, resolv_conf};
pub use first_bytes::{detect, proxy_protocol, sni};
pub use heads::{grpc, hash, request_head, response_head};
pub use http1::http1;
pub use manifest::manifest;
pub use workload::{env_values, injection, quantity, uninject};

/// A target: what it is called, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("access_log_format", access_log_format),
    ("access_log_values", access_log_values),
    ("admission", admission),
    ("config_document", config_document),
    ("config_flags", config_flags),
    ("detect", detect),
    ("discovery", discovery),
    ("dns_message", dns_message),
    ("env_values", env_values),
    ("grpc", grpc),
    ("hash", hash),
    ("http1", http1),
    ("injection", injection),
    ("manifest", manifest),
    ("proxy_protocol", proxy_protocol),
    ("quantity", quantity),
    ("request_head", request_head),
    ("resolv_conf", resolv_conf),
    ("response_head", response_head),
    ("sni", sni),
    ("uninject", uninject),
];

/// The target with this name.
#[must_use]
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_seed_holds() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
        let mut known: Vec<String> = Vec::new();
        for (name, target) in TARGETS {
            let mut files: Vec<_> = std::fs::read_dir(seeds.join(name))
                .unwrap_or_else(|error| panic!("seeds/{name}: {error}"))
                .map(|file| file.unwrap().path())
                .collect();
            assert!(!files.is_empty(), "seeds/{name} is empty");
            files.sort();
            for file in files {
                println!("{}", file.display());
                target(&std::fs::read(file).unwrap());
            }
            known.push((*name).to_owned());
        }
        let mut there: Vec<_> = std::fs::read_dir(seeds)
            .unwrap()
            .map(|folder| folder.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        assert_eq!(there, known, "one folder for each target");
    }
}
