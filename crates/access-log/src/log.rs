//! The destination that all workers share: a bounded queue, and the one thread that writes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, channel, sync_channel,
};
use std::time::{Duration, Instant};

use crate::error::OpenError;
use crate::output::{Lines, Output};
use crate::worker::WorkerLog;

/// Batches that may wait: with what a batch's buffer grows to (128 KiB) at most 4 MiB.
const QUEUE: usize = 32;

/// The least time between two notices.
const NOTICE_EVERY: Duration = Duration::from_secs(10);

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
    /// Appended to; created with mode 0640.
    File(PathBuf),
    /// Nowhere: lines are not even formatted.
    Off,
}

impl Destination {
    /// The destination that a configured path means: `/dev/stdout` is descriptor 1 itself, none is off.
    ///
    /// Opening `/dev/stdout` instead would fail where it is a socket, and start a file over.
    #[must_use]
    pub fn from_path(path: Option<&Path>) -> Self {
        let Some(path) = path else { return Self::Off };
        match path.to_str() {
            Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => Self::Stdout,
            Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => Self::Stderr,
            _ => Self::File(path.to_owned()),
        }
    }
}

/// The log; a handle that is cheap to clone.
#[derive(Debug, Clone)]
pub struct Log {
    queue: Option<SyncSender<Message>>,
    shared: Arc<Shared>,
}

/// The writing end; kept by whoever ends the process.
#[derive(Debug)]
pub struct Writer {
    log: Log,
    /// Closed when the thread is done.
    done: Receiver<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Lines that were queued.
    queued: AtomicU64,
    /// Lines that were written.
    written: AtomicU64,
    /// Lines that were queued, and lost.
    lost: AtomicU64,
    /// Lines that found the queue full.
    refused: AtomicU64,
    reopen: AtomicBool,
    closing: AtomicBool,
}

#[derive(Debug)]
enum Message {
    Batch(Batch),
    /// Look at the flags.
    Wake,
}

/// Whole lines of one worker.
#[derive(Debug)]
pub(crate) struct Batch {
    pub bytes: Vec<u8>,
    pub lines: u64,
    /// Where the emptied buffer goes.
    pub home: SyncSender<Vec<u8>>,
}

impl Log {
    /// Opens the destination and starts its thread.
    ///
    /// # Errors
    /// If the file can't be opened, or the thread can't be started.
    pub fn open(destination: Destination) -> Result<(Self, Writer), OpenError> {
        match destination {
            Destination::Stdout => Self::start(Output::Stdout(io::stdout())),
            Destination::Stderr => Self::start(Output::Stderr(io::stderr())),
            Destination::File(path) => match Output::file(path.clone()) {
                Ok(output) => Self::start(output),
                Err(source) => Err(OpenError::File { path, source }),
            },
            Destination::Off => {
                let log = Self { queue: None, shared: Arc::default() };
                Ok((log.clone(), Writer { log, done: channel().1 }))
            }
        }
    }

    fn start(output: Output) -> Result<(Self, Writer), OpenError> {
        let (queue, messages) = sync_channel(QUEUE);
        let (running, done) = channel();
        let log = Self { queue: Some(queue), shared: Arc::default() };
        let shared = Arc::clone(&log.shared);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                write_all(&messages, &shared, output);
                drop(running);
            })
            .map_err(OpenError::Thread)?;
        Ok((log.clone(), Writer { log, done }))
    }

    /// A worker's own end.
    #[must_use]
    pub fn worker(&self) -> WorkerLog {
        WorkerLog::new(self.clone())
    }

    /// Opens the file's path again before the next line (after `SIGHUP`: the file was renamed).
    pub fn reopen(&self) {
        self.shared.reopen.store(true, SeqCst);
        self.wake();
    }

    /// Lines that were lost, because the reader was too slow or writing failed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.refused.load(Relaxed) + self.shared.lost.load(Relaxed)
    }

    /// Lines that were written.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.shared.written.load(Relaxed)
    }

    pub(crate) fn is_off(&self) -> bool {
        self.queue.is_none()
    }

    /// Queues a batch without waiting; gives it back if there is no room.
    pub(crate) fn hand_over(&self, batch: Batch) -> Result<(), Batch> {
        let Some(queue) = &self.queue else { return Err(batch) };
        let lines = batch.lines;
        // Counted first: the writer may be done with it before this returns.
        self.shared.queued.fetch_add(lines, SeqCst);
        match queue.try_send(Message::Batch(batch)) {
            Ok(()) => Ok(()),
            Err(
                TrySendError::Full(Message::Batch(batch)) | TrySendError::Disconnected(Message::Batch(batch)),
            ) => {
                self.shared.queued.fetch_sub(lines, SeqCst);
                Err(batch)
            }
            // Only batches are sent here.
            Err(_) => Ok(()),
        }
    }

    /// Counts lines that found no room.
    pub(crate) fn refuse(&self, lines: u64) {
        self.shared.refused.fetch_add(lines, Relaxed);
    }

    /// Has the thread look at its flags. A full queue needs no message: it looks when it gets through.
    fn wake(&self) {
        if let Some(queue) = &self.queue {
            let _ = queue.try_send(Message::Wake);
        }
    }
}

