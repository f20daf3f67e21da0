//! Leases and Secrets against an API server that keeps versions as the real one does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::client::Body;
use kube::{Api, Client};
use ring::rand::SystemRandom;
use serde_json::{Value, json};
use writ_operator::leader::{Candidate, Timing};
use writ_operator::salts::{self, Of};

/// Objects by path, each with a version.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<(u64, BTreeMap<String, Value>)>>);

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                // Others may come in between a read and a write.
                tokio::task::yield_now().await;
                let (code, answer) = server.answer(&head.method, head.uri.path(), &body);
                let body = Full::new(bytes::Bytes::from(answer.to_string()));
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(code).body(body).unwrap(),
                )
            }
        });
        Client::new(service, "writ-system")
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        let mut state = self.0.lock().unwrap();
        let (version, objects) = &mut *state;
        let failed = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                "reason": reason, "message": reason});
            (code, status)
        };
        if *method == Method::GET {
            return objects
                .get(path)
                .map_or_else(|| failed(404, "NotFound"), |o| (200, o.clone()));
        }
        let mut object: Value = serde_json::from_slice(body).unwrap();
        let path = match *method {
            Method::POST => format!("{path}/{}", object["metadata"]["name"].as_str().unwrap()),
            Method::PUT => path.to_owned(),
            _ => panic!("{method} is not expected"),
        };
        let there = objects
            .get(&path)
            .map(|o| o["metadata"]["resourceVersion"].clone());
        let fits = match (&there, *method == Method::POST) {
            (None, is_new) => is_new,
            (Some(_), true) => false,
            (Some(there), false) => *there == object["metadata"]["resourceVersion"],
        };
        if !fits {
            return failed(409, "Conflict");
        }
        *version += 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        objects.insert(path, object.clone());
        (200, object)
    }
}

const TIMING: Timing = Timing {
    lease: Duration::from_secs(15),
    renew: Duration::from_secs(3),
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn candidate(server: &Server, name: &str) -> Candidate {
    let api: Api<Lease> = Api::namespaced(server.client(), "writ-system");
    Candidate::new(api, "writ-operator", name, TIMING)
}

#[tokio::test]
async fn of_many_candidates_one_leads_and_another_follows_when_it_stops_renewing() {
    let server = Server::default();
    let mut candidates: Vec<Candidate> = (0..5)
        .map(|n| candidate(&server, &format!("c{n}")))
        .collect();
    let round = futures::future::join_all(candidates.iter_mut().map(|c| c.tick(at(100)))).await;
    let leaders: Vec<usize> = (0..5).filter(|n| *round[*n].as_ref().unwrap()).collect();
    assert_eq!(leaders.len(), 1);
    let leader = leaders[0];
    // It renews; nobody else gets in.
    for second in [103, 106, 120] {
        for (n, candidate) in candidates.iter_mut().enumerate() {
            if n == leader {
                assert!(candidate.tick(at(second)).await.unwrap());
            }
        }
        for (n, candidate) in candidates.iter_mut().enumerate() {
            assert!(n == leader || !candidate.tick(at(second)).await.unwrap());
        }
    }
    // It stops; after the lease's end exactly one other leads.
    candidates.remove(leader);
    let round = futures::future::join_all(candidates.iter_mut().map(|c| c.tick(at(136)))).await;
    assert_eq!(round.iter().filter(|r| *r.as_ref().unwrap()).count(), 1);
}

#[tokio::test]
async fn a_lease_that_is_given_back_is_taken_at_once() {
    let server = Server::default();
    let (mut first, mut second) = (candidate(&server, "a"), candidate(&server, "b"));
    assert!(first.tick(at(0)).await.unwrap());
    assert!(!second.tick(at(1)).await.unwrap());
    second.release().await.unwrap();
    assert!(
        !second.tick(at(1)).await.unwrap(),
        "somebody else's lease is not given back"
    );
    first.release().await.unwrap();
    assert!(second.tick(at(2)).await.unwrap());
}

#[tokio::test]
async fn operators_that_race_agree_on_every_salt() {
    let server = Server::default();
    let wanted: Vec<Of> = (0..8).map(|n| Of::Agent(format!("agent-{n}"))).collect();
    let random = SystemRandom::new();
    let races = (0..4).map(|n| {
        let (client, wanted, random) = (server.client(), wanted[n..n + 4].to_vec(), &random);
        async move {
            salts::ensure(&client, "writ-system", "shop", &wanted, random)
                .await
                .unwrap()
        }
    });
    let made = futures::future::join_all(races).await;
    let kept = salts::find(&server.client(), "writ-system", "shop", &wanted)
        .await
        .unwrap();
    for salts in made {
        for (of, salt) in salts {
            assert_eq!(kept[&of], salt, "{of:?} has one salt for all");
        }
    }
}
