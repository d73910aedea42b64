//! The timeouts of one request or connection.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use whichpod_config::Timeouts;
use whichpod_protocols::error::Failure;

use crate::body::BodyProgress;

/// The timeouts of one request; off unless configured, and then no timer exists.
pub(super) struct Timers {
    request: Option<Duration>,
    /// The time a gRPC call has, from its head on.
    deadline: Option<Instant>,
    per_try: Option<Duration>,
    idle: Option<Duration>,
    per_try_timer: Option<Pin<Box<Sleep>>>,
    /// An attempt is under way that has no response yet.
    awaiting: bool,
    request_timer: Option<Pin<Box<Sleep>>>,
    idle_timer: Option<Pin<Box<Sleep>>>,
    moved: Instant,
}

impl Timers {
    pub(super) fn new(timeouts: &Timeouts, per_try: Option<Duration>, started: Instant) -> Self {
        Self {
            request: timeouts.request,
            deadline: None,
            per_try,
            idle: timeouts.idle,
            per_try_timer: None,
            awaiting: false,
            request_timer: None,
            idle_timer: None,
            moved: started,
        }
    }

    /// What passes bytes on lasts for as long as both sides want.
    pub(super) fn without_end(&mut self) {
        (self.request, self.deadline, self.per_try) = (None, None, None);
    }

    /// The caller's own deadline; the configured time caps it, as it caps Envoy's.
    pub(super) fn deadline(&mut self, started: Instant, asked: Option<Duration>) {
        let Some(asked) = asked else { return };
        let limit = self.request.map_or(asked, |limit| limit.min(asked));
        self.deadline = Some(started + limit);
        self.request = None;
    }

    pub(super) fn attempt_begins(&mut self) {
        self.awaiting = true;
        self.per_try_timer = None;
    }

    pub(super) fn attempt_answered(&mut self) {
        self.awaiting = false;
    }

    pub(super) fn moved(&mut self) {
        if self.idle.is_some() {
            self.moved = Instant::now();
        }
    }

    /// When the request's time is over, if that is counted already.
    pub(super) fn due(&self) -> Option<Instant> {
        self.request_timer.as_ref().map(|timer| timer.deadline())
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, body: Option<&BodyProgress>) -> Option<Failure> {
        let complete = body.is_none_or(|body| body.ended.get().is_some());
        if let Some(deadline) = self.deadline {
            let timer =
                self.request_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if timer.as_mut().poll(cx).is_ready() {
                return Some(Failure::RequestTimeout);
            }
        }
        if let Some(limit) = self.request {
            // The pod's time starts when it has the whole request.
            if complete {
                let timer = self.request_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                if timer.as_mut().poll(cx).is_ready() {
                    return Some(Failure::RequestTimeout);
                }
            }
        }
        if let (Some(limit), true, true) = (self.per_try, complete, self.awaiting) {
            let timer = self.per_try_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
            if timer.as_mut().poll(cx).is_ready() {
                return Some(Failure::PerTryTimeout);
            }
        }
        if let Some(limit) = self.idle {
            let moved = body.and_then(|body| body.moved.get()).map_or(self.moved, |m| m.max(self.moved));
            let timer =
                self.idle_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(moved + limit)));
            while timer.as_mut().poll(cx).is_ready() {
                if moved.elapsed() >= limit {
                    return Some(if complete { Failure::StreamIdle } else { Failure::RequestIdle });
                }
                timer.as_mut().reset(moved + limit);
            }
        }
        None
    }
}
