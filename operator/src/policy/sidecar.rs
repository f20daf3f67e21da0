//! The configuration that a policy's sidecars read. No I/O.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use writ_api::{AgentPolicySpec, ChainSpec, Contracts, Head, InboundProtocol, Mode};

use super::Admitted;
use super::want::{Invalid, Want, WantedAgent};
use crate::RelayAt;

/// Most bytes of a ConfigMap's data, with room for its metadata below the API server's 1 MiB.
const MAX_BYTES: usize = 1_000_000;
/// Where the webhook mounts things.
const CONFIG: &str = "/etc/writ";
const RECORD: &str = "/var/lib/writ/record";
const KEYS: &str = "/run/writ/keys/ca";
const BUNDLE: &str = "/run/writ/trust/bundle.pem";
const SOCKETS: &str = "/run/spire/sockets";
const HEADER: &str = "# Kept by writ-operator: changes are undone. Change the AgentPolicy.\n";

/// What one service account's sidecars are told.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The policy.
    pub spec: &'a AgentPolicySpec,
    /// Its chain.
    pub chain: &'a ChainSpec,
    /// The chain's contracts.
    pub contracts: &'a Contracts,
    /// What the policy wants, and the agent. `None`: the pods only receive.
    pub agent: Option<(&'a Want, &'a WantedAgent)>,
    /// The catalog: the one that the chain pins now.
    pub catalog: Option<&'a str>,
    /// Who may call.
    pub admitted: &'a Admitted,
    /// File name of the Workload API's socket.
    pub socket: &'a str,
    /// Trust domain.
    pub trust_domain: &'a str,
    /// The relay, where there is one. It serves a chain that names witnesses.
    pub relay: Option<&'a RelayAt>,
}

/// The data of the ConfigMap. JSON is YAML, and says of no salt that it is a number.
///
/// # Errors
/// [`Invalid`]: it is larger than a ConfigMap may be.
pub fn data(told: &Told<'_>) -> Result<BTreeMap<String, String>, Invalid> {
    let mut files = BTreeMap::new();
    let written = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    files.insert(
        "sidecar.yaml".to_owned(),
        format!("{HEADER}{}\n", written(&config(told))),
    );
    if let Some(catalog) = told.catalog {
        files.insert("catalog.yaml".to_owned(), format!("{catalog}\n"));
    }
    for (name, pem) in &told.spec.tls.authorities {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > 32 || name == "webpki" || !name.bytes().all(plain) {
            return Err(Invalid {
                reason: "InvalidAuthority",
                message: format!(
                    "tls.authorities: {name:?}: names have up to 32 lower-case letters, digits and hyphens, and webpki \
                     is taken"
                ),
            });
        }
        files.insert(authority(name), pem.clone());
    }
    for (hash, catalog) in &told.admitted.catalogs {
        files.insert(caller(hash), format!("{catalog}\n"));
    }
    let bytes: usize = files
        .iter()
        .map(|(name, text)| name.len() + text.len())
        .sum();
    if bytes > MAX_BYTES {
        return Err(Invalid {
            reason: "ConfigTooLarge",
            message: format!(
                "catalogs and authorities make {bytes} bytes, a ConfigMap holds {MAX_BYTES}: name fewer callers, or \
                 split the catalog"
            ),
        });
    }
    Ok(files)
}

fn authority(name: &str) -> String {
    format!("ca-{name}.pem")
}

fn caller(hash: &str) -> String {
    format!("caller-{}.yaml", hash.get(..16).unwrap_or(hash))
}

fn config(told: &Told<'_>) -> Value {
    let mut config = Map::new();
    if told.spec.mode == Mode::Observe {
        config.insert("mode".to_owned(), json!("observe"));
    }
    let socket = format!("{SOCKETS}/{}", told.socket);
    config.insert("identity".to_owned(), json!({"workloadApi": socket}));
    if let Some((want, agent)) = told.agent {
        let mut section = json!({
            "salt": hex::encode(agent.salt),
            "policySalt": hex::encode(want.salt),
            "model": hex::encode(agent.record.model),
        });
        let sbom = told.spec.model.as_ref().and_then(|m| m.sbom.clone());
        set(&mut section, "sbom", sbom.map(Value::from));
        config.insert("agent".to_owned(), section);
    }
    config.insert("chain".to_owned(), chain(told));
    if let Some(relay) = relay(told) {
        config.insert("state".to_owned(), json!({"relay": relay}));
    }
    if told.catalog.is_some() {
        config.insert(
            "catalog".to_owned(),
            json!(format!("{CONFIG}/catalog.yaml")),
        );
    }
    let mut record = json!({"directory": RECORD});
    set(
        &mut record,
        "maxBytes",
        told.spec.record.max_bytes.map(Value::from),
    );
    config.insert("record".to_owned(), record);
    config.insert("outbound".to_owned(), outbound(told));
    if !told.spec.inbound.is_empty() {
        config.insert("inbound".to_owned(), inbound(told.spec));
    }
    config.insert("callers".to_owned(), callers(told));
    Value::Object(config)
}

