//! Metrics in the Prometheus text format.

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::ServiceError;

/// The metrics of one program: each is registered when it is made, so that none is forgotten.
#[derive(Debug)]
pub struct Meters(Registry);

impl Meters {
    /// Of a program with metrics named `<prefix>_...`.
    ///
    /// # Errors
    /// When the prefix cannot be part of a name.
    pub fn new(prefix: &str) -> Result<Self, ServiceError> {
        Ok(Self(Registry::new_custom(Some(prefix.to_owned()), None)?))
    }

    /// A number that grows.
    ///
    /// # Errors
    /// When the name is wrong or taken, as of all the others.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, ServiceError> {
        self.keep(IntCounter::new(name, help))
    }

    /// Numbers that grow, by `labels`.
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, ServiceError> {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A number that is set.
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, ServiceError> {
        self.keep(IntGauge::new(name, help))
    }

    /// Numbers that are set, by `labels`.
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, ServiceError> {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// How often something took how long; `buckets` in seconds.
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
    ) -> Result<Histogram, ServiceError> {
        self.keep(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets),
        ))
    }

    /// The same, by `labels`.
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> Result<HistogramVec, ServiceError> {
        let options = HistogramOpts::new(name, help).buckets(buckets);
        self.keep(HistogramVec::new(options, labels))
    }

    /// All of them as text.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to a vector cannot fail, and a family without samples is not gathered.
        let _ = TextEncoder::new().encode(&self.0.gather(), &mut text);
        text
    }

    fn keep<M>(&self, made: prometheus::Result<M>) -> Result<M, ServiceError>
    where
        M: Collector + Clone + 'static,
    {
        let made = made?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_in_the_text_under_the_programs_prefix() {
        let meters = Meters::new("writ_test").unwrap();
        meters.counter("a_total", "A").unwrap().inc();
        let by = meters.counters("b_total", "B", &["outcome"]).unwrap();
        by.with_label_values(&["done"]).inc();
        meters.gauge("c", "C").unwrap().set(3);
        let by = meters.gauges("d", "D", &["chain"]).unwrap();
        by.with_label_values(&["1"]).set(4);
        let took = meters.histogram("e_seconds", "E", vec![0.5, 1.0]);
        took.unwrap().observe(0.7);
        let took = meters.histograms("f_seconds", "F", &["stage"], vec![0.5]);
        took.unwrap().with_label_values(&["sign"]).observe(0.1);
        let text = String::from_utf8(meters.text()).unwrap();
        for line in [
            "writ_test_a_total 1",
            "writ_test_b_total{outcome=\"done\"} 1",
            "writ_test_c 3",
            "writ_test_d{chain=\"1\"} 4",
            "writ_test_e_seconds_bucket{le=\"0.5\"} 0",
            "writ_test_e_seconds_bucket{le=\"1\"} 1",
            "writ_test_f_seconds_bucket{stage=\"sign\",le=\"0.5\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn a_name_is_given_once() {
        let meters = Meters::new("writ_test").unwrap();
        meters.counter("a_total", "A").unwrap();
        assert!(meters.counter("a_total", "A").is_err());
        assert!(meters.gauge("no name", "B").is_err());
    }
}
