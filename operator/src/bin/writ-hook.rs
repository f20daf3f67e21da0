//! `writ-hook`: what the chart's hooks run, in pods that have no shell.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kube::Client;
use writ_operator::hooks::{HookError, Probe, Release, apply, check, stop, try_out};

/// What the chart's hooks run.
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    hook: Hook,
}

#[derive(Subcommand, Debug)]
enum Hook {
    /// Before an upgrade: apply the custom resource definitions of this version.
    Crds,
    /// Before an uninstallation: refuse while agents run.
    Uninstall {
        /// The helm release.
        #[arg(long, default_value = "writ", value_name = "NAME")]
        release: String,
        /// Its namespace.
        #[arg(long, default_value = "writ-system", value_name = "NAME")]
        namespace: String,
        /// Its revision.
        #[arg(long, default_value_t = 1, value_name = "NUMBER")]
        revision: u32,
        /// Say what is left, and go on.
        #[arg(long)]
        force: bool,
        /// Namespace of relay and witnesses, to end them first: the node agent brings their socket.
        #[arg(long, value_name = "NAME")]
        stop: Option<String>,
        /// How many witnesses there are.
        #[arg(long, default_value_t = 0, value_name = "NUMBER")]
        witnesses: u32,
    },
    /// `helm test`: the installation answers, and an opted-in pod would get its sidecar.
    Test {
        /// Namespace of our own pods.
        #[arg(long, default_value = "writ-system", value_name = "NAME")]
        namespace: String,
        /// Namespace in which a pod is tried, without starting it.
        #[arg(long, default_value = "default", value_name = "NAME")]
        agents: String,
        /// Its labels, `name=value`, besides the opt-in.
        #[arg(long = "label", value_parser = label, value_name = "LABEL")]
        labels: Vec<(String, String)>,
        /// Its service account.
        #[arg(long, default_value = "default", value_name = "NAME")]
        account: String,
    },
}

fn label(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("a label is name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    use std::io::Write as _;
    match run(Args::parse().hook).await {
        Ok(said) => {
            let _ = writeln!(std::io::stdout(), "{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "writ-hook: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(hook: Hook) -> Result<String, HookError> {
    let client = Client::try_default()
        .await
        .map_err(|error| HookError::Client(error.to_string()))?;
    match hook {
        Hook::Crds => Ok(format!("applied {}", apply(&client).await?.join(", "))),
        Hook::Uninstall {
            release,
            namespace,
            revision,
            force,
            stop: of,
            witnesses,
        } => {
            let release = Release {
                name: release,
                namespace,
                revision,
                force,
            };
            let said = check(&client, &release).await?;
            if let Some(namespace) = of {
                stop(&client, &namespace, witnesses).await?;
            }
            Ok(said)
        }
        Hook::Test {
            namespace,
            agents,
            labels,
            account,
        } => {
            let probe = Probe {
                namespace,
                agents,
                labels,
                account,
            };
            Ok(try_out(&client, &probe).await?.join("\n"))
        }
    }
}
