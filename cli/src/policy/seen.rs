//! What agents did: the operator's inventory of distinct actions, a file of the same form, or a record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alloy_primitives::U256;
use clap::Args as ClapArgs;
use k8s_openapi::api::core::v1::ConfigMap;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use writ_ledger::encoding::from_base64url;
use writ_ledger::{Decision, Entry, LogReader, Record};
use writ_policy::Action;

use super::local::class_level;
use crate::cluster::ClusterArgs;
use crate::error::CliError;
use crate::log::rfc3339;
use crate::output::read_text;

/// Key of the ConfigMap that holds the actions.
const KEY: &str = "actions.json";
/// Most distinct actions that are read.
const MOST: usize = 100_000;

/// One distinct action, and how often it was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// SPIFFE ID.
    pub agent: String,
    /// Capability, `unlisted` where the catalog had none.
    pub capability: String,
    /// Data class, 0 to 3.
    #[serde(default, deserialize_with = "class")]
    pub class: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<SeenAmount>,
    /// `host:port`, as the agent dialled it, or the name of a destination of its catalog.
    pub destination: String,
    /// HTTP method, JSON-RPC method of an MCP message that calls no tool, or [`writ_catalog::CUSTOM_ACTION`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// MCP tool, or the capability that a custom action was asked for as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// `allow` or `deny`.
    pub decision: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(default = "once")]
    pub count: u64,
    #[serde(default)]
    pub first: String,
    #[serde(default)]
    pub last: String,
    /// What a record has besides.
    #[serde(skip)]
    pub recorded: Option<Recorded>,
}

/// An amount as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeenAmount {
    /// Exact decimal.
    pub value: String,
    #[serde(default)]
    pub unit: String,
}

/// What a record says of an action besides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recorded {
    /// In the smallest part of the unit, at the scale of the catalog of that time.
    pub amount: U256,
    pub spent: U256,
    pub calls: u64,
    pub window: u32,
    pub binding: u8,
    pub risk: u8,
    /// Unix seconds.
    pub time: u64,
}

fn once() -> u64 {
    1
}

fn class<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    let value = Value::deserialize(from)?;
    let text = match &value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    class_level(&text).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "class {text}: write public, internal, confidential, restricted or 0 to 3"
        ))
    })
}

/// Where actions are read from.
#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "What was seen")]
pub struct Source {
    /// File with actions: a JSON array as in the ConfigMap writ-seen-POLICY.
    #[arg(long, value_name = "FILE", conflicts_with = "log")]
    pub seen: Option<PathBuf>,
    /// A sidecar's record: the log, or the folder that holds its log.redb.
    #[arg(long, value_name = "PATH")]
    pub log: Option<PathBuf>,
}

impl Source {
    /// Reads them, with a name for where they are from.
    pub async fn read(
        &self,
        policy: Option<&str>,
        cluster: &ClusterArgs,
    ) -> Result<(String, Vec<Seen>), CliError> {
        match (&self.seen, &self.log, policy) {
            (Some(file), ..) => {
                let refuse = |reason: String| CliError::File {
                    path: file.clone(),
                    reason,
                };
                let seen = parse(&read_text(file)?).map_err(refuse)?;
                Ok((file.display().to_string(), seen))
            }
            (_, Some(log), _) => {
                let path = log.clone();
                let read = tokio::task::spawn_blocking(move || of_record(&path));
                let seen = read.await.map_err(|e| CliError::Output(e.to_string()))??;
                Ok((log.display().to_string(), seen))
            }
            (None, None, Some(policy)) => of_cluster(policy, cluster).await,
            (None, None, None) => Err(CliError::Argument(
                "name what was seen: an AgentPolicy of the cluster, --seen FILE, or --log PATH of a record"
                    .to_owned(),
            )),
        }
    }
}

async fn of_cluster(policy: &str, args: &ClusterArgs) -> Result<(String, Vec<Seen>), CliError> {
    let cluster = args.connect().await?;
    let namespace = cluster.namespace();
    let name = format!("writ-seen-{policy}");
    let map: Option<ConfigMap> = cluster.get(namespace, &name).await?;
    let text = map
        .and_then(|m| m.data)
        .and_then(|mut data| data.remove(KEY));
    let text = text.ok_or_else(|| {
        CliError::Argument(format!(
            "nothing was seen of {namespace}/{policy} yet: there is no ConfigMap {name} with {KEY}. Its sidecars report \
             what they decide: see with `writ status {namespace}` whether one runs, or read a sidecar's record (--log)"
        ))
    })?;
    let seen = parse(&text)
        .map_err(|e| CliError::Argument(format!("ConfigMap {namespace}/{name}: {e}")))?;
    Ok((format!("{namespace}/{policy}"), seen))
}

