//! A watch, applied to whatever mirrors its objects: new lists, changes, and what went missing in between.

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;

/// An object's namespace (empty for those of the cluster) and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// What keeps something of every object that a watch tells of.
pub trait Mirror<K> {
    /// An object is there, or has changed.
    fn put(&mut self, key: &Key, object: &K);
    /// It is gone.
    fn remove(&mut self, key: &Key);
    /// Everything there is has been put at least once. Called after every list.
    fn listed(&mut self) {}
}

/// How a watch is doing.
#[derive(Debug, Clone, Default)]
pub struct Health {
    synced: bool,
    failing_since: Option<Instant>,
    failed_at: Option<Instant>,
}

/// A watch that fails is tried again within 30 s (and some jitter), so one that has not failed for longer works again,
/// though nothing may have happened that it could tell.
const RETRIED_WITHIN: Duration = Duration::from_secs(90);

/// The API server ends a watch after this many seconds, and one that has died is noticed little later.
const WATCH_SECONDS: u32 = 60;

impl Health {
    /// That of a mirror that was filled by other means.
    pub fn synced() -> Self {
        Self { synced: true, ..Self::default() }
    }

    /// Whether a whole list has been seen.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// For how long the mirror may have missed changes; zero while the watch works.
    pub fn age(&self, now: Instant) -> Duration {
        let recent =
            self.failed_at.is_some_and(|failed| now.saturating_duration_since(failed) < RETRIED_WITHIN);
        self.failing_since
            .filter(|_| recent)
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn failed(&mut self, now: Instant) {
        if self.age(now).is_zero() {
            self.failing_since = Some(now);
        }
        self.failed_at = Some(now);
    }

    fn works(&mut self) {
        self.failing_since = None;
        self.failed_at = None;
    }
}

/// Watches all these objects and keeps the mirror as they are, until it is dropped. `what` is for the log.
pub async fn follow<K, M>(
    api: Api<K>,
    selector: Option<&str>,
    what: &str,
    mirror: M,
    health: &watch::Sender<Health>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    M: Mirror<K>,
{
    let config =
        watcher::Config { label_selector: selector.map(str::to_owned), ..watcher::Config::default() };
    let events = watcher::watcher(api, config.timeout(WATCH_SECONDS)).default_backoff();
    apply(events, what, mirror, health).await;
}

async fn apply<K, M>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    what: &str,
    mut mirror: M,
    report: &watch::Sender<Health>,
) where
    K: Resource,
    M: Mirror<K>,
{
    let mut events = std::pin::pin!(events);
    let mut health = Health::default();
    let mut known = HashSet::new();
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                // The list has only begun: that the API server answers is not yet known.
                if !matches!(event, Event::Init) {
                    health.works();
                }
                match event {
                    Event::Init => listed.clear(),
                    Event::InitApply(object) => {
                        let key = key(&object);
                        mirror.put(&key, &object);
                        listed.insert(key);
                    }
                    Event::InitDone => {
                        for gone in known.difference(&listed) {
                            mirror.remove(gone);
                        }
                        known = std::mem::take(&mut listed);
                        mirror.listed();
                        if !health.synced {
                            tracing::info!(what, count = known.len(), "listed");
                        }
                        health.synced = true;
                    }
                    Event::Apply(object) => {
                        let key = key(&object);
                        mirror.put(&key, &object);
                        known.insert(key);
                    }
                    Event::Delete(object) => {
                        let key = key(&object);
                        mirror.remove(&key);
                        known.remove(&key);
                    }
                }
            }
            Err(error) => {
                if health.failing_since.is_none() {
                    tracing::warn!(what, %error, "a watch failed and is begun anew");
                }
                health.failed(Instant::now());
            }
        }
        report.send_replace(health.clone());
    }
}

fn key<K: Resource>(object: &K) -> Key {
    Key { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    #[derive(Default)]
    struct Names {
        there: RefCell<BTreeMap<String, u32>>,
        lists: Cell<u32>,
    }

    impl Mirror<ConfigMap> for &Names {
        fn put(&mut self, key: &Key, _: &ConfigMap) {
            *self.there.borrow_mut().entry(format!("{}/{}", key.namespace, key.name)).or_default() += 1;
        }

        fn remove(&mut self, key: &Key) {
            self.there.borrow_mut().remove(&format!("{}/{}", key.namespace, key.name));
        }

        fn listed(&mut self) {
            self.lists.set(self.lists.get() + 1);
        }
    }

    fn object(name: &str) -> ConfigMap {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("shop".to_owned()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    #[tokio::test]
    async fn what_was_deleted_while_the_watch_was_down_goes_with_the_next_list() {
        let events = [
            Event::Init,
            Event::InitApply(object("a")),
            Event::InitApply(object("b")),
            Event::InitDone,
            Event::Apply(object("c")),
            Event::Delete(object("a")),
            Event::Init,
            Event::InitApply(object("b")),
            Event::InitApply(object("d")),
            Event::InitDone,
        ];
        let names = Names::default();
        let health = watch::Sender::new(Health::default());
        let synced = RefCell::new(Vec::new());
        let stream = futures_util::stream::iter(events.map(Ok))
            .inspect(|_| synced.borrow_mut().push(health.borrow().synced));
        apply(stream, "objects", &names, &health).await;
        assert_eq!(
            *names.there.borrow(),
            BTreeMap::from([("shop/b".to_owned(), 2), ("shop/d".to_owned(), 1)])
        );
        assert_eq!(names.lists.get(), 2);
        assert_eq!(synced.borrow()[..5], [false, false, false, false, true]);
    }

    #[test]
    fn a_mirror_ages_while_its_watch_fails_and_no_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::default();
        assert_eq!(health.age(at(5)), Duration::ZERO);
        health.failed(at(10));
        health.failed(at(40));
        assert_eq!(health.age(at(41)), Duration::from_secs(31));
        assert_eq!(
            health.age(at(200)),
            Duration::ZERO,
            "no failure for long: it works again, and nothing has changed"
        );
        health.failed(at(200));
        assert_eq!(health.age(at(201)), Duration::from_secs(1));
        health.works();
        assert_eq!(health.age(at(201)), Duration::ZERO);
    }
}
