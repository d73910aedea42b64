//! A worker's own end of the log: a buffer of whole lines, shared with nobody.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::filter::Filter;
use crate::format::Format;
use crate::log::{Batch, Log};
use crate::record::Record;
use crate::time::Scratch;

/// A buffer is handed over when it holds this many bytes.
const BATCH: usize = 64 * 1024;

/// Emptied buffers that wait for their worker.
const SPARE: usize = 4;

/// Owned by one worker; dropped, it hands over what it holds.
#[derive(Debug)]
pub struct WorkerLog {
    log: Log,
    buffer: Vec<u8>,
    lines: u64,
    /// The caller was told to flush after a while.
    armed: bool,
    scratch: Scratch,
    home: SyncSender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
}

impl WorkerLog {
    pub(crate) fn new(log: Log) -> Self {
        let (home, returned) = sync_channel(SPARE);
        let scratch = Scratch::default();
        Self { log, buffer: Vec::new(), lines: 0, armed: false, scratch, home, returned }
    }

    /// Writes the record's line into the buffer, if the filter admits it; never waits.
    ///
    /// True if the buffer was empty: the caller calls [`Self::flush`] 100 ms later. A flush too many does no harm.
    pub fn write(&mut self, format: &Format, filter: &Filter, record: &Record) -> bool {
        if self.log.is_off() || !filter.admits(record) {
            return false;
        }
        format.write(record, &mut self.scratch, &mut self.buffer);
        self.lines += 1;
        if self.buffer.len() >= BATCH {
            if self.flush() {
                self.drop_lines();
            }
            return false;
        }
        !std::mem::replace(&mut self.armed, true)
    }

    /// Hands the buffer's lines over; never waits.
    ///
    /// True if there was no room: the lines stay, and the caller calls again 100 ms later.
    #[must_use = "lines that found no room wait for the next flush"]
    pub fn flush(&mut self) -> bool {
        self.armed = false;
        if self.lines == 0 {
            return false;
        }
        let bytes = std::mem::take(&mut self.buffer);
        match self.log.hand_over(Batch { bytes, lines: self.lines, home: self.home.clone() }) {
            Ok(()) => {
                self.buffer = self.returned.try_recv().unwrap_or_default();
                self.lines = 0;
                false
            }
            Err(batch) => {
                self.buffer = batch.bytes;
                self.armed = true;
                true
            }
        }
    }

    fn drop_lines(&mut self) {
        self.log.refuse(std::mem::take(&mut self.lines));
        self.buffer.clear();
        self.armed = false;
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        if self.flush() {
            self.drop_lines();
        }
    }
}
