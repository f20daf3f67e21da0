//! Schemas that Kubernetes takes, where the derived ones are not of its form.

use schemars::{Schema, SchemaGenerator, json_schema};

/// An object whose fields another program checks.
pub(crate) fn open_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// PEM certificates by name.
pub(crate) fn authorities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "description": "Certificate authorities (PEM) that the catalog names as `peer: {ca: <name>}`.",
        "maxProperties": 16,
        "additionalProperties": {
            "type": "string",
            "maxLength": 65536,
            "pattern": "^-----BEGIN CERTIFICATE-----",
        },
    })
}

/// The rules as `crates/policy` reads them. A test of the operator compares the two.
///
/// `capability` and `budget` are one value or a list, which Kubernetes' schemas cannot say: the
/// operator checks them.
pub(crate) fn rules(_: &mut SchemaGenerator) -> Schema {
    let text = |description: &str| serde_json::json!({"type": "string", "maxLength": 512, "description": description});
    let number = |minimum: u32, maximum: u32, description: &str| {
        serde_json::json!({
            "type": "integer", "format": "int32", "minimum": minimum, "maximum": maximum, "description": description,
        })
    };
    let list = |values: &[&str], description: &str| {
        serde_json::json!({
            "type": "array", "maxItems": values.len(), "description": description,
            "items": {"type": "string", "enum": values},
        })
    };
    let open = |description: &str| {
        serde_json::json!({
            "x-kubernetes-preserve-unknown-fields": true, "description": description,
        })
    };
    json_schema!({
        "type": "object",
        "description": "What the agents may do, as `writ rules schema` describes it. What no rule allows is denied.",
        "required": ["version", "rules"],
        "properties": {
            "version": number(1, 1, "Version of this format: 1."),
            "scale": number(0, 36, "Decimal places of amounts."),
            "unit": text("Unit of amounts, for people."),
            "rules": {
                "type": "array",
                "description": "The rules. Their order does not matter.",
                "maxItems": 512,
                "items": {
                    "type": "object",
                    "required": ["name", "agent", "capability", "effect"],
                    "properties": {
                        "name": text("Unique name."),
                        "agent": text("SPIFFE ID of an agent of this policy, or `any`."),
                        "capability": open("Capability of the catalog or pattern, one or a list: `payments.*`, `*`."),
                        "effect": {
                            "type": "string",
                            "description": "What the rule says.",
                            "enum": ["deny", "allow", "require-approval"],
                        },
                        "max_amount": text("Largest amount of one action, exact decimal in quotes."),
                        "max_class": {
                            "type": "string",
                            "description": "Highest data class. Required unless the effect is deny.",
                            "enum": ["public", "internal", "confidential", "restricted"],
                        },
                        "max_risk": number(0, 100, "Highest risk. Default 100."),
                        "model": text("SHA-256 of the model that must act, in hex."),
                        "not_before": text("First second in which the rule allows, RFC 3339."),
                        "not_after": text("Last second in which the rule allows, RFC 3339."),
                        "budget": open("`100.00 per 1h`, `20 calls per 60s`, or both in a list."),
                        "bindings": list(&["bound", "unbound", "opaque"], "How bodies may be bound. Default: bound."),
                        "approval_from": text("Amounts from here on need an approval, exact decimal in quotes."),
                        "max_state_age": number(0, 300, "How old the chain's state may be, in seconds. Default 60."),
                        "ttl": number(30, 300, "Life of the envelope in seconds. Default 60."),
                        "tier": number(1, 3, "Assurance tier. Default 2."),
                        "obligations": list(&["receipt", "notify"], "What the target must do besides."),
                    },
                },
            },
        },
    })
}
