//! A cluster for tests that need nothing but pods: it may be anybody's.

use crate::{Client, Node};
use anyhow::Result;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A node of ours, or the cluster that `WHICHPOD_TEST_KUBECONFIG` names.
#[derive(Debug)]
pub struct Cluster {
    client: Client,
    _node: Option<Node>,
}

impl Cluster {
    /// Starts a node, or uses the cluster that the environment names.
    pub fn start() -> Result<Self> {
        match Client::of_environment()? {
            Some(client) if client.is_foreign() => Ok(Self { client, _node: None }),
            _ => Node::start().map(|node| Self { client: node.client().clone(), _node: Some(node) }),
        }
    }

    /// Somebody with all rights.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// What several tests of a process use at the same time: made by the first that asks, gone with the last.
#[derive(Debug)]
pub struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    /// What there is, or what `make` makes; others wait meanwhile.
    pub fn get(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.upgrade().unwrap_or_else(|| {
            let made = Arc::new(make());
            *held = Arc::downgrade(&made);
            made
        })
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn what_is_shared_lives_as_long_as_its_last_user() {
        let (shared, made) = (Shared::new(), Cell::new(0));
        let get = || shared.get(|| made.replace(made.get() + 1));
        let first = get();
        let second = get();
        drop(first);
        assert_eq!((*get(), made.get()), (0, 1));
        drop(second);
        assert_eq!((*get(), made.get()), (1, 2));
    }
}