fn chain(told: &Told<'_>) -> Value {
    let mut chain = json!({
        "chainId": told.chain.chain_id,
        "endpoints": told.chain.endpoints,
        "quorum": told.chain.quorum,
        "agentRegistry": told.contracts.agent_registry,
        "policyRegistry": told.contracts.policy_registry,
        "anchor": told.contracts.anchor,
        "head": match told.chain.head { Head::Latest => "latest", Head::Safe => "safe" },
    });
    let mut staleness = json!({});
    set(
        &mut staleness,
        "fresh",
        told.spec.staleness.fresh.clone().map(Value::from),
    );
    set(
        &mut staleness,
        "max",
        told.spec.staleness.max.clone().map(Value::from),
    );
    set(&mut chain, "staleness", Some(staleness));
    chain
}

fn relay(told: &Told<'_>) -> Option<Value> {
    let (at, witnesses) = told.relay.zip(told.chain.witnesses.as_ref())?;
    let ids: Vec<&str> = witnesses
        .members
        .iter()
        .map(|member| member.spiffe_id.as_str())
        .collect();
    Some(json!({
        "address": at.address,
        "spiffeId": at.spiffe_id,
        "witnesses": ids,
        "needed": witnesses.needed,
        "skew": format!("{}s", crate::relay::core::SKEW),
    }))
}

fn outbound(told: &Told<'_>) -> Value {
    let authorities: Map<String, Value> = told
        .spec
        .tls
        .authorities
        .keys()
        .map(|name| (name.clone(), json!(format!("{CONFIG}/{}", authority(name)))))
        .collect();
    let mut outbound = json!({
        "localPorts": told.spec.pod_local_ports,
        "authorities": authorities,
    });
    let intercept = told.spec.tls.intercept;
    let folder = intercept.then(|| json!({"keyDirectory": KEYS, "bundle": BUNDLE}));
    set(&mut outbound, "intercept", folder);
    outbound
}

fn inbound(spec: &AgentPolicySpec) -> Value {
    let ports = spec.inbound.iter().map(|port| {
        let mut section = json!({
            "port": port.port,
            "app": format!("127.0.0.1:{}", port.app_port),
            "authorities": port.authorities,
            "protocol": match port.protocol { InboundProtocol::Http => "http", InboundProtocol::Mcp => "mcp" },
        });
        set(&mut section, "bodyLimit", port.body_limit.map(Value::from));
        section
    });
    Value::Array(ports.collect())
}

fn callers(told: &Told<'_>) -> Value {
    let admitted = told.admitted;
    let mut allow: Vec<String> = admitted.ids.iter().cloned().collect();
    if allow.is_empty() && admitted.restricted {
        // An empty list would admit everybody. Nobody has this ID: agents' are /ns/<namespace>/sa/<account>.
        allow.push(format!("spiffe://{}/writ/nobody", told.trust_domain));
    }
    let catalogs: Vec<String> = admitted
        .catalogs
        .keys()
        .map(|hash| format!("{CONFIG}/{}", caller(hash)))
        .collect();
    let mut section = json!({"catalogs": catalogs, "allow": allow, "agents": admitted.keys});
    set(
        &mut section,
        "clockSkew",
        told.spec.callers.clock_skew.clone().map(Value::from),
    );
    section
}

