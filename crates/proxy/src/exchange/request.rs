//! What of a request is sent, and sent again.

use std::rc::Rc;

use http::Request;
use http_body::Body;
use whichpod_protocols::error::Failure;
use whichpod_protocols::kept_head::KeptHead;

use super::Exchange;
use crate::body::{BodyProgress, RequestBody};

impl Exchange {
    /// The request has a body; returns what it will tell about itself.
    pub fn request_body(&mut self) -> Rc<BodyProgress> {
        Rc::clone(self.body.get_or_insert_default())
    }

    /// The request, to be sent now; `again`: it may have to be sent once more.
    ///
    /// # Errors
    /// Why there is nothing to be sent.
    pub fn take_request(&mut self, again: bool) -> Result<Request<RequestBody>, Failure> {
        let request = std::mem::replace(&mut self.request, Err(Failure::Closed))?;
        if again && self.kept.is_none() {
            self.kept = Some(KeptHead::of(&request));
        }
        Ok(request)
    }

    /// Makes ready what was sent to be sent again, body and all; false if that is gone.
    pub fn renew_request(&mut self) -> bool {
        let body = self.body.as_ref().map_or(Some(RequestBody::empty()), RequestBody::again);
        let (Some(kept), Some(body)) = (&self.kept, body) else { return false };
        self.request = Ok(kept.request(body));
        true
    }

    /// True if the request, with its body, can be sent again.
    #[must_use]
    pub fn body_is_replayable(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_kept())
    }

    /// The request will not be sent again.
    pub fn forget_request(&mut self) {
        self.kept = None;
        if let Some(body) = &self.body {
            body.forget();
        }
    }

    /// True once the client has sent everything.
    #[must_use]
    pub fn request_is_complete(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.ended.get().is_some())
    }

    /// What is read of the request's body is kept to be sent again, as far as it goes.
    pub fn keep_body(&self) {
        if let Some(body) = &self.body {
            body.keep(self.site.config.retry.buffer_bytes);
        }
    }

    /// True if the whole body is known to fit into what is kept.
    #[must_use]
    pub fn fits_buffer(&self, body: &RequestBody) -> bool {
        let most = self.site.config.retry.buffer_bytes as u64;
        body.size_hint().upper().is_some_and(|bytes| bytes <= most)
    }

    /// Why the request's body ended badly, if it did.
    #[must_use]
    pub fn body_failure(&self) -> Option<Failure> {
        self.body.as_ref()?.failure.get()
    }
}
