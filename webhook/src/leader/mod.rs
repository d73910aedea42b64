//! Which replica writes: one holds a Lease (coordination.k8s.io/v1) and renews it.
//!
//! Times in the Lease come from other machines' clocks, so they are only compared for being the same: a holder is taken
//! for gone if its Lease has not changed for as long as it lasts, by this machine's clock. Two replicas may believe to
//! lead for a moment all the same; every write that a leader makes has a precondition for that.

mod rule;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::cluster::request::{self, Failed};
use rule::{Move, Sight};

/// How long a holder that has died keeps the Lease.
const LASTS: Duration = Duration::from_secs(15);
/// How long a holder that cannot renew it goes on believing in it; shorter than it lasts.
const BELIEF: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(2);
/// One attempt; two fit into the belief.
const ATTEMPT: Duration = Duration::from_secs(4);

/// One replica's part in the election.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    me: String,
    sight: Option<Sight>,
    renewed: Option<Instant>,
    leading: watch::Sender<bool>,
}

impl Election {
    /// Takes part under an identity that no other process has; the receiver says whether this replica leads.
    pub fn new(
        client: Client,
        namespace: &str,
        lease: &str,
        identity: &str,
    ) -> (Self, watch::Receiver<bool>) {
        let (leading, receiver) = watch::channel(false);
        let me = format!("{identity}_{:08x}", fastrand::u32(..));
        let leases = Api::namespaced(client, namespace);
        (Self { leases, name: lease.to_owned(), me, sight: None, renewed: None, leading }, receiver)
    }

    /// Takes part until `leave` is done, then lets another replica lead at once.
    pub async fn run(mut self, leave: impl Future<Output = ()>) {
        let mut leave = std::pin::pin!(leave);
        let mut complained = false;
        loop {
            let attempt = timeout(ATTEMPT, self.attempt());
            match attempt.await {
                Ok(Ok(())) => complained = false,
                Ok(Err(error)) if !complained => {
                    complained = true;
                    tracing::warn!("{error}");
                }
                _ => {}
            }
            let believes = self.renewed.is_some_and(|renewed| renewed.elapsed() < BELIEF);
            if self.leading.send_if_modified(|leading| std::mem::replace(leading, believes) != believes) {
                tracing::info!(lease = self.name, me = self.me, leading = believes, "election");
            }
            tokio::select! {
                biased;
                () = &mut leave => break,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        if self.renewed.is_some() {
            self.leading.send_replace(false);
            if !matches!(timeout(ATTEMPT, self.release()).await, Ok(Ok(()))) {
                tracing::warn!("the Lease {} could not be given back; it ends by itself", self.name);
            }
        }
    }

    async fn attempt(&mut self) -> Result<(), Failed> {
        let started = Instant::now();
        let lease = request::get(|| self.what(), self.leases.get_opt(&self.name)).await?;
        let sight =
            Sight::of(lease.as_ref().and_then(|lease| lease.spec.as_ref()), self.sight.take(), started);
        let next = rule::next(&sight, &self.me, started);
        self.sight = Some(sight);
        let written = match (next, lease) {
            (Move::Wait, _) => false,
            (_, None) => self.create().await?,
            (Move::Renew, Some(lease)) => self.replace(lease, |spec| spec.holder_identity.clone()).await?,
            (Move::Take, Some(lease)) => {
                let me = self.me.clone();
                self.replace(lease, move |spec| {
                    spec.acquire_time = Some(MicroTime(Timestamp::now()));
                    spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
                    Some(me)
                })
                .await?
            }
        };
        // Counted from before the request: others count from when they see it.
        self.renewed = written.then_some(started);
        Ok(())
    }

    async fn create(&self) -> Result<bool, Failed> {
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: Some(self.me.clone()),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(spec) };
        Ok(request::put(|| self.what(), self.leases.create(&PostParams::default(), &lease)).await?.is_some())
    }

    /// Writes the Lease, unless it has changed since it was read.
    async fn replace(
        &self,
        mut lease: Lease,
        holder: impl FnOnce(&mut LeaseSpec) -> Option<String>,
    ) -> Result<bool, Failed> {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = holder(spec);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        spec.lease_duration_seconds = i32::try_from(LASTS.as_secs()).ok();
        let parameters = PostParams::default();
        let replaced = self.leases.replace(&self.name, &parameters, &lease);
        Ok(request::put(|| self.what(), replaced).await?.is_some())
    }

    async fn release(&self) -> Result<(), Failed> {
        let lease = request::get(|| self.what(), self.leases.get_opt(&self.name)).await?;
        let Some(lease) = lease else { return Ok(()) };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if holder == Some(&self.me) {
            self.replace(lease, |_| Some(String::new())).await?;
        }
        Ok(())
    }

    fn what(&self) -> String {
        format!("Lease {}", self.name)
    }
}

/// Runs `work` whenever this replica leads, and drops it when it does not lead any more.
pub async fn while_leading<F: Future<Output = ()>>(mut leading: watch::Receiver<bool>, work: impl Fn() -> F) {
    loop {
        if leading.wait_for(|leading| *leading).await.is_err() {
            return;
        }
        tokio::select! {
            () = work() => return,
            _ = leading.wait_for(|leading| !*leading) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn a_leaders_work_ends_with_its_leadership_and_begins_again() {
        let (sender, receiver) = watch::channel(false);
        let (begun, ended) = (Cell::new(0), Cell::new(0));
        struct Ends<'a>(&'a Cell<u32>);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let work = while_leading(receiver, || async {
            begun.set(begun.get() + 1);
            let _ends = Ends(&ended);
            std::future::pending::<()>().await;
        });
        let script = async {
            for (leading, expected) in [(false, (0, 0)), (true, (1, 0)), (false, (1, 1)), (true, (2, 1))] {
                sender.send_replace(leading);
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
                assert_eq!((begun.get(), ended.get()), expected);
            }
        };
        tokio::select! {
            () = work => panic!("it never ends by itself"),
            () = script => {}
        }
    }
}
