//! The waker of a connection that is driven by whichever task uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Wakes the task that drove the connection last, but not one that is about to drive it anyway: that would run twice.
pub struct DriverWaker {
    bell: Arc<Bell>,
    waker: Waker,
}

/// What its waker rings.
#[derive(Default)]
pub struct Bell {
    task: AtomicWaker,
    /// The task itself does something to the connection, and drives it next.
    muted: AtomicBool,
    /// It rang since the connection was driven last.
    rang: AtomicBool,
    /// It will ring when there is something to read.
    awaited: AtomicBool,
}

impl Bell {
    /// There is nothing to read, and the socket rings when there is.
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Relaxed)
    }

    /// A read has found nothing.
    pub fn wait(&self) {
        self.awaited.store(true, Relaxed);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.muted.load(Relaxed) {
            self.rang.store(true, Relaxed);
            self.awaited.store(false, Relaxed);
            self.task.wake();
        }
    }
}

impl DriverWaker {
    /// Nobody has driven the connection yet.
    #[must_use]
    pub fn new() -> Self {
        let bell = Arc::<Bell>::default();
        // It counts as woken until it is driven.
        bell.rang.store(true, Relaxed);
        Self { waker: Waker::from(Arc::clone(&bell)), bell }
    }

    /// For the connection's socket, which is always read with this waker: whether to ask it again.
    #[must_use]
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// What to drive the connection with, for the task of `cx`.
    pub fn driven_by(&self, cx: &Context<'_>) -> Context<'_> {
        self.bell.task.register(cx.waker());
        self.bell.rang.store(false, Relaxed);
        Context::from_waker(&self.waker)
    }

    /// Does something to the connection that would wake the task, which drives the connection next.
    pub fn muted<T>(&self, act: impl FnOnce() -> T) -> T {
        self.bell.muted.store(true, Relaxed);
        let done = act();
        self.bell.muted.store(false, Relaxed);
        done
    }

    /// True if something has happened since the connection was driven last: its pod sent something, or closed it.
    #[must_use]
    pub fn rang(&self) -> bool {
        self.bell.rang.load(Relaxed)
    }
}

impl Default for DriverWaker {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicU32);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_task_runs_again_for_what_happens_to_its_connection_but_not_for_what_it_does_itself() {
        let (task, driver) = (Arc::<Task>::default(), DriverWaker::new());
        let (waker, runs) = (Waker::from(Arc::clone(&task)), || task.0.load(Relaxed));
        assert!(driver.rang(), "nobody has looked yet");
        let socket = driver.driven_by(&Context::from_waker(&waker)).waker().clone();
        assert!(!driver.rang());
        driver.bell().wait();
        driver.muted(|| socket.wake_by_ref());
        assert_eq!((runs(), driver.rang(), driver.bell().is_awaited()), (0, false, true));
        socket.wake_by_ref();
        assert_eq!((runs(), driver.rang()), (1, true));
        assert!(!driver.bell().is_awaited(), "a read may find something");
        socket.wake_by_ref();
        assert_eq!(runs(), 1, "it is woken once, until it drives the connection again");
        driver.driven_by(&Context::from_waker(&waker));
        socket.wake();
        assert_eq!(runs(), 2);
    }
}
