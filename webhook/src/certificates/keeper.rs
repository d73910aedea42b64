//! Looks after the certificate: serves what the Secret or the files hold, checks that the API server will trust it, and,
//! on the leader, takes the steps of the [plan](super::plan).

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use whichpod_runtime::readiness::{Pending, Readiness};

pub use super::files::Files;
use super::material::{Leaf, Lifetimes, Material};
use super::plan::{self, Situation, Step};
use super::served::Served;
use super::store::{self, Configurations, Store, Stored};
use super::trust;

/// How often everything is looked at although no watch has told of a change.
const LOOK_AT_LEAST: Duration = Duration::from_secs(30);
/// How often files are read: nothing tells of their change.
const READ_FILES: Duration = Duration::from_secs(5);
/// After a failure, then twice as long each time; and between steps, if they do not come to an end.
const PAUSE: Duration = Duration::from_secs(2);
/// More steps at a time than any situation needs.
const MOST_STEPS: usize = 8;
/// How long a certificate may be untrusted before the replica leaves the Service: mending a bundle takes less, and
/// without any replica nothing would be better.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where the certificate comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// It is made by the leader and kept in a Secret.
    SelfManaged {
        /// The Secret's name, in the webhook's namespace.
        secret: String,
        /// How long certificates are valid.
        lifetimes: Lifetimes,
    },
    /// Somebody else makes it, and also sees to the `caBundle`.
    Files(Files),
}

/// What a keeper is to look after.
pub struct Setup {
    /// Where the Secret and the configurations are.
    pub client: Client,
    /// The Secret's namespace.
    pub namespace: String,
    /// Where the certificate comes from.
    pub source: Source,
    /// The MutatingWebhookConfigurations that must trust it.
    pub configurations: Vec<String>,
    /// What the certificate must be good for, where it is made here.
    pub names: Vec<String>,
    /// What handshakes get.
    pub served: Served,
    /// Whether this replica is the one to write.
    pub leading: watch::Receiver<bool>,
    /// Not ready until the certificate is trusted.
    pub readiness: Readiness,
}

/// Everything that one replica does about its certificate.
pub struct Keeper {
    setup: Setup,
    store: Store,
    gate: Gate,
    /// What the Secret held when it was last usable: trusted also after somebody has deleted it.
    remembered: Option<Material>,
    /// Since when every `caBundle` has been seen to hold these authorities.
    published: Option<(Instant, String)>,
    /// A certificate that was brought and is not served yet, and since when it would be trusted.
    brought: Option<(Instant, Leaf)>,
    /// The last complaint, so that one that stays is not said again and again.
    said: Option<String>,
    /// Looks in a row that failed.
    failures: u32,
}

/// What keeps the certificate from being as it should be, in words for the log.
struct Complaint(String);

impl Keeper {
    /// Nothing is done before [`Self::run`], but the replica is not ready from now on.
    pub fn new(setup: Setup) -> Self {
        let secret = match &setup.source {
            Source::SelfManaged { secret, .. } => secret.as_str(),
            Source::Files(_) => "",
        };
        let store = Store::new(&setup.client, &setup.namespace, secret, &setup.configurations);
        let gate = Gate::new(setup.readiness.clone());
        Self { setup, store, gate, remembered: None, published: None, brought: None, said: None, failures: 0 }
    }

