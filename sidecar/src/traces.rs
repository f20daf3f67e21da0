//! Traces over OTLP: a span for each action and each arrival, and one below it for each stage.
//!
//! They are `tracing` spans of one target at its most verbose level, so that they cost the check of
//! a flag where nobody collects them. An agent's W3C trace context goes on with its request, taken
//! apart and put together anew: nothing else of the agent's passes in a field that no envelope covers.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceState, TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tonic::transport::ClientTlsConfig;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;
use url::Url;

/// The target of all spans that are exported.
pub const TARGET: &str = writ_pep::TRACE_TARGET;

/// How long spans that are left may take to be delivered at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// A span for one stage of the action or arrival that is under way.
macro_rules! stage {
    ($name:literal) => {
        tracing::trace_span!(target: $crate::traces::TARGET, $name)
    };
}
pub(crate) use stage;

/// Where traces go.
#[derive(clap::Args, Clone, Debug, Default)]
#[group(id = "traces")]
pub struct Args {
    /// OpenTelemetry collector that traces go to, over OTLP/gRPC, such as
    /// `http://collector.observability:4317`. Without it none are made.
    #[arg(long, env = "WRIT_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<Url>,
    /// Share of the actions that are traced where the agent says nothing about it, from 0 to 1.
    #[arg(
        long,
        env = "WRIT_TRACE_RATIO",
        value_name = "SHARE",
        default_value_t = 0.01
    )]
    pub trace_ratio: f64,
}

/// Traces cannot be exported as asked.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// No collector can be there.
    #[error("--otlp-endpoint {0}: an http or https URL is needed, such as http://collector:4317")]
    Endpoint(Url),
    /// No share.
    #[error("--trace-ratio {0}: a number from 0 to 1 is needed")]
    Ratio(f64),
    /// The exporter does not start.
    #[error("traces cannot be exported: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Traces that are being collected.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Collects spans for the collector that `args` name, if they do. Is to be called inside the
    /// runtime, on which connections to it live.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn start(args: &Args) -> Result<Option<Self>, TraceError> {
        let Some(endpoint) = &args.otlp_endpoint else {
            return Ok(None);
        };
        if !(0.0..=1.0).contains(&args.trace_ratio) {
            return Err(TraceError::Ratio(args.trace_ratio));
        }
        if !matches!(endpoint.scheme(), "http" | "https") || !endpoint.has_host() {
            return Err(TraceError::Endpoint(endpoint.clone()));
        }
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.as_str());
        if endpoint.scheme() == "https" {
            exporter = exporter.with_tls_config(ClientTlsConfig::new().with_native_roots());
        }
        let sampler = Sampler::TraceIdRatioBased(args.trace_ratio);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter.build()?)
            .with_sampler(Sampler::ParentBased(Box::new(sampler)))
            .with_resource(
                Resource::builder()
                    .with_service_name(env!("CARGO_PKG_NAME"))
                    .build(),
            )
            .build();
        Ok(Some(Self(provider)))
    }

    /// The layer that collects.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + 'static
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(env!("CARGO_PKG_NAME")))
            .with_level(false)
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(TARGET, LevelFilter::TRACE))
    }

    /// Delivers what is left, for a moment.
    pub fn finish(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH) {
            tracing::warn!(%error, "some traces were not delivered");
        }
    }
}

/// The trace that one request belongs to.
#[derive(Clone, Debug)]
pub struct Trace {
    span: Span,
    remote: SpanContext,
}

impl Trace {
    /// Of an action that an agent asks for with these fields.
    pub fn action(headers: &HeaderMap) -> Self {
        Self::of(headers, || {
            tracing::trace_span!(
                target: TARGET,
                parent: None,
                "action",
                otel.kind = "server",
                decision.id = tracing::field::Empty,
                decision.effect = tracing::field::Empty,
                decision.reason = tracing::field::Empty,
            )
        })
    }

