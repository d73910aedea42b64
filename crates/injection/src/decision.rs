//! What becomes of one object: injected, left alone, put back as it was, or freed of what was added.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::asked::{Answer, Asker};
use crate::changes::{Change, Record, Take};
use crate::exclusion;
use crate::facts::Facts;
use crate::hash;
use crate::names::{self, annotation};
use crate::options::Options;
use crate::plan::{NoPlan, Plan, Scene};
use crate::reason::Reason;
use crate::rewrite::{self, Rewrite};
use crate::service::ServiceName;
use crate::settings::Settings;
use crate::status::{Inputs, Status};
use crate::warning::Warning;
use crate::workload::{self, Kind, Pod};

/// Bytes of keys and values that the API server takes in one object (`TotalAnnotationSizeLimitB`).
const LARGEST_ANNOTATIONS: usize = 256 * 1024;

/// What the API server is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `CREATE`
    Create,
    /// `UPDATE`
    Update,
}

/// One object to decide about.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What happens to it.
    pub operation: Operation,
    /// The namespace it is in (its own metadata may not say it yet).
    pub namespace: &'a str,
    /// The object as it would be stored.
    pub object: &'a Value,
    /// The object as it is stored, for an update.
    pub old_object: Option<&'a Value>,
    /// `scale`, `status` and the like; empty or `None` for the object itself.
    pub subresource: Option<&'a str>,
    /// Compute anew even if nothing has changed (`whichpod upgrade`).
    pub recompute: bool,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decision {
    pub(crate) reason: Reason,
    /// What becomes of the pod template; `None` leaves it as it stands.
    pub(crate) rewrite: Option<Rewrite>,
    /// Why the request is refused.
    pub(crate) denied: Option<String>,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) twins: Vec<ServiceName>,
}

/// Decides about one object.
pub(crate) fn decide(request: &Request<'_>, facts: &Facts, options: &Options) -> Decision {
    let mut decision = Decision {
        reason: Reason::UnsupportedKind,
        rewrite: None,
        denied: None,
        warnings: Vec::new(),
        twins: Vec::new(),
    };
    decision.reason = match Case::new(request, facts, options, &mut decision.warnings) {
        Ok(case) => case.decide(&mut decision),
        Err(reason) => reason,
    };
    decision
}

/// An object that may be changed, with what an earlier injection left in it.
struct Case<'a> {
    request: &'a Request<'a>,
    facts: &'a Facts,
    options: &'a Options,
    kind: Kind,
    template: &'a Value,
    /// The status in the object itself.
    own: Option<Status>,
    old: Option<Old<'a>>,
    /// The template as the user wrote it, as far as that can be told.
    user: Cow<'a, Value>,
    /// What somebody changed of the additions, and which is written anew.
    edited: Vec<String>,
}

/// The stored object's template and status.
struct Old<'a> {
    object: &'a Value,
    template: &'a Value,
    status: Option<Status>,
}

