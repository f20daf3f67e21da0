//! The definitions: published as they are, and in the form that Kubernetes takes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;

use serde_json::{Value, json};
use writ_api::{AgentPolicySpec, AgentRevocationSpec, ChainSpec, crds, to_yaml};

#[test]
fn the_published_definitions_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds");
    for (name, crd) in crds() {
        let published = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert_eq!(
            published,
            to_yaml(&crd).unwrap(),
            "{name}: run `cargo run -p writ-api --bin writ-crds`"
        );
    }
    let files = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(
        files,
        crds().len(),
        "manifests/crds holds a file of no definition"
    );
}

fn each_schema(value: &Value, path: &str, check: &mut dyn FnMut(&str, &Value)) {
    check(path, value);
    if let Some(properties) = value.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            each_schema(property, &format!("{path}.{name}"), check);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = value.get(inner).filter(|v| v.is_object()) {
            each_schema(inner, &format!("{path}[]"), check);
        }
    }
}

fn published(
    crd: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
) -> Value {
    serde_saphyr::from_str(&to_yaml(crd).unwrap()).unwrap()
}

#[test]
fn every_schema_is_structural() {
    for (name, crd) in crds() {
        let schema = published(&crd)["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        each_schema(&schema, &name, &mut |path, schema| {
            let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
            assert!(
                schema["type"].is_string() || open,
                "{path} has no type: {schema}"
            );
            assert_ne!(schema["additionalProperties"], false, "{path}");
            for word in ["$ref", "oneOf", "definitions", "$defs"] {
                assert!(schema.get(word).is_none(), "{path} uses {word}");
            }
            let format = schema["format"].as_str().unwrap_or("int32");
            assert!(
                ["int32", "int64", "date-time"].contains(&format),
                "{path}: Kubernetes does not know the format {format}"
            );
        });
    }
}

#[test]
fn what_rules_iterate_over_is_bounded_so_that_their_cost_is() {
    for (name, crd) in crds() {
        let schema = published(&crd)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone();
        each_schema(&schema, &name, &mut |path, schema| {
            // A label selector is Kubernetes' own.
            if path.contains(".selector") {
                return;
            }
            if schema["type"] == "array" {
                assert!(schema["maxItems"].is_number(), "{path} has no maxItems");
            }
        });
    }
}

#[test]
fn printer_columns_tell_the_state_before_the_age() {
    for (name, crd) in crds() {
        let columns = published(&crd)["spec"]["versions"][0]["additionalPrinterColumns"].clone();
        let names: Vec<&str> = columns
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert!(
            names.len() >= 5 && *names.last().unwrap() == "Age",
            "{name}: {names:?}"
        );
        assert!(
            published(&crd)["spec"]["versions"][0]["subresources"]["status"].is_object(),
            "{name}"
        );
    }
}

#[test]
fn defaults_are_the_safe_ones() {
    let policy: AgentPolicySpec = serde_json::from_value(json!({"inbound": [
        {"port": 8443, "appPort": 8080, "authorities": ["tool.shop:8443"]}
    ]}))
    .unwrap();
    assert_eq!(policy.mode, writ_api::Mode::Enforce);
    assert!(!policy.tls.intercept);
    assert_eq!(policy.chain, "default");
    let chain: ChainSpec =
        serde_json::from_value(json!({"chainId": 84532, "endpoints": ["http://rpc:8545"]}))
            .unwrap();
    assert!(!chain.development);
    assert_eq!((chain.quorum, chain.keys.owner), (1, None));
}

#[test]
fn an_unknown_field_is_refused() {
    let typo =
        json!({"spiffeId": "spiffe://example.org/ns/a/sa/b", "reason": "stolen", "reson": "x"});
    assert!(serde_json::from_value::<AgentRevocationSpec>(typo).is_err());
}