/// A JSON array of actions.
pub fn parse(text: &str) -> Result<Vec<Seen>, String> {
    let seen: Vec<Seen> = serde_json::from_str(text).map_err(|e| {
        format!("{e}; a JSON array of actions is read, whose form is in docs/kubectl.md")
    })?;
    if seen.len() > MOST {
        return Err(format!("{} actions, at most {MOST} are read", seen.len()));
    }
    Ok(seen)
}

/// Every decision of a record, those that differ in nothing but time counted together.
fn of_record(path: &Path) -> Result<Vec<Seen>, CliError> {
    let reader: LogReader = crate::log::open(path)?;
    let mut all: BTreeMap<String, Seen> = BTreeMap::new();
    crate::log::each(&reader, 0, |_, bytes| {
        let record = Record::decode(bytes).map_err(writ_ledger::LedgerError::from)?;
        let (decision, made) = match &record.entry {
            Entry::Allow(made) => ("allow", made),
            Entry::Denial(made) => ("deny", made),
            _ => return Ok(()),
        };
        let seen = of_decision(made, decision, record.time);
        // Amounts and budgets are of one action; what else there is tells actions apart.
        let key = serde_json::to_string(&Seen {
            first: String::new(),
            last: String::new(),
            ..seen.clone()
        })
        .map_err(|e| CliError::Output(e.to_string()))?;
        let amount = seen.recorded.as_ref().map(|r| r.amount).unwrap_or_default();
        let key = format!("{key}{amount}");
        if all.len() >= MOST && !all.contains_key(&key) {
            return Err(CliError::Argument(format!(
                "the record has more than {MOST} distinct actions"
            )));
        }
        all.entry(key)
            .and_modify(|there| {
                there.count = there.count.saturating_add(1);
                there.last.clone_from(&seen.last);
                there.recorded = there.recorded.take().max(seen.recorded.clone());
            })
            .or_insert(seen);
        Ok(())
    })?;
    Ok(all.into_values().collect())
}

fn of_decision(made: &Decision, decision: &str, time: u64) -> Seen {
    let claims = made.jws.as_deref().and_then(|jws| {
        let payload = from_base64url(jws.split('.').nth(1)?)?;
        serde_json::from_slice::<Value>(&payload).ok()
    });
    let claim = |pointer: &str| Some(claims.as_ref()?.pointer(pointer)?.as_str()?.to_owned());
    let action = made.action.as_deref().and_then(Action::from_abi);
    let target = url::Url::parse(&made.names.target).ok();
    let is_http = |url: &url::Url| matches!(url.scheme(), "http" | "https");
    // `tls://host:port` stays as it is: nothing was read of it.
    let destination = target.as_ref().filter(|url| is_http(url)).and_then(|url| {
        Some(format!(
            "{}:{}",
            url.host_str()?,
            url.port_or_known_default()?
        ))
    });
    Seen {
        agent: made.names.agent.clone(),
        capability: made.names.capability.clone(),
        class: action.as_ref().map_or(0, |a| a.classification),
        resource: made.names.resource.clone(),
        amount: None,
        destination: destination.unwrap_or_else(|| made.names.target.clone()),
        method: claim("/act/http/method"),
        path: claim("/act/http/path").or_else(|| {
            let url = target.filter(is_http)?;
            Some(url.path().to_owned())
        }),
        tool: None,
        decision: decision.to_owned(),
        reason: Some(made.reason.clone()),
        rule: claim("/pol/rule"),
        count: 1,
        first: rfc3339(time),
        last: rfc3339(time),
        recorded: action.map(|a| Recorded {
            amount: a.amount,
            spent: a.spent,
            calls: a.calls,
            window: a.window,
            binding: a.binding,
            risk: a.risk,
            time: a.time,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agreed_form_is_read_and_written_alike() {
        let text = r#"[{"agent":"spiffe://example.org/ns/shop/sa/buyer","capability":"pay.transfer","class":"confidential",
            "resource":"7","amount":{"value":"12.50","unit":"EUR"},"destination":"pay.shop:80","method":"POST",
            "path":"/v1/pay","decision":"deny","reason":"amount-over-limit","count":3,
            "first":"2026-01-01T00:00:00Z","last":"2026-01-02T00:00:00Z"}]"#;
        let seen = parse(text).unwrap();
        assert_eq!((seen[0].class, seen[0].count), (2, 3));
        let again = parse(&serde_json::to_string(&seen).unwrap()).unwrap();
        assert_eq!(seen, again);
    }

    #[test]
    fn a_class_that_is_none_is_refused() {
        let text = r#"[{"agent":"a","capability":"b.c","class":"secret","destination":"d:1","decision":"deny"}]"#;
        assert!(parse(text).unwrap_err().contains("secret"));
    }
}
