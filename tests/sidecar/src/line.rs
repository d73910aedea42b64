//! A line of the access log in its `json` format.

use serde_json::Value;

/// One request's line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line(Value);

/// One try at a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Try {
    /// The pod's name, or nothing.
    pub pod: Option<String>,
    /// The pod's address.
    pub address: String,
    /// What the pod answered.
    pub status: Option<u64>,
    /// `ok`, or why it failed.
    pub reason: String,
    /// The connection had served before.
    pub reused: bool,
}

impl Line {
    /// Of a parsed line.
    #[must_use]
    pub fn new(value: Value) -> Self {
        Self(value)
    }

    /// A member as it is.
    #[must_use]
    pub fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or_else(|| unknown(name, &self.0))
    }

    /// A member that is text; `-` if it is not set.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.get(name).as_str().unwrap_or("-")
    }

    /// A member that is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        self.get(name).as_u64().unwrap_or_else(|| unknown(name, &self.0))
    }

    /// The status that the client got; 0 if none.
    #[must_use]
    pub fn status(&self) -> u64 {
        self.get("status").as_u64().unwrap_or_default()
    }

    /// The response flags; `-` without any.
    #[must_use]
    pub fn flags(&self) -> &str {
        self.text("flags")
    }

    /// Status, flags, and why each try ended: the short of it.
    #[must_use]
    pub fn verdict(&self) -> (u64, &str, Vec<String>) {
        (self.status(), self.flags(), self.tries().into_iter().map(|attempt| attempt.reason).collect())
    }

    /// Every try at a pod, in order.
    #[must_use]
    pub fn tries(&self) -> Vec<Try> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let attempt = |value: &Value| Try {
            pod: text(&value["pod"]),
            address: text(&value["address"]).unwrap_or_default(),
            status: value["status"].as_u64(),
            reason: text(&value["reason"]).unwrap_or_default(),
            reused: value["reused_connection"].as_bool().unwrap_or_default(),
        };
        self.get("attempts").as_array().map(|all| all.iter().map(attempt).collect()).unwrap_or_default()
    }
}

#[expect(clippy::panic, reason = "a failed step is a failed test")]
fn unknown(name: &str, line: &Value) -> ! {
    panic!("no {name} in {line}")
}
