//! The cluster that these tests share, and who may change what all of them see.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use whichpod_cluster::{Client, Cluster, Shared};

use crate::common::whichpod;

static STAGE: Shared<Stage> = Shared::new();

/// A cluster, and whether whichpod is installed there as its chart has it without values.
pub struct Stage {
    cluster: Cluster,
    as_usual: RwLock<bool>,
}

impl Stage {
    pub fn shared() -> Arc<Self> {
        STAGE.get(|| {
            let cluster = Cluster::start().unwrap_or_else(|error| panic!("no cluster: {error:#}"));
            whichpod::import(cluster.client());
            Self { cluster, as_usual: RwLock::new(false) }
        })
    }

    pub fn client(&self) -> &Client {
        self.cluster.client()
    }

    /// whichpod is installed, and stays as it is while this is held.
    pub fn installed(&self) -> RwLockReadGuard<'_, bool> {
        loop {
            let as_usual = self.as_usual.read().unwrap_or_else(PoisonError::into_inner);
            if *as_usual {
                return as_usual;
            }
            drop(as_usual);
            let mut as_usual = self.alone();
            if !*as_usual {
                whichpod::install(self.client(), &[]);
                *as_usual = true;
            }
        }
    }

    /// Nobody else is at work while this is held, and whichpod may be installed in any way afterwards.
    pub fn alone(&self) -> RwLockWriteGuard<'_, bool> {
        self.as_usual.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A node of ours goes with everything on it.
        if self.client().is_foreign() {
            whichpod::uninstall(self.client());
            let _ = self.client().kubectl(&["delete", "namespace", whichpod::NAMESPACE, "--wait=false"]);
        }
    }
}