impl Writer {
    /// Writes what is queued and ends; returns how many lines were left when `within` was over.
    ///
    /// Workers flush before (or are dropped). A thread whose reader has stopped is left behind.
    pub fn shutdown(self, within: Duration) -> u64 {
        let Shared { queued, written, lost, closing, .. } = &*self.log.shared;
        closing.store(true, SeqCst);
        self.log.wake();
        match self.done.recv_timeout(within) {
            Err(RecvTimeoutError::Disconnected) | Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("access log: nobody reads it, its last lines are lost");
            }
        }
        queued.load(SeqCst).saturating_sub(written.load(SeqCst) + lost.load(SeqCst))
    }
}

/// The thread: one batch after another, until the log is closed or all its handles are gone.
fn write_all(messages: &Receiver<Message>, shared: &Shared, output: Output) {
    let mut lines = Lines::new(output);
    let mut notices = Notices::default();
    loop {
        let message = match messages.try_recv() {
            Err(TryRecvError::Empty) if shared.closing.load(SeqCst) => return,
            Err(TryRecvError::Empty) => messages.recv().ok(),
            other => other.ok(),
        };
        if shared.reopen.swap(false, SeqCst) {
            reopen(&mut lines, shared);
        }
        match message {
            None => return,
            Some(Message::Wake) => {}
            Some(Message::Batch(batch)) => write_batch(batch, &mut lines, shared, &mut notices),
        }
    }
}

fn reopen(lines: &mut Lines<Output>, shared: &Shared) {
    match lines.output.reopen() {
        Ok(true) => {
            shared.lost.fetch_add(u64::from(lines.abandon_rest()), SeqCst);
        }
        Ok(false) => {}
        Err(error) => tracing::warn!(
            "access log {}: can't be opened again: {error}; lines go on into the old file",
            lines.output.name()
        ),
    }
}

fn write_batch(mut batch: Batch, lines: &mut Lines<Output>, shared: &Shared, notices: &mut Notices) {
    let outcome = lines.write(&batch.bytes);
    shared.written.fetch_add(outcome.written, SeqCst);
    shared.lost.fetch_add(outcome.lost, SeqCst);
    batch.bytes.clear();
    // A worker that is gone, or has buffers enough, does without this one.
    let _ = batch.home.try_send(batch.bytes);

    let refused = shared.refused.load(Relaxed);
    let failed = outcome.failure.is_some();
    if (failed || refused > notices.refused) && notices.due(Instant::now()) {
        let name = lines.output.name();
        if let Some(error) = outcome.failure {
            let lost = shared.lost.load(Relaxed);
            tracing::warn!("access log {name}: {error}; {lost} lines are lost so far; trying again");
        }
        if refused > notices.refused {
            let lost = refused - std::mem::replace(&mut notices.refused, refused);
            tracing::warn!("access log {name}: its reader was too slow, {lost} lines were dropped");
        }
    }
}

/// When the last notice was, and what it told.
#[derive(Debug, Default)]
struct Notices {
    last: Option<Instant>,
    refused: u64,
}

impl Notices {
    fn due(&mut self, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| now.duration_since(last) >= NOTICE_EVERY);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_log_is_told_of_at_most_once_in_ten_seconds() {
        let start = Instant::now();
        let mut notices = Notices::default();
        assert!(notices.due(start));
        assert!(!notices.due(start + Duration::from_secs(9)));
        assert!(notices.due(start + Duration::from_secs(10)));
        assert!(!notices.due(start + Duration::from_secs(19)));
    }

    #[test]
    fn dev_stdout_is_the_descriptor_itself() {
        let destination = |path: &str| Destination::from_path(Some(Path::new(path)));
        assert_eq!(destination("/dev/stdout"), Destination::Stdout);
        assert_eq!(destination("/dev/stderr"), Destination::Stderr);
        assert_eq!(destination("/var/log/a"), Destination::File("/var/log/a".into()));
        assert_eq!(Destination::from_path(None), Destination::Off);
    }
}
