//! Load is shed when memory runs short, before the kernel kills the process. A request only looks at a flag.
//!
//! Memory is looked at now and then, and besides whenever so much was read as could change the answer: nobody can send more
//! between two looks than there is room for.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, sleep};
use whichpod_runtime::memory::Usage;

use crate::worker::{Shared, Worker};

/// How often memory is looked at.
pub const LOOK: Duration = Duration::from_millis(100);
/// So far below the limit that sheds, in percent of memory, must usage fall until requests are taken again.
const SLACK: u64 = 5;
/// A byte that is read costs up to so many: buffers have room to spare, and a head is held twice while it is sent on.
const COST: u64 = 4;
/// So small a part of the limit may always be read before the next look, however little room there is.
const LEAST: u64 = 256;
/// So many bytes at least are left when requests are shed, and when connections are refused: requests under way still take
/// some of them.
const LEFT: (u64, u64) = (12 << 20, 6 << 20);
/// What a client's connection costs before it has said anything, in bytes.
pub const CONNECTION: usize = 4096;

/// What is done about memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pressure {
    /// There is enough.
    #[default]
    None,
    /// New requests get 503 and their connections end.
    ShedRequests,
    /// New connections are closed as well.
    RefuseConnections,
}

/// The pressure now, for all workers.
#[derive(Debug, Default)]
pub struct Gauge {
    pressure: AtomicU8,
    /// Bytes that may be read before the next look.
    allowance: AtomicI64,
    /// `None`: there is no limit.
    watched: Option<Mutex<Watched>>,
}

/// What a look needs.
#[derive(Debug)]
struct Watched {
    usage: Usage,
    shed_at: u64,
    before: Pressure,
}

impl Gauge {
    /// Of this process, or of its control group; without a limit there is never any pressure.
    #[must_use]
    pub fn new(settings: whichpod_config::Memory) -> Self {
        let shed_at = u64::from(settings.shed_at_percent);
        let usage = if shed_at == 0 { None } else { Usage::new(settings.limit) };
        let watched = usage.map(|usage| Mutex::new(Watched { usage, shed_at, before: Pressure::None }));
        Self { watched, ..Self::default() }
    }

    /// What is to be done.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        match self.pressure.load(Relaxed) {
            0 => Pressure::None,
            1 => Pressure::ShedRequests,
            _ => Pressure::RefuseConnections,
        }
    }

    /// True if requests are shed.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.pressure() != Pressure::None
    }

    /// So many bytes were read that stay here for a while; looks at memory if they could have used up what there was.
    pub fn grow(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.watched.is_some() && self.allowance.fetch_sub(bytes, Relaxed) < bytes {
            self.look();
        }
    }

    /// Looks at memory, unless another thread does so now.
    fn look(&self) {
        let Some(Ok(mut watched)) = self.watched.as_ref().map(Mutex::try_lock) else { return };
        let Some(used) = watched.usage.now() else { return };
        let (before, limit) = (watched.before, watched.usage.limit());
        let pressure = decide(before, used, limit, watched.shed_at);
        self.pressure.store(pressure as u8, Relaxed);
        self.allowance.store(allowance(used, limit, watched.shed_at), Relaxed);
        watched.before = pressure;
        drop(watched);
        match (before, pressure) {
            (Pressure::None, Pressure::None) => {}
            (Pressure::None, _) => {
                tracing::warn!(
                    used,
                    limit,
                    "memory runs short: new requests get 503 (OM); raise the container's memory limit if this goes on"
                );
            }
            (_, Pressure::None) => tracing::info!(used, limit, "there is enough memory again"),
            _ => {}
        }
    }
}

/// From how many bytes on requests are shed, and connections refused: `shed_at` percent and halfway from there to the limit,
/// but sooner where that leaves too little for what is under way already.
fn thresholds(limit: u64, shed_at: u64) -> (u64, u64) {
    let (to_shed, to_refuse) = LEFT;
    let shed = (limit / 100 * shed_at.min(100)).min(limit - to_shed.min(limit / 5));
    let refuse = (limit / 200 * (shed_at.min(100) + 100)).min(limit - to_refuse.min(limit / 10));
    (shed, refuse.max(shed))
}

/// What is to be done at this usage; it stops only when usage is clearly lower again.
fn decide(before: Pressure, used: u64, limit: u64, shed_at: u64) -> Pressure {
    let (shed, refuse) = thresholds(limit, shed_at);
    match before {
        _ if used >= refuse => Pressure::RefuseConnections,
        _ if used >= shed => Pressure::ShedRequests,
        Pressure::None => Pressure::None,
        _ if used > shed.saturating_sub(limit / 100 * SLACK) => Pressure::ShedRequests,
        _ => Pressure::None,
    }
}

