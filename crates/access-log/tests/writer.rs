//! The log's destination: bounded, whole lines, and never in the way of traffic.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use whichpod_access_log::{Destination, Filter, Format, Log, Record, Rules, WorkerLog, Writer};

struct Lines {
    format: Format,
    filter: Filter,
    record: Record,
    number: u64,
}

impl Lines {
    /// Lines of about a kilobyte, each with its number.
    fn new() -> Self {
        let format = support::compile("%CONNECTION_ID% %REQ(:AUTHORITY)% end").format;
        let mut record = support::record();
        record.authority = Some("a".repeat(1000).parse().unwrap());
        Self { format, filter: Filter::default(), record, number: 0 }
    }

    fn write(&mut self, worker: &mut WorkerLog) -> bool {
        self.record.connection_id = Some(self.number);
        self.number += 1;
        worker.write(&self.format, &self.filter, &self.record)
    }
}

/// Whole lines, in their order; returns how many.
fn count_whole_lines(text: &str) -> u64 {
    let mut last = None;
    for line in text.lines() {
        let (number, rest) = line.split_once(' ').unwrap();
        let number: u64 = number.parse().unwrap();
        assert_eq!(rest.len(), 1004, "a broken line: {line}");
        assert!(rest.ends_with(" end"));
        assert!(last < Some(number), "out of order: {line}");
        last = Some(number);
    }
    assert!(text.is_empty() || text.ends_with('\n'));
    u64::try_from(text.lines().count()).unwrap()
}

/// A log that ends in a pipe which nobody reads yet.
fn pipe_log() -> (PipeReader, PipeWriter, Log, Writer) {
    let (reader, end) = std::io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", end.as_raw_fd());
    let (log, writer) = Log::open(Destination::File(path.into())).unwrap();
    (reader, end, log, writer)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain until {what}");
        std::thread::yield_now();
    }
}

fn flushed(worker: &mut WorkerLog) {
    let start = Instant::now();
    while worker.flush() {
        assert!(start.elapsed() < Duration::from_secs(10), "no room in the queue");
        std::thread::yield_now();
    }
}

#[test]
fn a_stopped_reader_costs_lines_that_are_counted_and_never_time() {
    let (mut reader, end, log, writer) = pipe_log();
    let mut worker = log.worker();
    let mut lines = Lines::new();
    let start = Instant::now();
    for _ in 0..20_000 {
        lines.write(&mut worker);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "20 MB of lines: {:?}", start.elapsed());
    let dropped = log.dropped();
    assert!(dropped > 10_000, "the queue is bounded: {dropped}");

    // The reader comes back: what was not dropped arrives, whole and in order.
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    flushed(&mut worker);
    for _ in 0..10 {
        lines.write(&mut worker);
    }
    flushed(&mut worker);
    drop(worker);
    assert_eq!(writer.shutdown(Duration::from_secs(10)), 0);
    drop(end);
    let text = reading.join().unwrap();
    let whole = count_whole_lines(&text);
    assert_eq!(whole, log.lines());
    assert_eq!(whole + log.dropped(), 20_010, "every line is written or counted");
    assert_eq!(log.dropped(), dropped, "nothing is dropped once somebody reads");
}

#[test]
fn shutdown_does_not_wait_for_a_reader_that_stopped() {
    let (_reader, _end, log, writer) = pipe_log();
    let mut worker = log.worker();
    let mut lines = Lines::new();
    for _ in 0..500 {
        lines.write(&mut worker);
    }
    drop(worker);
    let start = Instant::now();
    let left = writer.shutdown(Duration::from_millis(200));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(left + log.lines() + log.dropped(), 500);
    assert!(left > 0);
}

#[test]
fn shutdown_writes_what_is_queued() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let (log, writer) = Log::open(Destination::File(path.clone())).unwrap();
    let mut lines = Lines::new();
    let mut workers = [log.worker(), log.worker()];
    assert!(lines.write(&mut workers[0]), "the first line arms the timer");
    assert!(!lines.write(&mut workers[0]), "the second does not");
    assert!(lines.write(&mut workers[1]), "each worker has its own");
    flushed(&mut workers[1]);
    assert!(lines.write(&mut workers[1]), "and again after a flush");
    drop(workers);
    assert_eq!(writer.shutdown(Duration::from_secs(10)), 0);
    assert_eq!((log.lines(), log.dropped()), (4, 0));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 4);
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & !0o640, 0, "{mode:o}: not for everybody's eyes");
}

