//! Headless twins: the leader makes those that running pods ask for, and keeps all there are in step with their Services.
//! Where the operator wants none, it writes no Service at all and says what that means for those made before.

mod queue;
mod reconcile;
mod wanted;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use futures_util::{StreamExt, stream};
use kube::Client;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};
use whichpod_injection::{HeadlessServices, ServiceName, twin};

use crate::cache::Cache;
use crate::events::Events;
use queue::Queue;
use reconcile::Reconciler;
use wanted::Wanted;

/// Twins looked at at the same time: enough for a thousand within a minute, little enough for any API server.
const AT_A_TIME: usize = 4;

/// What is counted about twins.
#[derive(Debug, Default)]
pub struct Counts {
    /// Twins made, put right, or made anew.
    pub written: AtomicU64,
    /// Attempts that failed.
    pub failed: AtomicU64,
}

/// What the leader does about twins.
#[derive(Clone)]
pub struct Twins {
    client: Client,
    cache: Cache,
    policy: HeadlessServices,
    events: Events,
    counts: Arc<Counts>,
}

impl Twins {
    /// Nothing is done before [`Self::run`].
    pub fn new(
        client: Client,
        cache: Cache,
        policy: HeadlessServices,
        events: Events,
        counts: Arc<Counts>,
    ) -> Self {
        Self { client, cache, policy, events, counts }
    }

    /// Makes twins and keeps them in step, until it is dropped; ends at once where none are wanted.
    pub async fn run(&self) {
        self.cache.synced().await;
        if self.policy != HeadlessServices::Create {
            self.tell_of_left();
            return;
        }
        let mut changes = self.cache.changes();
        let (wanted, mut wishes) = Wanted::new();
        let watch = wanted.clone().follow(self.client.clone());
        let reconciler = Reconciler::new(self.client.clone(), self.events.clone());
        let work = async {
            let mut queue = Queue::default();
            queue.add(self.cache.with_twins(), Instant::now());
            loop {
                tokio::select! {
                    change = changes.recv() => match change {
                        Ok(service) => queue.add(self.concerned(&wanted, service), Instant::now()),
                        Err(RecvError::Lagged(_)) => queue.add(self.everything(&wanted), Instant::now()),
                        Err(RecvError::Closed) => return,
                    },
                    Some(service) = wishes.recv() => queue.add([service], Instant::now()),
                    () = sleep_until(queue.next()) => {
                        let due = queue.take(Instant::now());
                        self.look_at(&reconciler, due, &mut queue).await;
                    }
                }
            }
        };
        tokio::select! {
            () = watch => {}
            () = work => {}
        }
    }

    fn tell_of_left(&self) {
        let left = self.cache.twins();
        if left > 0 {
            tracing::warn!(
                twins = left,
                "headless Services that whichpod made before are not kept in step with their Services any more, because \
                 headlessServices is not create; whichpod cleanup --all --in-use --apply deletes them, and sidecars that ask \
                 for them use the virtual IP then"
            );
        }
    }

    async fn look_at(&self, reconciler: &Reconciler, due: Vec<ServiceName>, queue: &mut Queue) {
        let results = stream::iter(due).map(|service| async {
            let result = reconciler.reconcile(&service).await;
            (service, result)
        });
        let results: Vec<_> = results.buffer_unordered(AT_A_TIME).collect().await;
        for (service, result) in results {
            match result {
                Ok(written) => {
                    self.cache.refuse_twin(&service, false);
                    self.counts.written.fetch_add(u64::from(written), Relaxed);
                    queue.done(&service);
                }
                Err(error) => {
                    tracing::warn!(namespace = service.namespace, service = service.name, "{error}");
                    self.cache.refuse_twin(&service, reconcile::is_refusal(&error));
                    self.counts.failed.fetch_add(1, Relaxed);
                    queue.failed(service, Instant::now());
                }
            }
        }
    }

    /// The Services whose twins a change of this one concerns, among those that have or should have one.
    fn concerned(&self, wanted: &Wanted, changed: ServiceName) -> Vec<ServiceName> {
        let mut concerned = wanted.with_twin_named(&changed);
        let has_twin = self.cache.with(|facts| {
            let twin = facts.service(&changed.namespace, &twin::twin_name(&changed.name));
            twin.is_some_and(|twin| twin.twin_of.as_deref() == Some(&changed.name))
        });
        if has_twin || wanted.contains(&changed) {
            concerned.push(changed);
        }
        concerned
    }

    fn everything(&self, wanted: &Wanted) -> Vec<ServiceName> {
        let mut all = self.cache.with_twins();
        all.extend(wanted.all());
        all
    }
}
