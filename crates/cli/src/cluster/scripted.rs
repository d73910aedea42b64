//! An API server for tests that answers by a script and remembers what it was asked.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::connect::Need;
use super::request::Cluster;

/// What was asked: method and path, and the body.
pub type Asked = (String, Value);

/// A cluster that gives these answers, one after the other, and what it was asked.
pub fn cluster(answers: Vec<(u16, Value)>) -> (Cluster, Arc<Mutex<Vec<Asked>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let remembered = Arc::clone(&asked);
    let server = tower::service_fn(move |request: Request<Body>| {
        let (asked, answers) = (Arc::clone(&remembered), Arc::clone(&answers));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            asked.lock().unwrap().push((format!("{} {}", parts.method, parts.uri), body));
            let (status, answer) = answers.lock().unwrap().pop_front().unwrap_or((500, refusal(500)));
            let body = Body::from(answer.to_string().into_bytes());
            Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
        }
    });
    let cluster = Cluster {
        client: Client::new(server, "shop"),
        namespace: "shop".to_owned(),
        server: "https://cluster.test".to_owned(),
        need: Need::Required,
    };
    (cluster, asked)
}

/// The body of a refusal.
pub fn refusal(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "because", "reason": "X", "code": code})
}