impl<'a> Case<'a> {
    fn new(
        request: &'a Request<'a>,
        facts: &'a Facts,
        options: &'a Options,
        warnings: &mut Vec<Warning>,
    ) -> Result<Case<'a>, Reason> {
        let object = request.object;
        let kind = Kind::of(object).ok_or(Reason::UnsupportedKind)?;
        if request.subresource.is_some_and(|subresource| !subresource.is_empty()) {
            return Err(Reason::Subresource);
        }
        if object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
            return Err(Reason::Deleting);
        }
        if kind != Kind::Pod && workload::has_controller(object) {
            return Err(Reason::Owned);
        }
        if request.operation == Operation::Update && matches!(kind, Kind::Job | Kind::Pod) {
            return Err(Reason::Immutable);
        }
        let template = object.pointer(kind.template()).filter(|template| template.is_object());
        let Some(template) = template else {
            warnings.push(Warning::MalformedObject { path: kind.template().to_owned() });
            return Err(Reason::MalformedObject);
        };
        if Pod(template).is_ours() || Pod(object).is_ours() {
            return Err(Reason::OwnPod);
        }
        if Pod(template).is_mirror() {
            return Err(Reason::MirrorPod);
        }
        let own = Status::read(template).unwrap_or_else(|()| {
            warnings.push(Warning::StatusUnreadable);
            None
        });
        // What the template of a pod says of opting out is meant for the pod.
        let own = own.filter(|status| kind != Kind::Pod || !status.is_opt_out());
        let old = request.old_object.and_then(|object| {
            let template = object.pointer(kind.template())?;
            Some(Old { object, template, status: Status::read(template).ok().flatten() })
        });
        let status = own.as_ref().or(old.as_ref().and_then(|old| old.status.as_ref()));
        let (user, edited) = match status {
            Some(status) => {
                let (user, edited) = status.take_out(template, Take::Ours);
                (Cow::Owned(user), if own.is_some() { edited } else { Vec::new() })
            }
            None => (Cow::Borrowed(template), Vec::new()),
        };
        Ok(Case { request, facts, options, kind, template, own, old, user, edited })
    }

    fn decide(self, decision: &mut Decision) -> Reason {
        let asker = self.asker(self.request.object, &self.user);
        let protected = names::SYSTEM_NAMESPACES
            .into_iter()
            .chain(self.options.protected_namespaces.iter().map(String::as_str));
        if protected.into_iter().any(|name| name == self.request.namespace) {
            if asker.asks() {
                let namespace = self.request.namespace.to_owned();
                decision.warnings.push(Warning::ProtectedNamespace { namespace });
            }
            return Reason::ProtectedNamespace;
        }
        let before = decision.warnings.len();
        let answer = asker.answer(self.options, &mut decision.warnings);
        if self.kind == Kind::Pod && self.own_intact() && !self.request.recompute {
            // The template or its workload asked for it; only an explicit no counts against that.
            let refused = matches!(answer, Answer::No(Reason::OptedOut | Reason::NamespaceDisabled));
            if !refused {
                decision.warnings.truncate(before);
                return self.unchanged(decision);
            }
        }
        match answer {
            Answer::Unclear(reason) => reason,
            Answer::No(reason) => self.remove(reason, decision),
            Answer::Yes(settings) => self.inject(&settings, decision),
        }
    }

    fn inject(self, settings: &Settings, decision: &mut Decision) -> Reason {
        let inputs = self.inputs(self.request.object, &self.user);
        if !self.request.recompute
            && let Some(reason) = self.keep_or_restore(&inputs, decision)
        {
            return reason;
        }
        let pod = Pod(&self.user);
        let namespace = self.facts.namespace(self.request.namespace);
        let native = match exclusion::native(pod, settings, namespace, self.options) {
            Ok(native) => native,
            Err((reason, warning)) => {
                decision.warnings.push(warning);
                return self.remove(reason, decision);
            }
        };
        let Case { facts, options, .. } = self;
        let says_singles = self.asker(self.request.object, &self.user).says(annotation::PER_UPSTREAM);
        let namespace = self.request.namespace;
        let scene = Scene { pod, namespace, settings, native, says_singles, facts, options };
        match scene.plan(&mut decision.warnings) {
            Ok(plan) => self.write(plan, inputs, decision),
            Err(NoPlan::Skip(reason)) => self.remove(reason, decision),
            Err(NoPlan::Malformed(malformed)) => {
                decision.warnings.extend(malformed.into_iter().map(Warning::Malformed));
                Reason::MalformedAnnotation
            }
            Err(NoPlan::Deny(service)) => self.deny(Warning::NotHeadless { service }, &inputs, decision),
        }
    }

    /// Nobody asked for a rollout: intact additions stay as they are, dropped ones come back as they were.
    fn keep_or_restore(&self, inputs: &Inputs, decision: &mut Decision) -> Option<Reason> {
        if let Some(own) = &self.own
            && self.own_intact()
        {
            let created = self.request.operation == Operation::Create;
            let same_settings = own.inputs.as_ref().is_some_and(|own| own.settings == inputs.settings);
            return ((created && same_settings) || self.same_inputs(own, inputs))
                .then(|| self.unchanged(decision));
        }
        let old = self.old.as_ref()?;
        let status = old.status.as_ref().filter(|status| !status.is_opt_out())?;
        if !self.same_inputs(status, inputs) || !status.added.intact(old.template) {
            return None;
        }
        decision.rewrite = Some(Rewrite::Whole(status.restore(old.template, &self.user)?));
        decision.twins.clone_from(&status.twins);
        Some(Reason::Restored)
    }

    /// Whether a status was made from these inputs. The template may have been read before the API server had filled in
    /// its defaults; then the stored object tells whether the user changed anything.
    fn same_inputs(&self, status: &Status, inputs: &Inputs) -> bool {
        let Some(made_from) = &status.inputs else { return false };
        made_from.settings == inputs.settings
            && (made_from.template == inputs.template
                || self.old_inputs().is_some_and(|old| old.template == inputs.template))
    }

    fn write(self, plan: Plan, inputs: Inputs, decision: &mut Decision) -> Reason {
        let twins: Vec<ServiceName> = plan.twins.into_iter().collect();
        let new = Status {
            version: self.options.version.clone(),
            inputs: Some(inputs),
            twins: twins.clone(),
            added: Record::default(),
        };
        let (before, user) = match self.user {
            Cow::Owned(user) => (None, user),
            Cow::Borrowed(template) => {
                let parts = rewrite::touched(template, &plan.changes);
                (Some(parts.clone()), parts)
            }
        };
        match new.write(user, &plan.changes) {
            Ok(after) if Pod(&after).annotations_size() > LARGEST_ANNOTATIONS => {
                decision.warnings.push(Warning::TooLarge);
                Reason::TooLarge
            }
            Ok(after) => {
                decision.warnings.extend(self.edited.into_iter().map(|what| Warning::Edited { what }));
                decision.rewrite = Some(match before {
                    Some(before) => Rewrite::Parts { before, after },
                    None => Rewrite::Whole(after),
                });
                decision.twins = twins;
                Reason::Injected
            }
            Err(wrong) => {
                decision.warnings.push(Warning::MalformedObject { path: wrong.path });
                Reason::MalformedObject
            }
        }
    }

    /// Takes out what was added; what somebody changed since stays. A workload's own `inject: "false"` is written to its
    /// template, so that its pods are left alone in a labelled namespace, too.
    fn remove(&self, reason: Reason, decision: &mut Decision) -> Reason {
        let opts_out = self.kind != Kind::Pod && self.asker(self.request.object, &self.user).opts_out();
        let own_opt_out = self.own.as_ref().is_some_and(Status::is_opt_out);
        if (opts_out && own_opt_out && self.own_intact()) || (!opts_out && self.status().is_none()) {
            return reason;
        }
        let (mut template, kept) = match self.status() {
            Some(status) => status.take_out(self.template, Take::Unchanged),
            None => (self.template.clone(), Vec::new()),
        };
        decision.warnings.extend(kept.into_iter().map(|what| Warning::Kept { what }));
        if opts_out {
            let inject = annotation::key(annotation::INJECT);
            let change = Change::set(&template, "/metadata/annotations", &inject, json!("false"));
            let status = Status {
                version: self.options.version.clone(),
                inputs: None,
                twins: Vec::new(),
                added: Record::default(),
            };
            let written = change.map(|change| status.write(template.clone(), &[change]));
            match written {
                Some(Ok(written)) => template = written,
                Some(Err(wrong)) => decision.warnings.push(Warning::MalformedObject { path: wrong.path }),
                None => {}
            }
        }
        let had_sidecar = self.own.as_ref().is_some_and(|status| !status.is_opt_out());
        decision.rewrite = Some(Rewrite::Whole(template));
        if had_sidecar { Reason::Removed } else { reason }
    }

    /// Refuses a workload whose inputs change; pods of a running workload must start, whatever the policy is now.
    fn deny(&self, warning: Warning, inputs: &Inputs, decision: &mut Decision) -> Reason {
        let owned = workload::has_controller(self.request.object);
        let same = self.old_inputs().is_some_and(|old| old == *inputs);
        if owned || same {
            decision.warnings.push(warning);
            return self.remove(Reason::NotHeadless, decision);
        }
        decision.denied = Some(warning.to_string());
        Reason::NotHeadless
    }

    fn unchanged(&self, decision: &mut Decision) -> Reason {
        decision.twins = self.own.as_ref().map(|status| status.twins.clone()).unwrap_or_default();
        Reason::Unchanged
    }

    fn own_intact(&self) -> bool {
        self.own.as_ref().is_some_and(|status| status.added.intact(self.template))
    }

    /// The object's own status, or the one it had before somebody dropped it.
    fn status(&self) -> Option<&Status> {
        self.own.as_ref().or_else(|| self.old.as_ref()?.status.as_ref())
    }

    fn inputs(&self, object: &Value, user: &Value) -> Inputs {
        let settings = hash::hex(self.asker(object, user).hash());
        Inputs { settings, template: hash::hex(hash::of_template(user)) }
    }

    /// The inputs of the stored object.
    fn old_inputs(&self) -> Option<Inputs> {
        let old = self.old.as_ref()?;
        Some(match &old.status {
            Some(status) => self.inputs(old.object, &status.take_out(old.template, Take::Ours).0),
            None => self.inputs(old.object, old.template),
        })
    }

    fn asker<'v>(&self, object: &'v Value, user: &'v Value) -> Asker<'v>
    where
        'a: 'v,
    {
        Asker {
            kind: self.kind,
            object: if self.kind == Kind::Pod { user } else { object },
            template: user,
            namespace_name: self.request.namespace,
            namespace: self.facts.namespace(self.request.namespace),
        }
    }
}

/// Whether a pod or a workload's template carries the sidecar and everything that belongs to it.
pub fn is_injected(object: &Value) -> bool {
    let template = Kind::of(object).and_then(|kind| object.pointer(kind.template()));
    let status = template.and_then(|template| Some((template, Status::read(template).ok()??)));
    status.is_some_and(|(template, status)| !status.is_opt_out() && status.added.intact(template))
}

/// The Services whose headless twins a pod or workload asks for.
pub fn twins_wanted(object: &Value) -> Vec<ServiceName> {
    let template = Kind::of(object).and_then(|kind| object.pointer(kind.template()));
    let status = template.and_then(|template| Status::read(template).ok().flatten());
    status.map(|status| status.twins).unwrap_or_default()
}
