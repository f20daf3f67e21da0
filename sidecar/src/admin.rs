//! Health, readiness, metrics and the application's probes on port 15820, on a runtime of their own
//! so that load on the data path cannot make a healthy sidecar look dead.

use std::sync::Arc;

use http::{Method, Request, header};
use tokio::net::TcpListener;
use writ_service::Admin;
use writ_service::admin::{Answer, text};

use crate::probes::Probes;

/// What the admin port tells.
pub trait Status: Send + Sync + 'static {
    /// `Ok` when actions can be decided; otherwise what is missing, a line each.
    ///
    /// # Errors
    /// The reasons why the sidecar is not ready.
    fn ready(&self) -> Result<(), Vec<String>>;

    /// Metrics in the Prometheus text format.
    fn metrics(&self) -> Vec<u8>;
}

/// Serves the admin port until the task is dropped.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: std::net::TcpListener,
    status: Arc<dyn Status>,
    probes: Arc<Probes>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let admin = Arc::new(admin(status));
    writ_service::admin::serve(listener, move |request| {
        let (admin, probes) = (Arc::clone(&admin), Arc::clone(&probes));
        async move { answer(&request, &admin, &probes).await }
    })
    .await;
    Ok(())
}

fn admin(status: Arc<dyn Status>) -> Admin {
    let counted = Arc::clone(&status);
    let ready = move || status.ready().map_err(|missing| missing.join("\n"));
    Admin::new(ready, move || counted.metrics())
}

async fn answer<B>(request: &Request<B>, admin: &Admin, probes: &Probes) -> Answer {
    let (method, path) = (request.method(), request.uri().path());
    let reads = method == Method::GET || method == Method::HEAD;
    if reads && Probes::is_probe(path) {
        let agent = request.headers().get(header::USER_AGENT);
        let (status, reason) = probes.answer(path, agent).await;
        return text(status, reason);
    }
    admin.answer(method, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    struct Fixed(Result<(), Vec<String>>);

    impl Status for Fixed {
        fn ready(&self) -> Result<(), Vec<String>> {
            self.0.clone()
        }

        fn metrics(&self) -> Vec<u8> {
            b"writ_records 3\n".to_vec()
        }
    }

    async fn get(path: &str, status: Fixed) -> StatusCode {
        let request = Request::get(path).body(()).unwrap();
        let admin = admin(Arc::new(status));
        answer(&request, &admin, &Probes::default()).await.status()
    }

    #[tokio::test]
    async fn readiness_says_no_while_something_is_missing_and_health_does_not() {
        let waiting = || Fixed(Err(vec!["no SVID yet".into()]));
        assert_eq!(get("/readyz", waiting()).await, 503);
        assert_eq!(get("/healthz", waiting()).await, 200);
        assert_eq!(get("/readyz", Fixed(Ok(()))).await, 200);
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused() {
        let status = || Fixed(Ok(()));
        assert_eq!(get("/debug", status()).await, 404);
        assert_eq!(get("/probe/app/liveness", status()).await, 404);
        for path in ["/metrics", "/probe/app/liveness"] {
            let post = Request::post(path).body(()).unwrap();
            let answer = answer(&post, &admin(Arc::new(status())), &Probes::default()).await;
            assert_eq!(answer.status(), 405);
        }
    }
}
