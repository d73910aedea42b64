//! A TCP connection: one pod for all of it, chosen when it begins.

use std::rc::Rc;

use bytes::Bytes;
use whichpod_protocols::error::{Failure, verdict};

use crate::connect::{self, Opened};
use crate::exchange::Exchange;
use crate::io::{DownstreamIo, UpstreamIo};
use crate::tunnel::{self, Ends};

/// A TCP connection, and what was done for it while it was not yet known to be one.
pub struct Begun {
    exchange: Box<Exchange>,
    opened: Option<Result<Opened, Failure>>,
    greeting: Vec<u8>,
}

impl Begun {
    /// Nothing was done yet.
    #[must_use]
    pub fn new(exchange: Box<Exchange>) -> Self {
        Self { exchange, opened: None, greeting: Vec::new() }
    }

    /// No pod took a connection.
    #[must_use]
    pub fn failed(exchange: Box<Exchange>, failure: Failure) -> Self {
        Self { exchange, opened: Some(Err(failure)), greeting: Vec::new() }
    }

    /// A pod has taken a connection, and has perhaps said something already.
    #[must_use]
    pub fn connected(exchange: Box<Exchange>, opened: Opened, greeting: Vec<u8>) -> Self {
        Self { exchange, opened: Some(Ok(opened)), greeting }
    }
}

/// Passes bytes on until both sides are done, and writes the line.
pub async fn serve(begun: Begun, client: DownstreamIo) {
    let Begun { mut exchange, opened, greeting } = begun;
    exchange.is_tcp();
    let opened = match opened {
        Some(opened) => opened,
        // In a box of its own, which is gone when the connection has become a long one.
        None => Box::pin(connect::open(&mut exchange)).await,
    };
    match opened {
        Ok(Opened { stream, peer }) => {
            exchange.attempt(&peer, false);
            exchange.attempt_connected();
            let pod = UpstreamIo::new(stream, Rc::default(), Rc::clone(&exchange.worker), None);
            tunnel::run(
                exchange,
                Ends { client, pod, peer, from_client: Bytes::new(), from_pod: greeting.into() },
            )
            .await;
        }
        Err(failure) => {
            exchange.failed(&verdict(failure));
            exchange.end(None);
            // What the client would have seen without us.
            exchange.downstream.reset();
        }
    }
}