/// The messages of the rules that refuse a spec, evaluated as the API server does.
fn refusals(plural: &str, spec: &Value, old: Option<&Value>) -> Vec<String> {
    use kube_cel::KubeCelExt;
    use kube_cel::cel::{Context, Program, Value as Cel};
    let (_, crd) = crds()
        .into_iter()
        .find(|(name, _)| name.starts_with(plural))
        .unwrap();
    let schema =
        &published(&crd)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let rules = schema["x-kubernetes-validations"].as_array().unwrap();
    let refuses = |rule: &&Value| {
        let text = rule["rule"].as_str().unwrap();
        if text.contains("oldSelf") && old.is_none() {
            return false;
        }
        // JSON reads as CEL, with numbers that are integers as the API server's are.
        let literal = |value: &Value| {
            let program = Program::compile(&value.to_string()).unwrap();
            program.execute(&Context::default()).unwrap()
        };
        let mut context = Context::default();
        context.register_all();
        context.add_variable_from_value("self", literal(spec));
        if let Some(old) = old {
            context.add_variable_from_value("oldSelf", literal(old));
        }
        match Program::compile(text).unwrap().execute(&context) {
            Ok(Cel::Bool(holds)) => !holds,
            other => panic!("{other:?}: {text}"),
        }
    };
    rules
        .iter()
        .filter(refuses)
        .map(|rule| rule["message"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn contradictory_policies_are_refused_by_the_schema_with_the_fix() {
    let rules = json!({"version": 1, "rules": []});
    let reference = json!({"address": "0x", "codeHash": "0x"});
    let inbound = json!([{"port": 1, "appPort": 2, "authorities": ["a:1"]}, {"port": 1, "appPort": 3, "authorities": ["a:1"]}]);
    for (spec, says) in [
        (
            json!({"rules": rules, "policyRef": reference, "catalog": {}}),
            "name one of them",
        ),
        (json!({"rules": rules}), "catalog"),
        (json!({"catalog": {}, "inbound": [inbound[0]]}), "catalog"),
        (json!({}), "says nothing"),
        (
            json!({"rules": rules, "catalog": {}, "inbound": inbound}),
            "named twice",
        ),
    ] {
        let found = refusals("agentpolicies", &spec, None);
        assert!(found.iter().any(|m| m.contains(says)), "{spec}: {found:?}");
    }
    for spec in [
        json!({"rules": rules, "catalog": {}}),
        json!({"policyRef": reference, "catalog": {}}),
        json!({"inbound": [inbound[0]]}),
    ] {
        assert!(refusals("agentpolicies", &spec, None).is_empty(), "{spec}");
    }
}

#[test]
fn chains_without_contracts_or_with_known_keys_on_a_main_net_are_refused() {
    let chain = |id: u64, development: bool, quorum: u32| json!({"chainId": id, "development": development, "quorum": quorum, "endpoints": ["http://a"]});
    assert!(refusals("chains", &chain(84532, true, 1), None).is_empty());
    assert!(refusals("chains", &chain(84532, false, 1), None)[0].contains("contracts"));
    assert!(refusals("chains", &chain(8453, true, 1), None)[0].contains("main net"));
    assert!(refusals("chains", &chain(84532, true, 2), None)[0].contains("quorum"));
    let moved = refusals(
        "chains",
        &chain(84532, true, 1),
        Some(&chain(31_337, true, 1)),
    );
    assert!(moved[0].contains("cannot change"));
}

#[test]
fn a_revocation_cannot_be_turned_into_another_one() {
    let of = |id: &str| json!({"spiffeId": id, "chain": "default", "reason": "stolen"});
    let (a, b) = (
        of("spiffe://example.org/ns/a/sa/a"),
        of("spiffe://example.org/ns/a/sa/b"),
    );
    assert!(refusals("agentrevocations", &a, Some(&a)).is_empty());
    assert_eq!(refusals("agentrevocations", &b, Some(&a)).len(), 1);
}