#[test]
fn lines_are_handed_over_at_64_kib_without_a_flush() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let (log, _writer) = Log::open(Destination::File(path)).unwrap();
    let mut worker = log.worker();
    let mut lines = Lines::new();
    for _ in 0..66 {
        lines.write(&mut worker);
    }
    wait_until("64 KiB are written", || log.lines() >= 65);
}

fn has_lines(path: &Path, count: usize) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.lines().count() == count)
}

#[test]
fn a_rotated_file_is_left_at_a_signal() {
    let directory = tempfile::tempdir().unwrap();
    let (path, rotated) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let (log, _writer) = Log::open(Destination::File(path.clone())).unwrap();
    let mut worker = log.worker();
    let mut lines = Lines::new();
    lines.write(&mut worker);
    flushed(&mut worker);
    wait_until("the first line is written", || has_lines(&path, 1));
    fs::rename(&path, &rotated).unwrap();
    lines.write(&mut worker);
    flushed(&mut worker);
    wait_until("lines go on into the renamed file", || has_lines(&rotated, 2));
    log.reopen();
    wait_until("the new file is there without a line", || path.exists());
    lines.write(&mut worker);
    flushed(&mut worker);
    wait_until("lines go into the new file", || has_lines(&path, 1));
    assert!(has_lines(&rotated, 2));

    // Where the new file can't be opened, the old one goes on.
    fs::rename(&path, &rotated).unwrap();
    fs::create_dir(&path).unwrap();
    log.reopen();
    lines.write(&mut worker);
    flushed(&mut worker);
    wait_until("lines go on into the old file", || has_lines(&rotated, 2));
    // A line is counted after it is written.
    wait_until("all are counted", || log.lines() == 4);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn an_old_file_is_appended_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    fs::write(&path, "kept\n").unwrap();
    let (log, writer) = Log::open(Destination::File(path.clone())).unwrap();
    Lines::new().write(&mut log.worker());
    writer.shutdown(Duration::from_secs(10));
    assert!(fs::read_to_string(&path).unwrap().starts_with("kept\n0 "));
}

#[test]
fn a_full_disk_is_counted_and_tried_again() {
    let (log, writer) = Log::open(Destination::File("/dev/full".into())).unwrap();
    let mut worker = log.worker();
    let mut lines = Lines::new();
    for _ in 0..3 {
        lines.write(&mut worker);
        flushed(&mut worker);
    }
    drop(worker);
    assert_eq!(writer.shutdown(Duration::from_secs(10)), 0);
    assert_eq!((log.lines(), log.dropped()), (0, 3));
}

#[test]
fn a_reader_that_is_gone_ends_nothing() {
    let (reader, end, log, writer) = pipe_log();
    drop((reader, end));
    let mut worker = log.worker();
    Lines::new().write(&mut worker);
    drop(worker);
    assert_eq!(writer.shutdown(Duration::from_secs(10)), 0);
    assert_eq!(log.dropped(), 1);
}

#[test]
fn a_log_that_is_off_costs_nothing() {
    let (log, writer) = Log::open(Destination::Off).unwrap();
    let mut worker = log.worker();
    assert!(!Lines::new().write(&mut worker));
    assert!(!worker.flush());
    log.reopen();
    drop(worker);
    assert_eq!((log.lines(), log.dropped()), (0, 0));
    assert_eq!(writer.shutdown(Duration::ZERO), 0);
}

#[test]
fn a_filter_keeps_lines_out_before_they_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let (log, writer) = Log::open(Destination::File(directory.path().join("access.log"))).unwrap();
    let mut lines = Lines::new();
    lines.filter =
        Filter::new(&Rules { min_status: Some(500), ..Rules::default() }, &mut lines.format).unwrap();
    assert!(!lines.write(&mut log.worker()));
    writer.shutdown(Duration::from_secs(10));
    assert_eq!(log.lines(), 0);
}

#[test]
fn a_destination_that_cannot_be_opened_is_named() {
    let error = Log::open(Destination::File("/no/such/directory/access.log".into())).unwrap_err().to_string();
    assert!(error.contains("/no/such/directory/access.log"), "{error}");
    assert!(error.contains("No such file or directory"), "{error}");
}

#[test]
fn a_log_without_handles_ends_its_thread() {
    let (mut reader, end, log, writer) = pipe_log();
    drop((log, writer, end));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "", "the thread's descriptor is closed");
}
