//! HTTP/2 in clear text, with prior knowledge: clients' connections, pods' connections, and what both share.
//!
//! h2 is used without hyper around it: a stream is one task and not three, and what hyper hides decides about retries and
//! flags: which streams a GOAWAY leaves unprocessed, a refused stream, the peer's stream limit.

mod client;
mod frames;
mod pump;
mod server;

pub use client::{Connection, Connections, Opening, Slot};
pub use frames::Frames;
pub use pump::{Pump, Stopped};
pub use server::serve;

/// What one stream may have under way to us before we have passed it on: 64 KiB a millisecond is half a gigabit a second,
/// so this fills a fast network, and a client that reads nothing costs no more.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all streams of a connection. Streams of many clients share a pod's connection, and those of many pods a
/// client's: 64 streams that nobody reads must not stop the others, and this much is what one peer can make us hold.
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;
/// What of a stream waits in our memory for the peer's window.
const SEND_BUFFER: usize = 64 * 1024;
