//! Where logs go, and which.

use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, registry};

use crate::ServiceError;

/// Flags of the log, which goes to standard error.
#[derive(clap::Args, Clone, Debug)]
pub struct Logging {
    /// What to log: error, warn, info, debug, or a filter such as `info,hyper=debug`.
    #[arg(long, env = "WRIT_LOG", default_value = "info", global = true)]
    pub log: String,
    /// How to log.
    #[arg(long, env = "WRIT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json, global = true)]
    pub log_format: LogFormat,
}

/// How to log.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Logging {
    /// Starts the log of this process.
    ///
    /// # Errors
    /// When the filter cannot be used, or the process has a log already.
    pub fn start(&self) -> Result<(), ServiceError> {
        Ok(registry().with(self.layer()?).try_init()?)
    }

    /// The layer that writes the log, to be put together with others.
    ///
    /// # Errors
    /// When the filter cannot be used.
    pub fn layer<S>(&self) -> Result<impl Layer<S> + Send + Sync + use<S>, ServiceError>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let filter = EnvFilter::try_new(&self.log).map_err(|error| ServiceError::Filter {
            filter: self.log.clone(),
            reason: error.to_string(),
        })?;
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = match self.log_format {
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
            LogFormat::Text => lines.with_ansi(false).boxed(),
        };
        Ok(lines.with_filter(filter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use tracing_subscriber::Registry;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        logging: Logging,
        #[command(subcommand)]
        command: Option<Command>,
    }

    #[derive(clap::Subcommand)]
    enum Command {
        Run,
    }

    fn logging(line: &str) -> Logging {
        Program::parse_from(line.split_whitespace()).logging
    }

    #[test]
    fn logs_are_json_at_info_and_the_flags_may_stand_behind_a_subcommand() {
        let usual = logging("program");
        assert_eq!(
            (usual.log.as_str(), usual.log_format),
            ("info", LogFormat::Json)
        );
        let given = logging("program run --log warn --log-format text");
        assert_eq!(
            (given.log.as_str(), given.log_format),
            ("warn", LogFormat::Text)
        );
    }

    #[test]
    fn a_filter_that_cannot_be_used_is_refused_with_its_flag() {
        let refused = logging("program --log info,hyper=loud").layer::<Registry>();
        let said = refused.err().map(|error| error.to_string());
        let said = said.unwrap_or_default();
        assert!(said.starts_with("--log info,hyper=loud: "), "{said}");
        assert!(
            logging("program --log info,hyper=debug")
                .layer::<Registry>()
                .is_ok()
        );
    }
}