/// How many bytes may be read before the next look: they must not take usage far past what sheds.
fn allowance(used: u64, limit: u64, shed_at: u64) -> i64 {
    let (shed, _) = thresholds(limit, shed_at);
    let bytes = (shed.saturating_sub(used) / COST).max(limit / LEAST);
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What reads or writes so much at a time fills buffers.
pub const LARGE: usize = 4096;

/// Whether a socket may be read while memory is at its end: who fills buffers waits for others to empty theirs, and is cut
/// off when that does not happen in time. Who waits for a message does not fill any.
#[derive(Debug, Default)]
pub struct Pause {
    fills: bool,
    until: Option<Instant>,
}

/// For how long a read waits at least, and at most: not all are cut off at once, because a few may do.
const WAITS: (f64, f64) = (0.5, 2.5);

impl Pause {
    /// A read has brought so much; `fills`: and that stays here.
    pub fn after(&mut self, fills: bool) {
        self.fills = fills;
    }

    /// Reads when that may be (`expects`: what comes will stay here), and little at a time: a buffer costs memory only where
    /// it is filled. What has waited for too long is cut off, unless there is nothing to read anyway.
    ///
    /// # Errors
    /// Those of the read, and `OutOfMemory`.
    pub fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        stream: &mut S,
        buf: &mut ReadBuf<'_>,
        expects: bool,
    ) -> Poll<io::Result<()>> {
        if worker.shared.memory.pressure() != Pressure::RefuseConnections {
            self.until = None;
            return Pin::new(stream).poll_read(cx, buf);
        }
        if !self.fills && !expects {
            return poll_little(cx, stream, buf);
        }
        let (least, most) = WAITS;
        let wait = || Instant::now() + Duration::from_secs_f64(least + fastrand::f64() * (most - least));
        if Instant::now() < *self.until.get_or_insert_with(wait) {
            worker.wake_at_sweep(cx.waker());
            return Poll::Pending;
        }
        self.until = None;
        let read = ready!(poll_little(cx, stream, buf));
        if self.fills { Poll::Ready(Err(io::ErrorKind::OutOfMemory.into())) } else { Poll::Ready(read) }
    }
}

fn poll_little<S: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    stream: &mut S,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let mut little = [MaybeUninit::uninit(); LARGE];
    let mut little = ReadBuf::uninit(&mut little[..LARGE.min(buf.remaining())]);
    ready!(Pin::new(stream).poll_read(cx, &mut little))?;
    buf.put_slice(little.filled());
    Poll::Ready(Ok(()))
}

/// Watches memory for as long as the process runs; not at all without a limit.
pub async fn watch(shared: Arc<Shared>) {
    while shared.memory.watched.is_some() {
        shared.memory.look();
        if shared.memory.is_short() {
            give_back();
        }
        sleep(LOOK).await;
    }
}

/// Has the allocator give the kernel back what is free. It does that on its own while it is at work, but a process that
/// refuses everything, or whose clients are silent, has no work; to free something large, untouched as it is, is the occasion.
/// It looks after the memory of the thread that calls it.
pub fn give_back() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(16 << 20)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_shed_near_the_limit_and_taken_again_clearly_below_it() {
        let mut pressure = Pressure::None;
        let percent = (1 << 30) / 100;
        let steps = [50, 89, 90, 94, 95, 99, 94, 89, 86, 85, 89, 90].map(|used| {
            pressure = decide(pressure, used * percent, 100 * percent, 90);
            pressure
        });
        use Pressure::{None as Enough, RefuseConnections as Refuse, ShedRequests as Shed};
        let expected = [Enough, Enough, Shed, Shed, Refuse, Refuse, Shed, Shed, Shed, Enough, Enough, Shed];
        assert_eq!(steps, expected);
    }

    #[test]
    fn who_sends_much_between_two_looks_makes_the_next_one_come_sooner() {
        let limit = 64 << 20;
        for used in [0, 10 << 20, 50 << 20, 60 << 20, 64 << 20, 80 << 20] {
            let most = u64::try_from(allowance(used, limit, 90)).unwrap() * COST;
            assert!(
                most > 0 && used + most <= (used.max(limit / 100 * 90)) + (limit / LEAST * COST),
                "{used}"
            );
        }
    }

    #[test]
    fn a_small_limit_leaves_room_for_what_is_under_way() {
        assert_eq!(thresholds(64 << 20, 90), (52 << 20, 58 << 20));
        assert_eq!(thresholds(1000, 90), (800, 900), "of a tiny one a share");
        assert_eq!(thresholds(1000, 100), (800, 900));
        assert_eq!(thresholds(2000 << 20, 50).0 >> 20, 1000, "who sheds early has room");
    }

    #[test]
    fn a_process_without_room_sheds_at_once_and_one_without_a_limit_never_does() {
        let settings = |limit, shed_at_percent| whichpod_config::Memory { limit, shed_at_percent };
        let short = Gauge::new(settings(Some(1 << 20), 90));
        assert_eq!(short.pressure(), Pressure::None, "nobody has looked");
        short.grow(1);
        assert_eq!(short.pressure(), Pressure::RefuseConnections);
        let never = Gauge::new(settings(Some(1 << 20), 0));
        never.grow(usize::MAX);
        assert_eq!(never.pressure(), Pressure::None);
    }

    #[test]
    fn no_number_panics() {
        for (used, limit) in [(u64::MAX, 1), (0, 0), (u64::MAX, u64::MAX), (0, u64::MAX)] {
            let _ = (decide(Pressure::None, used, limit, 100), allowance(used, limit, 100));
        }
    }
}