    /// Of a request that arrives with these fields.
    pub fn arrival(headers: &HeaderMap) -> Self {
        Self::of(headers, || {
            tracing::trace_span!(
                target: TARGET,
                parent: None,
                "arrival",
                otel.kind = "server",
                decision.id = tracing::field::Empty,
            )
        })
    }

    fn of(headers: &HeaderMap, span: impl FnOnce() -> Span) -> Self {
        let context =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Fields(headers));
        let remote = context.span().span_context().clone();
        let span = span();
        if !span.is_disabled() && remote.is_valid() {
            // Fails only for a span that has begun already, which this one has not.
            let _ = span.set_parent(Context::new().with_remote_span_context(remote.clone()));
        }
        Self { span, remote }
    }

    /// The span of the whole.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Sets `traceparent` of a request that is sent during `span`: of the trace that it came with,
    /// or of ours. No `tracestate`: what stands in one is anybody's.
    pub fn pass_on(&self, span: &Span, headers: &mut HeaderMap) {
        let ours = (!span.is_disabled()).then(|| span.context().span().span_context().clone());
        let context = match ours {
            Some(ours) if ours.is_valid() => ours,
            _ => self.remote.clone(),
        };
        let bare = SpanContext::new(
            context.trace_id(),
            context.span_id(),
            context.trace_flags(),
            true,
            TraceState::NONE,
        );
        headers.remove(TRACESTATE);
        if bare.is_valid() {
            let context = Context::new().with_remote_span_context(bare);
            TraceContextPropagator::new().inject_context(&context, &mut FieldsMut(headers));
            headers.remove(TRACESTATE);
        }
    }
}

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Notes the decision on the action that is under way.
pub(crate) fn decided(id: &str, effect: &str, reason: &str) {
    let span = Span::current();
    span.record("decision.id", id);
    span.record("decision.effect", effect);
    span.record("decision.reason", reason);
}

struct Fields<'a>(&'a HeaderMap);

impl Extractor for Fields<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let mut all = self.0.get_all(key).iter();
        let only = all.next()?;
        // Two of them say nothing.
        all.next().is_none().then(|| only.to_str().ok()).flatten()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct FieldsMut<'a>(&'a mut HeaderMap);

impl Injector for FieldsMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::try_from(key);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn passed_on(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        Trace::action(&fields(lines)).pass_on(&Span::none(), &mut headers);
        headers
    }

    #[test]
    fn a_trace_context_goes_on_although_nobody_collects() {
        let passed = passed_on(&[("traceparent", PARENT), ("tracestate", "a=secret")]);
        assert_eq!(passed, fields(&[("traceparent", PARENT)]));
    }

    #[test]
    fn what_is_no_trace_context_does_not_go_on() {
        let zero = PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        for bad in ["", "secret", &format!("{PARENT}-secret"), &zero] {
            let passed = passed_on(&[("traceparent", bad)]);
            assert_eq!(passed, HeaderMap::new(), "{bad}");
        }
        let twice = [("traceparent", PARENT), ("traceparent", PARENT)];
        assert_eq!(passed_on(&twice), HeaderMap::new());
        assert_eq!(passed_on(&[]), HeaderMap::new());
    }

    #[tokio::test]
    async fn a_collector_that_cannot_be_is_refused_with_an_example() {
        let start = |endpoint: &str, trace_ratio| {
            let otlp_endpoint = Some(Url::parse(endpoint).unwrap());
            Traces::start(&Args {
                otlp_endpoint,
                trace_ratio,
            })
        };
        for (endpoint, ratio) in [
            ("file:///x", 1.0),
            ("http://a:4317", 1.5),
            ("http://a:4317", -0.1),
        ] {
            let told = start(endpoint, ratio).unwrap_err().to_string();
            assert!(told.contains("needed"), "{told}");
        }
        assert!(start("http://127.0.0.1:4317", 0.5).unwrap().is_some());
        assert!(Traces::start(&Args::default()).unwrap().is_none());
    }
}
