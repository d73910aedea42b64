//! What is known of a TCP connection, or of a request that has become a tunnel, while bytes pass.

use std::borrow::Cow;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;
use whichpod_access_log::Attempt;
use whichpod_protocols::error::{Ended, ended};

use super::{Exchange, Kind};
use crate::tunnel::Direction;

impl Exchange {
    /// From now on bytes are passed on both ways, until [`Self::end_tunnel`].
    pub fn begin_tunnel(&mut self) {
        (self.tunnel, self.wanted) = (true, true);
        self.downstream.becomes_tunnel();
        self.body = None;
        self.timers.without_end();
        self.site.stats.tunnels_wanted.fetch_add(1, Relaxed);
    }

    /// So many bytes went through the tunnel.
    pub fn passed(&mut self, direction: Direction, bytes: usize) {
        let bytes = bytes as u64;
        let stats = &self.site.stats;
        let (sum, count) = match direction {
            Direction::ToPod => (&mut self.record.bytes_received, &stats.tcp_bytes_received),
            Direction::ToClient => (&mut self.record.bytes_sent, &stats.tcp_bytes_sent),
        };
        *sum += bytes;
        if self.kind == Kind::Connection {
            // Not only at its end, which may be days away.
            count.fetch_add(bytes, Relaxed);
        }
        self.timers.moved();
    }

    /// The client says nothing more, and the pod has all of it: nobody waits for the tunnel's end.
    pub fn client_is_done(&mut self) {
        if std::mem::replace(&mut self.wanted, false) {
            self.site.stats.tunnels_wanted.fetch_sub(1, Relaxed);
        }
    }

    /// Writes a line of what is still running, once.
    pub fn write_open_line(&mut self) {
        if std::mem::replace(&mut self.told_open, true) {
            return;
        }
        self.times(Instant::now());
        if self.kind == Kind::Request
            && let Some(Attempt { duration, status: None, sent: true, .. }) = self.record.attempts.last_mut()
        {
            *duration = self.attempt_started.elapsed();
        }
        self.record.open = true;
        self.worker.write_line(&self.record);
        self.record.open = false;
    }

    /// When it began.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Ends the tunnel and writes its line.
    pub fn end_tunnel(&mut self, how: Ended) {
        let (flags, details) = ended(how);
        self.record.flags |= flags;
        // Of a request the details tell where its response came from, unless something went wrong.
        if self.kind == Kind::Connection || !flags.is_empty() {
            self.record.details = Some(Cow::Borrowed(details));
        }
        self.end(None);
    }
}
