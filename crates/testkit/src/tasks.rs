//! Tasks that play a part in a test: a panic in one of them is the test's, and no silence that the test waits for in vain.

use std::io;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::thread::panicking;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

/// Tasks that play a part; they end when this is dropped, and who drops it panics if one of them has.
#[derive(Debug)]
pub(crate) struct Tasks(JoinSet<()>);

impl Tasks {
    /// Starts one on the current runtime.
    pub(crate) fn start(part: impl Future<Output = ()> + Send + 'static) -> Self {
        let mut tasks = Self(JoinSet::new());
        tasks.add(part);
        tasks
    }

    /// Starts another one beside it.
    pub(crate) fn add(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(part);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        while !panicking()
            && let Some(over) = self.0.try_join_next()
        {
            ended(over);
        }
    }
}

/// The next connection; passes on the panic of one before.
pub(crate) async fn accepted<T: 'static>(
    listener: &TcpListener,
    connections: &mut JoinSet<T>,
) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        tokio::select! {
            accepted = listener.accept() => return accepted,
            Some(over) = connections.join_next() => ended(over),
        }
    }
}

/// Passes on the panic of a task that has ended by one.
pub(crate) fn ended<T>(over: Result<T, JoinError>) {
    if let Err(error) = over
        && let Ok(panic) = error.try_into_panic()
    {
        resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "it is not what it should be")]
    async fn a_part_that_panics_fails_the_test() {
        let (running, over) = tokio::sync::oneshot::channel::<()>();
        let tasks = Tasks::start(async move {
            let _running = running;
            let mut connections = JoinSet::new();
            connections.spawn(async { panic!("it is not what it should be") });
            while let Some(over) = connections.join_next().await {
                ended::<()>(over);
            }
        });
        assert!(over.await.is_err());
        drop(tasks);
    }
}