    /// Looks after the certificate until it is dropped.
    pub async fn run(mut self) {
        let changed = Arc::new(Notify::new());
        let _watches = self.watches(&changed);
        loop {
            let rest = self.look().await;
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(rest) => {}
                Ok(()) = self.setup.leading.changed() => {}
            }
        }
    }

    /// Watches tell that something has changed, not what: what counts is read anew.
    fn watches(&self, changed: &Arc<Notify>) -> JoinSet<()> {
        let mut watches = JoinSet::new();
        for name in &self.setup.configurations {
            let all = Api::<PartialObjectMeta<MutatingWebhookConfiguration>>::all(self.setup.client.clone());
            watches.spawn(tell(all, name.clone(), Arc::clone(changed)));
        }
        if let Source::SelfManaged { secret, .. } = &self.setup.source {
            let secrets = Api::<PartialObjectMeta<Secret>>::namespaced(
                self.setup.client.clone(),
                &self.setup.namespace,
            );
            watches.spawn(tell(secrets, secret.clone(), Arc::clone(changed)));
        }
        watches
    }

    /// Looks at everything, takes every step that is to be taken, and says how long to rest.
    async fn look(&mut self) -> Duration {
        let rest = self.settle().await;
        // Also after a failure: it may have lasted too long.
        self.gate.update(Instant::now());
        rest
    }

    async fn settle(&mut self) -> Duration {
        for _ in 0..MOST_STEPS {
            match self.look_once().await {
                Ok(Some(rest)) => {
                    (self.said, self.failures) = (None, 0);
                    return rest;
                }
                Ok(None) => {}
                Err(Complaint(complaint)) => {
                    self.complain(complaint);
                    let pause = PAUSE.saturating_mul(2_u32.saturating_pow(self.failures));
                    self.failures = self.failures.saturating_add(1);
                    return pause.min(self.longest_rest());
                }
            }
        }
        PAUSE
    }

    /// One look and at most one step; `None` if a step was taken.
    async fn look_once(&mut self) -> Result<Option<Duration>, Complaint> {
        match self.setup.source.clone() {
            Source::Files(files) => self.look_at_files(&files).await,
            Source::SelfManaged { lifetimes, .. } => self.look_at_secret(lifetimes).await,
        }
    }

    /// Nothing tells of a change of files, and what was wrong with them may be half a change.
    fn longest_rest(&self) -> Duration {
        match self.setup.source {
            Source::Files(_) => READ_FILES,
            Source::SelfManaged { .. } => LOOK_AT_LEAST,
        }
    }

    async fn look_at_files(&mut self, files: &Files) -> Result<Option<Duration>, Complaint> {
        let configurations = match self.store.configurations().await {
            Ok(configurations) => configurations,
            Err(error) => {
                // Whom the API server trusts cannot be known, so the newest is the best guess.
                self.serve(&files.read()?)?;
                return Err(error.into());
            }
        };
        let taken = match files.read() {
            Ok(leaf) => self.take(leaf, &configurations),
            Err(error) => Err(error.into()),
        };
        // Whatever is wrong with the files, what is served is to be trusted.
        self.judge(&configurations, true);
        taken.map(Some)
    }

    /// Serves a certificate that somebody has brought, but not while the API server would miss the one before.
    fn take(&mut self, leaf: Leaf, configurations: &Configurations) -> Result<Duration, Complaint> {
        let served = self.setup.served.leaf().filter(|served| *served != leaf);
        let missed = served.is_some_and(|served| trusted(&served, configurations, true).is_ok());
        let trusted = trusted(&leaf, configurations, true);
        let since = match self.brought.take() {
            Some((since, same)) if same == leaf => since,
            _ => Instant::now(),
        };
        match (missed, trusted) {
            (true, Err(what)) => {
                Err(Complaint(format!("the new certificate is not served yet: waiting for {what}")))
            }
            (true, Ok(())) if since.elapsed() < settles() => {
                self.brought = Some((since, leaf));
                Ok(settles().saturating_sub(since.elapsed()).min(READ_FILES))
            }
            _ => self.serve(&leaf).map(|()| READ_FILES),
        }
    }

    async fn look_at_secret(&mut self, lifetimes: Lifetimes) -> Result<Option<Duration>, Complaint> {
        // The Secret last: what is published must be what it holds now.
        let configurations = self.store.configurations().await?;
        let stored = self.store.secret().await?;
        let parsed = stored.data().map(Material::parse);
        if let Some(Err(error)) = &parsed {
            self.complain(format!(
                "the certificates' Secret cannot be used and is made anew by the leader: {error}"
            ));
        }
        let material = parsed.and_then(Result::ok);
        if let Some(material) = &material {
            if let Some(leaf) = material.leaf() {
                self.serve(leaf)?;
            }
            self.remembered = Some(material.clone());
        }
        self.judge(&configurations, false);
        if !*self.setup.leading.borrow_and_update() {
            return Ok(Some(LOOK_AT_LEAST));
        }
        self.lead(material, stored, &configurations, lifetimes).await
    }

    /// The leader's part.
    async fn lead(
        &mut self,
        material: Option<Material>,
        stored: Stored,
        configurations: &Configurations,
        lifetimes: Lifetimes,
    ) -> Result<Option<Duration>, Complaint> {
        let now = Timestamp::now();
        let published = self.published_for(material.as_ref(), configurations);
        let step =
            plan::next(&Situation { stored: material.as_ref(), names: &self.setup.names, published, now });
        let known = material.as_ref().or(self.remembered.as_ref());
        let made = match (step, known) {
            (Step::Rest(until), _) => return Ok(Some(rest(now, until))),
            (Step::Publish, Some(material)) => {
                return self.publish(configurations, material).await.map(|()| None);
            }
            (Step::NewAuthority, Some(known)) => known.with_new_authority(now, lifetimes),
            (Step::NewLeaf, Some(known)) => known.with_new_leaf(&self.setup.names, now, lifetimes),
            (Step::DropExpired, Some(known)) => Ok(known.without_expired(now)),
            (_, None) => Material::fresh(&self.setup.names, now, lifetimes),
        };
        let names = || self.setup.names.join(", ");
        let made =
            made.map_err(|error| Complaint(format!("cannot make a certificate for {}: {error}", names())))?;
        if self.store.write(stored, &made).await? {
            tracing::info!(?step, authority_until = %made.authority().not_after, "wrote the certificates' Secret");
        }
        Ok(None)
    }

    fn published_for(
        &mut self,
        material: Option<&Material>,
        configurations: &Configurations,
    ) -> Option<SignedDuration> {
        let published = material.filter(|material| store::is_published(configurations, material));
        let Some(bundle) = published.map(Material::bundle) else {
            self.published = None;
            return None;
        };
        let since = match self.published.take() {
            Some((since, same)) if same == bundle => since,
            _ => Instant::now(),
        };
        self.published = Some((since, bundle));
        SignedDuration::try_from(since.elapsed()).ok()
    }

    async fn publish(&self, configurations: &Configurations, material: &Material) -> Result<(), Complaint> {
        let mut failures = Vec::new();
        for (name, configuration) in configurations {
            let Some(configuration) = configuration else { continue };
            if store::lacking(configuration, material).is_empty() {
                continue;
            }
            match self.store.publish(name, configuration, material).await {
                Ok(true) => tracing::info!(configuration = name, "wrote the caBundle"),
                Ok(false) => {}
                Err(error) => failures.push(error.to_string()),
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(Complaint(failures.join("; "))) }
    }

    fn serve(&self, leaf: &Leaf) -> Result<(), Complaint> {
        if self.setup.served.set(leaf).map_err(Complaint)? {
            tracing::info!(until = %leaf.not_after(), "serving a new certificate");
        }
        Ok(())
    }

    /// Whether the API server will trust what is served, for the readiness.
    fn judge(&mut self, configurations: &Configurations, system_roots: bool) {
        let trusted = match self.setup.served.leaf() {
            None => Err("a certificate".to_owned()),
            Some(leaf) => trusted(&leaf, configurations, system_roots),
        };
        self.gate.set(trusted);
    }

    fn complain(&mut self, complaint: String) {
        if self.said.as_ref() != Some(&complaint) {
            tracing::warn!("{complaint}");
            self.said = Some(complaint);
        }
    }
}

