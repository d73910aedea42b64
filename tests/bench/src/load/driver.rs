//! Our own load: one thread, many connections, one request at a time on each.
//!
//! It checks every answer, and an open load counts latency from when a request was due, so that a proxy that stalls does not
//! hide what would have been asked meanwhile.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::answer::{Answer, Expected, Progress};
use super::{Outcome, Pace, Until};

/// How long answers are waited for at the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to send, over how many connections.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub target: SocketAddr,
    /// How many connections there are.
    pub connections: usize,
    /// The bytes of one request.
    pub request: Vec<u8>,
    /// What must come back.
    pub expected: Expected,
    /// A new connection for every request; the other side closes it.
    pub fresh: bool,
}

struct Connection {
    stream: TcpStream,
    answer: Answer,
    /// When the request under way was due.
    due: Option<Instant>,
}

impl Load {
    /// Runs it; `at_end` is called while all connections are still open.
    ///
    /// # Errors
    /// When no connection can be made. A request that fails is no error, but counted.
    pub fn run(&self, pace: Pace, until: Until, at_end: impl FnOnce() -> Result<()>) -> Result<Outcome> {
        // Due times are met to the microsecond instead of to the 50 of default timers.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        let connections = (0..self.connections).map(|_| self.connect()).collect::<Result<Vec<_>>>()?;
        let mut running = Running {
            load: self,
            idle: (0..connections.len()).collect(),
            connections,
            waiting: VecDeque::new(),
            outcome: Outcome::default(),
            buffer: vec![0; 256 * 1024],
        };
        running.run(pace, until)?;
        at_end()?;
        running.outcome.latencies.sort_by(f64::total_cmp);
        Ok(running.outcome)
    }

    fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.target)
            .with_context(|| format!("the load cannot connect to {}", self.target))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Connection { stream, answer: Answer::default(), due: None })
    }
}

struct Running<'a> {
    load: &'a Load,
    connections: Vec<Connection>,
    /// Connections without a request under way.
    idle: Vec<usize>,
    /// Requests that are due and have no connection.
    waiting: VecDeque<Instant>,
    outcome: Outcome,
    buffer: Vec<u8>,
}

impl Running<'_> {
    fn run(&mut self, pace: Pace, until: Until) -> Result<()> {
        let started = Instant::now();
        let mut offered = 0;
        let mut last_call = None;
        loop {
            let now = Instant::now();
            let over = match until {
                Until::Time(length) => now - started >= length,
                Until::Requests(requests) => offered >= requests,
            };
            let mut next = None;
            if over {
                let last_call = *last_call.get_or_insert(now);
                let under_way = self.connections.len() - self.idle.len() + self.waiting.len();
                if under_way == 0 || now - last_call > PATIENCE {
                    self.fail(under_way, "no answer");
                    break;
                }
                next = Some(now + PATIENCE);
            } else {
                match pace {
                    Pace::Closed => {
                        let room = match until {
                            Until::Time(_) => self.idle.len(),
                            Until::Requests(requests) => self.idle.len().min(requests - offered),
                        };
                        self.waiting.extend(std::iter::repeat_n(now, room));
                        offered += room;
                    }
                    Pace::Open(rate) => {
                        let due = |index: usize| started + Duration::from_secs_f64(index as f64 / rate);
                        while due(offered) <= now {
                            self.waiting.push_back(due(offered));
                            offered += 1;
                        }
                        next = Some(due(offered));
                    }
                }
            }
            while !self.idle.is_empty()
                && let Some(due) = self.waiting.pop_front()
                && let Some(index) = self.idle.pop()
            {
                self.send(index, due);
            }
            self.wait(next)?;
        }
        self.outcome.elapsed = started.elapsed();
        Ok(())
    }

    fn send(&mut self, index: usize, due: Instant) {
        let connection = &mut self.connections[index];
        connection.due = Some(due);
        connection.answer.reset();
        // A request is far smaller than a socket's buffer.
        if let Err(error) = connection.stream.write_all(&self.load.request) {
            self.finish(index, Some(format!("sending: {error}")));
        }
    }

    fn wait(&mut self, until: Option<Instant>) -> Result<()> {
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        let mut polled: Vec<PollFd<'_>> =
            self.connections.iter().map(|c| PollFd::new(&c.stream, PollFlags::IN)).collect();
        if poll(&mut polled, timeout.as_ref())? == 0 {
            return Ok(());
        }
        let ready: Vec<usize> =
            polled.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty()).map(|(i, _)| i).collect();
        for index in ready {
            self.read(index);
        }
        Ok(())
    }

    fn read(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        match connection.stream.read(&mut self.buffer) {
            Ok(0) => self.finish(index, Some("closed without an answer".to_owned())),
            Ok(count) => match connection.answer.take(&self.buffer[..count], self.load.expected) {
                Progress::Partial => {}
                Progress::Complete => self.finish(index, None),
                Progress::Wrong(reason) => self.finish(index, Some(reason)),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.finish(index, Some(format!("reading: {error}"))),
        }
    }

    fn finish(&mut self, index: usize, failure: Option<String>) {
        let connection = &mut self.connections[index];
        let failed = failure.is_some();
        // An idle connection that its server closes is no failed request.
        match (connection.due.take(), failure) {
            (Some(due), None) => {
                self.outcome.ok += 1;
                self.outcome.latencies.push(due.elapsed().as_secs_f64() * 1e6);
                self.idle.push(index);
            }
            (Some(_), Some(reason)) => {
                self.fail(1, &reason);
                self.idle.push(index);
            }
            (None, _) => {}
        }
        if failed || self.load.fresh {
            match self.load.connect() {
                Ok(fresh) => self.connections[index] = fresh,
                Err(error) => self.fail(1, &format!("{error:#}")),
            }
        }
    }

    fn fail(&mut self, count: usize, reason: &str) {
        self.outcome.failed += count;
        if count > 0 {
            self.outcome.reason.get_or_insert_with(|| reason.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::load::echo;

    fn load() -> Load {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        std::thread::spawn(move || echo::accept(&listener));
        Load { target, connections: 4, request: vec![7; 100], expected: Expected::Bytes(100), fresh: false }
    }

    #[test]
    fn a_closed_load_sends_as_many_requests_as_asked_for() {
        let outcome = load().run(Pace::Closed, Until::Requests(1_001), || Ok(())).unwrap();
        assert_eq!((outcome.ok, outcome.failed), (1_001, 0), "{:?}", outcome.reason);
        assert_eq!(outcome.latencies.len(), 1_001);
    }

    #[test]
    fn an_open_load_keeps_its_rate() {
        let until = Until::Time(Duration::from_millis(300));
        let outcome = load().run(Pace::Open(500.0), until, || Ok(())).unwrap();
        assert!((140..=151).contains(&outcome.ok), "{}", outcome.ok);
        assert_eq!(outcome.failed, 0);
    }

    #[test]
    fn a_wrong_answer_is_a_failed_request() {
        let wrong = Load { expected: Expected::Bytes(99), ..load() };
        let outcome = wrong.run(Pace::Closed, Until::Requests(3), || Ok(())).unwrap();
        assert_eq!((outcome.ok, outcome.failed), (0, 3));
        assert!(outcome.reason.unwrap().contains("more bytes"));
    }
}
