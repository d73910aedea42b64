//! Hashes that are the same in every version and on every machine: they are stored in clusters and compared later.
//! They tell change from no change; nothing secret or hostile depends on them.

use serde_json::{Map, Value};
use smallvec::SmallVec;

use crate::quantity::Quantity;

/// What hashing begins with: FNV's offset basis.
const START: u64 = 0xcbf2_9ce4_8422_2325;

/// 64-bit FNV-1a (draft-eastlake-fnv).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Fnv {
        Fnv(START)
    }

    /// Takes in bytes and a mark after them, so that `ab`,`c` and `a`,`bc` differ.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain([&0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }
}

/// The hash of one text.
pub(crate) fn of_text(text: &str) -> u64 {
    let mut hash = Fnv::new();
    hash.feed(text.as_bytes());
    hash.finish()
}

/// For what may be large, eight bytes at a time: FNV-1a byte by byte would be a sixth of the review of a large template.
/// Each word is multiplied, and the upper half of the product mixed into the lower, as MurmurHash does.
struct Words(u64);

impl Words {
    fn new() -> Words {
        Words(START)
    }

    /// Takes in bytes and a mark after them that no text has, so that `ab`,`c` and `a`,`bc` differ.
    fn feed(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        self.word(rest.iter().rev().fold(0xff, |word, byte| word << 8 | u64::from(*byte)));
    }

    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

/// The hash of a pod template as the API server understands it: the order of keys, and fields that only say what
/// is the default anyway, don't count. So a manifest and what the API server makes of it hash alike.
pub(crate) fn of_template(template: &Value) -> u64 {
    let mut hash = Words::new();
    feed(&mut hash, template, false);
    hash.0
}

/// 16 hexadecimal digits.
pub(crate) fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

fn feed(hash: &mut Words, value: &Value, resources: bool) {
    match value {
        Value::Null => hash.feed(b"null"),
        Value::Bool(flag) => hash.feed(if *flag { b"true" } else { b"false" }),
        Value::Number(number) => hash.feed(number.to_string().as_bytes()),
        Value::String(text) => match resources.then(|| Quantity::parse(text)).flatten() {
            Some(quantity) => hash.feed(&quantity.0.to_be_bytes()),
            None => hash.feed(text.as_bytes()),
        },
        Value::Array(items) => {
            hash.feed(b"[");
            items.iter().for_each(|item| feed(hash, item, resources));
            hash.feed(b"]");
        }
        Value::Object(members) => {
            let mut sorted: SmallVec<[_; 16]> =
                members.iter().filter(|(key, value)| !is_default(key, value, members)).collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            hash.feed(b"{");
            for (key, value) in sorted {
                hash.feed(key.as_bytes());
                feed(hash, value, resources || key == "resources");
            }
            hash.feed(b"}");
        }
    }
}

/// Whether a member says no more than its absence (`k8s.io/kubernetes/pkg/apis/core/v1/defaults.go`).
fn is_default(key: &str, value: &Value, siblings: &Map<String, Value>) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.iter().all(|(key, value)| is_default(key, value, members)),
        Value::Bool(false) => {
            matches!(key, "hostNetwork" | "hostPID" | "hostIPC" | "stdin" | "stdinOnce" | "tty" | "readOnly")
        }
        Value::Bool(true) => false,
        Value::Number(number) => matches!(
            (key, number.as_i64()),
            ("terminationGracePeriodSeconds", Some(30))
                | ("timeoutSeconds" | "successThreshold", Some(1))
                | ("periodSeconds", Some(10))
                | ("failureThreshold", Some(3))
                | ("defaultMode", Some(420))
        ),
        Value::String(text) => match key {
            // The default depends on the image's tag; what the sidecar needs doesn't depend on it.
            "imagePullPolicy" => text != "Never",
            // A copy of `serviceAccountName` under its old name.
            "serviceAccount" => true,
            // Of a container it says that it is a native sidecar.
            "restartPolicy" => text == "Always" && siblings.contains_key("containers"),
            _ => matches!(
                (key, text.as_str()),
                ("protocol", "TCP")
                    | ("scheme", "HTTP")
                    | ("path", "/")
                    | ("apiVersion", "v1")
                    | ("divisor", "0")
                    | ("dnsPolicy", "ClusterFirst")
                    | ("schedulerName", "default-scheduler")
                    | ("terminationMessagePath", "/dev/termination-log")
                    | ("terminationMessagePolicy", "File")
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stored_hashes_stay_valid_in_later_versions() {
        // FNV-1a of "a" with the mark 0xff; changing an algorithm would roll every workload once.
        assert_eq!(hex(of_text("a")), "089bc907b544c769");
        assert_eq!(hex(of_template(&json!({"b": [1, "x"], "a": true}))), "6da1c5fda55f54d3");
    }

    #[test]
    fn where_one_text_ends_and_the_next_begins_is_seen() {
        let hash = |texts: &[&str]| {
            let mut hash = Words::new();
            texts.iter().for_each(|text| hash.feed(text.as_bytes()));
            hash.0
        };
        for (one, other) in [
            (["ab", "c"], ["a", "bc"]),
            (["", "x"], ["x", ""]),
            (["12345678", ""], ["", "12345678"]),
            (["1234567", "8"], ["12345678", ""]),
            (["0123456789abcdef", "x"], ["01234567", "89abcdefx"]),
        ] {
            assert_ne!(hash(&one), hash(&other), "{one:?} and {other:?}");
        }
        let all: std::collections::HashSet<_> =
            (0..100_000).map(|n| hash(&["name", &n.to_string()])).collect();
        assert_eq!(all.len(), 100_000);
    }

    #[test]
    fn a_manifest_and_what_the_api_server_makes_of_it_hash_alike() {
        let written = json!({"metadata": {"labels": {"app": "nginx"}}, "spec": {"containers": [
            {"name": "nginx", "image": "nginx:1.27", "ports": [{"containerPort": 80}],
             "resources": {"limits": {"cpu": "0.5"}},
             "readinessProbe": {"httpGet": {"port": 80}}}]}});
        let stored = json!({"spec": {"terminationGracePeriodSeconds": 30, "securityContext": {}, "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "containers": [
            {"image": "nginx:1.27", "name": "nginx", "imagePullPolicy": "IfNotPresent",
             "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": {"limits": {"cpu": "500m"}},
             "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
             "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}]},
            "metadata": {"creationTimestamp": null, "labels": {"app": "nginx"}}});
        assert_eq!(of_template(&written), of_template(&stored));
    }

    #[test]
    fn every_real_change_of_a_template_is_noticed() {
        let base =
            json!({"spec": {"restartPolicy": "Always", "containers": [{"name": "a", "image": "a:1"}]}});
        for changed in [
            json!({"spec": {"containers": [{"name": "a", "image": "a:2"}]}}),
            json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a:1"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "a:1", "restartPolicy": "Always"}]}}),
            json!({"spec": {"hostNetwork": true, "containers": [{"name": "a", "image": "a:1"}]}}),
            json!({"spec": {"enableServiceLinks": false, "containers": [{"name": "a", "image": "a:1"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "a:1"}]}}),
        ] {
            assert_ne!(of_template(&base), of_template(&changed), "{changed}");
        }
    }
}