impl<E: std::error::Error> From<E> for Complaint {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Whether the API server will trust it; if not, what it lacks.
fn trusted(leaf: &Leaf, configurations: &Configurations, system_roots: bool) -> Result<(), String> {
    configurations.iter().try_for_each(|(name, configuration)| {
        let configuration = configuration
            .as_ref()
            .ok_or_else(|| format!("MutatingWebhookConfiguration {name}, which does not exist"))?;
        trust::check(&leaf.chain, configuration, system_roots, Timestamp::now()).map_err(|reason| {
            format!("MutatingWebhookConfiguration {name} to trust the certificate ({reason})")
        })
    })
}

fn settles() -> Duration {
    plan::SETTLES.unsigned_abs()
}

fn rest(now: Timestamp, until: Timestamp) -> Duration {
    let left = Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO);
    left.clamp(Duration::from_millis(100), LOOK_AT_LEAST)
}

async fn tell<K>(all: Api<K>, name: String, changed: Arc<Notify>)
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = std::pin::pin!(watcher::watch_object(all, &name).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(_) => changed.notify_one(),
            Err(error) => tracing::debug!(name, %error, "a watch failed and is begun anew"),
        }
    }
}

/// Ready once the certificate is trusted; not ready again only if it stays untrusted for a while.
struct Gate {
    readiness: Readiness,
    pending: Option<(String, Pending)>,
    trusted: Result<(), String>,
    untrusted_since: Option<Instant>,
}

impl Gate {
    fn new(readiness: Readiness) -> Self {
        let waiting = "a certificate".to_owned();
        let pending = Some((waiting.clone(), readiness.pending(&waiting)));
        Self { readiness, pending, trusted: Err(waiting), untrusted_since: None }
    }

    fn set(&mut self, trusted: Result<(), String>) {
        self.trusted = trusted;
    }

    fn update(&mut self, now: Instant) {
        match &self.trusted {
            Ok(()) => {
                self.untrusted_since = None;
                self.pending = None;
            }
            Err(what) => {
                let since = *self.untrusted_since.get_or_insert(now);
                let waits = self.pending.as_ref().map(|(what, _)| what);
                let long = now.duration_since(since) >= PATIENCE;
                if waits.is_some_and(|said| said != what) || (waits.is_none() && long) {
                    tracing::warn!("not ready: waiting for {what}");
                    self.pending = Some((what.clone(), self.readiness.pending(what)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_is_mended_quickly_does_not_take_every_replica_out_of_the_service() {
        let readiness = Readiness::new();
        let mut gate = Gate::new(readiness.clone());
        let start = Instant::now();
        assert_eq!(readiness.status().to_string(), "not ready: waiting for a certificate");
        gate.set(Err("the bundle".to_owned()));
        gate.update(start);
        assert_eq!(readiness.status().to_string(), "not ready: waiting for the bundle");
        gate.set(Ok(()));
        gate.update(start);
        assert!(readiness.is_ready());

        gate.set(Err("the bundle".to_owned()));
        gate.update(start);
        gate.update(start + PATIENCE - Duration::from_millis(1));
        assert!(readiness.is_ready());
        gate.update(start + PATIENCE);
        assert!(!readiness.is_ready());
        gate.set(Ok(()));
        gate.update(start + PATIENCE);
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_rest_is_neither_endless_nor_nothing() {
        let now = Timestamp::now();
        assert_eq!(rest(now, Timestamp::MAX), LOOK_AT_LEAST);
        assert_eq!(rest(now, now), Duration::from_millis(100));
        assert_eq!(rest(now, Timestamp::MIN), Duration::from_millis(100));
    }
}
