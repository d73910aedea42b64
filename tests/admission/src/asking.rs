//! Somebody who asks for sidecars all the time, so that a moment without a webhook does not go unnoticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use serde_json::{Value, json};
use whichpod_cluster::wait_for;
use whichpod_webhook::cluster::connect::connect;

use crate::Installation;
use crate::user::asking;

/// Between two requests: more than anybody's cluster has, little enough for a machine that has more to do.
const PAUSE: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(300);

/// A thread that creates Deployments (in a dry run) one after the other.
pub struct Asking {
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<String>>>,
}

impl Asking {
    /// Begins in a namespace that the webhook is asked about.
    pub fn start(installation: &Installation, namespace: &str) -> Self {
        let (asked, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let kubeconfig = installation.client().kubeconfig().to_owned();
        let namespace = namespace.to_owned();
        let (counter, stopped) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let (client, _) = connect(Some(&kubeconfig)).await?;
                let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "Deployment"));
                let deployments = Api::<DynamicObject>::namespaced_with(client, &namespace, &kind);
                let asking: DynamicObject = serde_json::from_value(asking())?;
                let dry_run = PostParams { dry_run: true, ..PostParams::default() };
                let mut missed = Vec::new();
                while !stopped.load(Relaxed) {
                    let number = counter.fetch_add(1, Relaxed);
                    match deployments.create(&dry_run, &asking).await {
                        Ok(created) if is_injected(&created.data) => {}
                        Ok(_) => missed.push(format!("request {number}: no sidecar")),
                        Err(error) => missed.push(format!("request {number}: {error}")),
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(missed)
            })
        });
        Self { asked, stop, thread }
    }

    /// How many requests there have been.
    pub fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }

    /// Waits until there have been so many, and ends; gives those that the webhook missed.
    pub fn end_after(self, count: usize) -> Result<Vec<String>> {
        wait_for("enough requests", PATIENCE, || {
            Ok((self.asked() >= count || self.thread.is_finished()).then_some(()))
        })?;
        self.stop.store(true, Relaxed);
        self.thread.join().ok().context("the thread that asks has panicked")?
    }
}

fn is_injected(deployment: &Value) -> bool {
    deployment.pointer("/spec/template/metadata/labels/whichpod.io~1injected") == Some(&json!("true"))
}