fn set(object: &mut Value, name: &str, value: Option<Value>) {
    if let (Some(fields), Some(value)) = (object.as_object_mut(), value) {
        fields.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::want::tests::{policy, wanted};

    fn chain_spec() -> ChainSpec {
        serde_json::from_value(
            json!({
                "chainId": 84532, "endpoints": ["http://rpc:8545"], "quorum": 1,
                "witnesses": {"members": [{"spiffeId": "spiffe://example.org/w", "address": "w:15910"}]},
            }),
        )
        .unwrap()
    }

    fn contracts() -> Contracts {
        let address = |n: u8| format!("0x{}", hex::encode([n; 20]));
        Contracts {
            agent_registry: address(1),
            policy_registry: address(2),
            approval_registry: address(3),
            anchor: address(4),
            multisig: address(5),
            timelock: address(6),
        }
    }

    fn files(
        spec: &AgentPolicySpec,
        want: Option<&Want>,
        admitted: &Admitted,
    ) -> Result<BTreeMap<String, String>, Invalid> {
        let relay = RelayAt {
            address: "writ-relay.writ-system.svc:15900".to_owned(),
            spiffe_id: "spiffe://example.org/ns/writ-system/sa/writ-relay".to_owned(),
        };
        data(&Told {
            relay: Some(&relay),
            spec,
            chain: &chain_spec(),
            contracts: &contracts(),
            agent: want.map(|w| (w, &w.agents[0])),
            catalog: want.map(|w| w.catalog.as_str()),
            admitted,
            socket: "agent.sock",
            trust_domain: "example.org",
        })
    }

    fn sidecar(files: &BTreeMap<String, String>) -> Value {
        serde_saphyr::from_str(&files["sidecar.yaml"]).unwrap()
    }

    /// Every option set, so that each is compared with what the sidecar reads.
    fn full() -> AgentPolicySpec {
        let mut spec = policy().spec;
        spec.model = Some(writ_api::Model {
            sha256: "ab".repeat(32),
            sbom: Some("cd".repeat(32)),
        });
        spec.pod_local_ports = vec![6379];
        spec.tls.intercept = true;
        spec.tls.authorities.insert(
            "partner".to_owned(),
            "-----BEGIN CERTIFICATE-----".to_owned(),
        );
        spec.staleness = writ_api::Staleness {
            fresh: Some("30s".to_owned()),
            max: Some("2m".to_owned()),
        };
        spec.record.max_bytes = Some(64 << 20);
        spec.callers.clock_skew = Some("5s".to_owned());
        spec.inbound = vec![writ_api::Inbound {
            port: 8443,
            app_port: 8080,
            protocol: InboundProtocol::Mcp,
            authorities: vec!["tool.shop:80".to_owned()],
            body_limit: Some(4096),
        }];
        spec
    }

    #[test]
    fn what_is_written_is_what_the_sidecars_schema_takes() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../docs/schemas/sidecar.schema.json"
        );
        let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let want = wanted(&policy()).unwrap().unwrap();
        let admitted = Admitted {
            ids: ["spiffe://example.org/ns/shop/sa/x".to_owned()].into(),
            keys: ["ab".repeat(32)].into(),
            catalogs: [("ef".repeat(32), "{}".to_owned())].into(),
            restricted: true,
            missing: Vec::new(),
        };
        for (spec, want) in [
            (policy().spec, Some(&want)),
            (full(), Some(&want)),
            (full(), None),
        ] {
            let config = sidecar(&files(&spec, want, &admitted).unwrap());
            let errors: Vec<String> = validator
                .iter_errors(&config)
                .map(|e| e.to_string())
                .collect();
            assert!(errors.is_empty(), "{errors:?}\n{config:#}");
        }
    }

    #[test]
    fn a_relay_is_told_of_with_the_chains_witnesses() {
        let files = files(&full(), None, &Admitted::default()).unwrap();
        let relay = &sidecar(&files)["state"]["relay"];
        assert_eq!(relay["address"], "writ-relay.writ-system.svc:15900");
        assert_eq!(relay["witnesses"], json!(["spiffe://example.org/w"]));
        assert_eq!(relay["needed"], json!(1));
    }

    #[test]
    fn the_salt_reads_back_as_text_whatever_its_digits() {
        let mut want = wanted(&policy()).unwrap().unwrap();
        want.agents[0].salt = [0x10; 16];
        want.salt = hex::decode("1e101010101010101010101010101010")
            .unwrap()
            .try_into()
            .unwrap();
        let config = sidecar(&files(&policy().spec, Some(&want), &Admitted::default()).unwrap());
        assert_eq!(config["agent"]["salt"], "10".repeat(16));
        assert_eq!(
            config["agent"]["policySalt"],
            "1e101010101010101010101010101010"
        );
    }

    #[test]
    fn the_catalog_in_the_file_has_the_hash_that_is_pinned() {
        let want = wanted(&policy()).unwrap().unwrap();
        let files = files(&policy().spec, Some(&want), &Admitted::default()).unwrap();
        let read = writ_catalog::Catalog::from_yaml(&files["catalog.yaml"]).unwrap();
        assert_eq!(read.hash(), want.catalog_hash);
    }

    #[test]
    fn callers_that_are_named_and_not_there_yet_admit_nobody_else() {
        let admitted = Admitted {
            restricted: true,
            ..Admitted::default()
        };
        let config = sidecar(&files(&full(), None, &admitted).unwrap());
        assert_eq!(
            config["callers"]["allow"],
            json!(["spiffe://example.org/writ/nobody"])
        );
        let open = sidecar(&files(&full(), None, &Admitted::default()).unwrap());
        assert_eq!(open["callers"]["allow"], json!([]));
    }

    #[test]
    fn pods_that_only_receive_get_no_agent_and_no_catalog() {
        let files = files(&full(), None, &Admitted::default()).unwrap();
        assert!(!files.contains_key("catalog.yaml"));
        let config = sidecar(&files);
        assert!(config.get("agent").is_none() && config.get("catalog").is_none());
    }

    #[test]
    fn an_authority_whose_name_is_no_file_name_is_refused() {
        for name in ["", "../x", "webpki", "A"] {
            let mut spec = full();
            spec.tls
                .authorities
                .insert(name.to_owned(), "-----BEGIN CERTIFICATE-----".to_owned());
            assert_eq!(
                files(&spec, None, &Admitted::default()).unwrap_err().reason,
                "InvalidAuthority",
                "{name}"
            );
        }
    }

    #[test]
    fn more_than_a_config_map_holds_is_refused() {
        let admitted = Admitted {
            catalogs: [("ef".repeat(32), "x".repeat(MAX_BYTES))].into(),
            ..Admitted::default()
        };
        assert_eq!(
            files(&full(), None, &admitted).unwrap_err().reason,
            "ConfigTooLarge"
        );
    }
}
