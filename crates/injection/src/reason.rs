//! Why an outcome is what it is, for metrics, audit annotations and reports.

/// The reason of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The sidecar was added, or written anew because its inputs changed.
    Injected,
    /// The additions are there and their inputs have not changed.
    Unchanged,
    /// The additions had been dropped and are there again as they were.
    Restored,
    /// The additions were taken out.
    Removed,
    /// No annotation and no namespace label asks for a sidecar.
    NotAsked,
    /// `inject: "false"`.
    OptedOut,
    /// The namespace's label says `disabled`.
    NamespaceDisabled,
    /// A namespace that never gets sidecars.
    ProtectedNamespace,
    /// The label of the namespace asks for it: the pods get it when they start.
    LeftToPods,
    /// `inject` or the namespace's label has a value nobody knows.
    UnknownValue,
    /// An annotation cannot be understood.
    MalformedAnnotation,
    /// The object has another shape than the Kubernetes API gives it.
    MalformedObject,
    /// A kind without pods.
    UnsupportedKind,
    /// `scale`, `status` and the like.
    Subresource,
    /// The object is being deleted.
    Deleting,
    /// A controller keeps the template as it wants it.
    Owned,
    /// An object whose template cannot be changed (a Job, a pod).
    Immutable,
    /// One of whichpod's own pods.
    OwnPod,
    /// A static pod's mirror.
    MirrorPod,
    /// The pod uses the node's network.
    HostNetwork,
    /// A Windows pod.
    Windows,
    /// Istio's sidecar is or will be in the pod.
    Istio,
    /// Linkerd's proxy is or will be in the pod.
    Linkerd,
    /// The pod has a container of the same name that is not ours.
    NameTaken,
    /// The configuration or the status would be larger than Linux or Kubernetes takes.
    TooLarge,
    /// No port is left for the sidecar's own servers.
    NoRoom,
    /// An ordinary container would keep the pod's init containers waiting, or the pod from ending.
    WouldHang,
    /// `native-sidecar: "true"` below Kubernetes 1.29.
    NativeUnsupported,
    /// The pod does not ask the cluster's DNS, whose address nobody knows.
    DnsUnknown,
    /// No upstreams are named.
    NoUpstreams,
    /// None of the upstreams can be redirected.
    NothingToRedirect,
    /// `headlessServices: deny`, and a Service has no headless twin.
    NotHeadless,
}

impl Reason {
    /// A stable name in snake_case, for metrics and audit annotations.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Injected => "injected",
            Reason::Unchanged => "unchanged",
            Reason::Restored => "restored",
            Reason::Removed => "removed",
            Reason::NotAsked => "not_asked",
            Reason::OptedOut => "opted_out",
            Reason::NamespaceDisabled => "namespace_disabled",
            Reason::ProtectedNamespace => "protected_namespace",
            Reason::LeftToPods => "left_to_pods",
            Reason::UnknownValue => "unknown_value",
            Reason::MalformedAnnotation => "malformed_annotation",
            Reason::MalformedObject => "malformed_object",
            Reason::UnsupportedKind => "unsupported_kind",
            Reason::Subresource => "subresource",
            Reason::Deleting => "deleting",
            Reason::Owned => "owned",
            Reason::Immutable => "immutable",
            Reason::OwnPod => "own_pod",
            Reason::MirrorPod => "mirror_pod",
            Reason::HostNetwork => "host_network",
            Reason::Windows => "windows",
            Reason::Istio => "istio",
            Reason::Linkerd => "linkerd",
            Reason::NameTaken => "name_taken",
            Reason::TooLarge => "too_large",
            Reason::NoRoom => "no_room",
            Reason::WouldHang => "would_hang",
            Reason::NativeUnsupported => "native_unsupported",
            Reason::DnsUnknown => "dns_unknown",
            Reason::NoUpstreams => "no_upstreams",
            Reason::NothingToRedirect => "nothing_to_redirect",
            Reason::NotHeadless => "not_headless",
        }
    }
}
