//! The descriptor that lines are written to, and whole lines over a descriptor that fails at times.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Where bytes go. Writing blocks; the descriptor's flags are never changed, since it may be shared.
#[derive(Debug)]
pub(crate) enum Output {
    Stdout(io::Stdout),
    Stderr(io::Stderr),
    File { path: PathBuf, file: File },
}

impl Output {
    /// Opens (or creates, with mode 0640) a file for appending.
    pub(crate) fn file(path: PathBuf) -> io::Result<Self> {
        let file = append(&path)?;
        Ok(Self::File { path, file })
    }

    /// Opens a file's path again, after it was renamed; on failure the old file stays.
    pub(crate) fn reopen(&mut self) -> io::Result<bool> {
        match self {
            Self::Stdout(_) | Self::Stderr(_) => Ok(false),
            Self::File { path, file } => {
                *file = append(path)?;
                Ok(true)
            }
        }
    }

    /// For messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stdout(_) => "stdout".to_owned(),
            Self::Stderr(_) => "stderr".to_owned(),
            Self::File { path, .. } => path.display().to_string(),
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdout(stdout) => stdout.as_fd(),
            Self::Stderr(stderr) => stderr.as_fd(),
            Self::File { file, .. } => file.as_fd(),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

impl Write for Output {
    /// One `write(2)`, past interruptions; waits where somebody else has set `O_NONBLOCK`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let descriptor = self.descriptor();
        loop {
            match rustix::io::write(descriptor, bytes) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&descriptor, PollFlags::OUT)], None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                },
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes batches of whole lines, and after a failure goes on where a line was broken off.
#[derive(Debug)]
pub(crate) struct Lines<W> {
    pub output: W,
    /// The rest of a line whose beginning is written.
    rest: Vec<u8>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Lines that are written to their ends.
    pub written: u64,
    /// Lines that are lost.
    pub lost: u64,
    pub failure: Option<io::Error>,
}

impl<W: Write> Lines<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output, rest: Vec::new() }
    }

    /// Writes whole lines; what fails is lost, but for a line that is begun, which is finished later.
    pub(crate) fn write(&mut self, batch: &[u8]) -> Outcome {
        let mut outcome = Outcome::default();
        if !self.rest.is_empty() {
            let (written, failure) = write_all(&mut self.output, &self.rest);
            self.rest.drain(..written);
            if failure.is_some() {
                return Outcome { lost: newlines(batch), failure, ..outcome };
            }
            outcome.written = 1;
        }
        let (written, failure) = write_all(&mut self.output, batch);
        let (done, left) = batch.split_at(written);
        outcome.written += newlines(done);
        outcome.lost = newlines(left);
        if !done.is_empty() && !done.ends_with(b"\n") {
            let end = left.iter().position(|byte| *byte == b'\n').map_or(left.len(), |at| at + 1);
            self.rest.extend_from_slice(&left[..end]);
            outcome.lost = outcome.lost.saturating_sub(1);
        }
        outcome.failure = failure;
        outcome
    }

    /// Gives the rest of a broken line up, where its beginning is no longer before it; true if there was one.
    pub(crate) fn abandon_rest(&mut self) -> bool {
        let broken = !self.rest.is_empty();
        self.rest.clear();
        broken
    }
}

/// How much was written, and why not all.
fn write_all(output: &mut impl Write, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => return (written, Some(ErrorKind::WriteZero.into())),
            Ok(len) => written += len,
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

fn newlines(bytes: &[u8]) -> u64 {
    // Sums of bytes: many of them are added at a time.
    let count = |some: &[u8]| some.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>();
    bytes.chunks(usize::from(u8::MAX)).map(|some| u64::from(count(some))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Takes so many bytes at each call, or fails.
    struct Scripted {
        steps: VecDeque<Result<usize, ErrorKind>>,
        written: Vec<u8>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = self.steps.pop_front().unwrap_or(Ok(bytes.len()))?.min(bytes.len());
            self.written.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(steps: impl Into<VecDeque<Result<usize, ErrorKind>>>) -> Lines<Scripted> {
        Lines::new(Scripted { steps: steps.into(), written: Vec::new() })
    }

    fn counts(outcome: &Outcome) -> (u64, u64) {
        (outcome.written, outcome.lost)
    }

    #[test]
    fn partial_writes_are_finished() {
        let mut lines = lines([Ok(1), Ok(2), Ok(1)]);
        assert_eq!(counts(&lines.write(b"one\ntwo\n")), (2, 0));
        assert_eq!(lines.output.written, b"one\ntwo\n");
    }

    #[test]
    fn a_full_disk_costs_whole_lines_and_never_glues_two() {
        let mut lines = lines([Ok(6), Err(ErrorKind::StorageFull), Err(ErrorKind::StorageFull), Ok(1)]);
        let broken = lines.write(b"one\ntwo\nthree\n");
        assert_eq!(counts(&broken), (1, 1), "`two` is still to come");
        assert!(broken.failure.is_some());
        assert_eq!(counts(&lines.write(b"four\n")), (0, 1));
        assert_eq!(counts(&lines.write(b"five\n")), (2, 0));
        assert_eq!(lines.output.written, b"one\ntwo\nfive\n");
        assert!(!lines.abandon_rest());
    }

    #[test]
    fn a_new_file_does_not_begin_with_the_end_of_a_line() {
        let mut lines = lines([Ok(2), Err(ErrorKind::StorageFull)]);
        assert_eq!(counts(&lines.write(b"one\n")), (0, 0));
        assert!(lines.abandon_rest());
        assert_eq!(counts(&lines.write(b"two\n")), (1, 0));
        assert_eq!(lines.output.written, b"ontwo\n");
    }

    #[test]
    fn a_descriptor_that_somebody_made_nonblocking_is_waited_for() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let output = Output::File { path: PathBuf::new(), file: File::from(writer) };
        let batch = b"0123456789abcde\n".repeat(20_000);
        let expected = batch.clone();
        let writing = std::thread::spawn(move || counts(&Lines::new(output).write(&batch)));
        let mut received = Vec::new();
        while received.len() < expected.len() {
            let mut ready = [PollFd::new(&reader, PollFlags::IN)];
            poll(&mut ready, None).unwrap();
            let mut some = [0; 5000];
            let len = rustix::io::read(&reader, &mut some).unwrap();
            received.extend_from_slice(&some[..len]);
        }
        assert_eq!(writing.join().unwrap(), (20_000, 0));
        assert_eq!(received, expected);
    }

    #[test]
    fn an_output_that_takes_nothing_does_not_spin() {
        assert_eq!(counts(&lines([Ok(0)]).write(b"one\n")), (0, 1));
    }
}
