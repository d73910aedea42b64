//! Which versions of Kubernetes know native sidecars: init containers with `restartPolicy: Always`.

/// The first minor version whose API server and kubelets know them without being asked to.
const SINCE: u32 = 29;
/// Kubelets may be three minor versions older than their API server (the version skew policy), so from here on there is
/// no need to look at them.
const EVERYWHERE_SINCE: u32 = SINCE + 3;

/// What the API server's version tells about its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Native {
    /// Every kubelet knows them.
    Yes,
    /// They are not known, or the version is none that anybody understands.
    No,
    /// Every kubelet must be looked at: one that does not know them would never start the pod's other containers.
    AskKubelets,
}

/// By the API server's version, as `/version` tells it.
pub fn of_api_server(major: &str, minor: &str) -> Native {
    match number(major, minor) {
        Some(minor) if minor >= EVERYWHERE_SINCE => Native::Yes,
        Some(minor) if minor >= SINCE => Native::AskKubelets,
        _ => Native::No,
    }
}

/// By a node's `kubeletVersion`, such as `v1.29.4-gke.100`.
pub fn of_kubelet(version: &str) -> bool {
    let parts = version.strip_prefix('v').map(|version| version.split('.'));
    let minor = parts.and_then(|mut parts| number(parts.next()?, parts.next()?));
    minor.is_some_and(|minor| minor >= SINCE)
}

/// The minor version of Kubernetes 1; vendors append signs to it (`29+`). Later major versions know everything.
fn number(major: &str, minor: &str) -> Option<u32> {
    let number = |text: &str| -> Option<u32> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).map_or(text, |end| &text[..end]);
        digits.parse().ok()
    };
    match number(major)? {
        0 => Some(0),
        1 => number(minor),
        _ => Some(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_of_every_vendor_are_understood() {
        for (major, minor, expected) in [
            ("1", "28+", Native::No),
            ("1", "29", Native::AskKubelets),
            ("1", "31+", Native::AskKubelets),
            ("1", "32", Native::Yes),
            ("2", "0", Native::Yes),
            ("0", "40", Native::No),
            ("", "29", Native::No),
            ("1", "x", Native::No),
        ] {
            assert_eq!(of_api_server(major, minor), expected, "{major}.{minor}");
        }
        for known in ["v1.29.0", "v1.35.4", "v1.30+k3s", "v2.0.0"] {
            assert!(of_kubelet(known), "{known}");
        }
        for unknown in ["v1.28.15-eks-94953ac", "unknown", "", "1.30", "v1"] {
            assert!(!of_kubelet(unknown), "{unknown}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,60}") {
            let _ = (of_api_server(&text, &text), of_kubelet(&text));
        }
    }
}
