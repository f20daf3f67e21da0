use proptest::prelude::*;

use super::*;
use crate::policy::seen::SeenAmount;
use crate::policy::simulate::report;

const BASE: &str = r#"
apiVersion: writ.dev/v1alpha1
kind: AgentPolicy
metadata: {name: buyers, namespace: shop}
spec:
  mode: Observe
  selector: {matchLabels: {app: buyer}}
  catalog:
    version: 1
    name: shop
    destinations:
      - {name: pay, host: pay.shop, port: 80, peer: {spiffe: spiffe://example.org/ns/shop/sa/pay}, upstream: {mode: mtls, port: 8443}, agent_tls: originate, envelope: stamp, pep: sidecar}
      - {name: tools, host: tools.shop, port: 80, peer: unverified, upstream: {mode: plain}, agent_tls: originate, envelope: withhold, pep: none}
    entries:
      - {name: transfer, destination: pay, protocol: http, method: POST, path: "/v1/accounts/{id}/transfers", capability: payments.transfer, class: internal, window: 3600, amount: {pointer: /amount, scale: 2, unit: EUR}}
      - {name: balance, destination: pay, protocol: http, method: GET, path: "/v1/accounts/{id}", capability: payments.read, class: internal}
      - {name: invoice, destination: tools, protocol: mcp, path: /mcp, tool: pay_invoice, capability: invoices.pay, class: confidential, amount: {pointer: /total, scale: 2, unit: EUR}}
    presets:
      - {preset: mcp-base, destination: tools, path: /mcp, class: internal}
  rules: {version: 1, scale: 2, unit: EUR, rules: []}
"#;

fn base() -> Written {
    parse(BASE, "base").unwrap()
}

fn frame(base: Option<&Written>) -> Frame<'_> {
    Frame {
        name: "buyers".to_owned(),
        namespace: Some("shop".to_owned()),
        source: "shop/buyers".to_owned(),
        base,
    }
}

fn agent() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("spiffe://example.org/ns/shop/sa/buyer".to_owned()),
        Just("spiffe://example.org/ns/shop/sa/seller".to_owned()),
        Just("spiffe://other.example/ns/x/sa/buyer".to_owned()),
    ]
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("pay.shop:80"),
        Just("tools.shop:80"),
        Just("api.example.com:443"),
        Just("api.example.com:8080"),
        Just("api-example.com:443"),
        Just("10.1.2.3:9000"),
        Just("[2001:db8::1]:443"),
        Just("redis:6379"),
        Just("db.data.svc.cluster.local:5432"),
    ]
    .prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        3 => prop_oneof![Just("v1"), Just("accounts"), Just("orders"), Just("list"), Just("items"), Just("mcp"), Just("y"), Just("1e3x")]
            .prop_map(str::to_owned),
        2 => "[0-9]{1,6}",
        1 => Just("3f2504e0-4f89-11d3-9a0c-0305e82c3301".to_owned()),
        1 => Just("caf%C3%A9".to_owned()),
        1 => "[a-zA-Z0-9._~!$&'()*+,=:@-]{1,12}",
    ];
    (proptest::collection::vec(segment, 0..5), any::<bool>()).prop_map(|(segments, slash)| {
        let end = if slash && !segments.is_empty() {
            "/"
        } else {
            ""
        };
        format!("/{}{end}", segments.join("/"))
    })
}

#[derive(Debug, Clone)]
enum What {
    Http(&'static str, String),
    Tool(String),
    Message(&'static str),
    Nothing,
}

fn what() -> impl Strategy<Value = What> {
    let method = prop_oneof![
        Just("GET"),
        Just("POST"),
        Just("PUT"),
        Just("DELETE"),
        Just("HEAD")
    ];
    let message = prop_oneof![
        Just("initialize"),
        Just("tools/list"),
        Just("notifications/initialized"),
        Just("resources/read")
    ];
    prop_oneof![
        6 => (method, path()).prop_map(|(method, path)| What::Http(method, path)),
        2 => prop_oneof![Just("pay_invoice".to_owned()), "[a-z_]{1,10}", "[!-~]{1,20}"].prop_map(What::Tool),
        1 => message.prop_map(What::Message),
        1 => Just(What::Nothing),
    ]
}

fn action() -> impl Strategy<Value = Seen> {
    let reason = prop_oneof![
        6 => Just("no-rule"), 3 => Just("unlisted"), 1 => Just("unlisted-destination"), 1 => Just("amount-over-limit"),
        1 => Just("class-over-ceiling"), 1 => Just("denied-by-rule"), 1 => Just("approval-required"),
        1 => Just("path-dots"), 1 => Just("require-mismatch"),
    ];
    let amount = proptest::option::weighted(0.8, (0_u64..10_000_000, 0_u32..100));
    (
        agent(),
        host(),
        what(),
        0_u8..4,
        amount,
        any::<bool>(),
        reason,
        1_u64..5_000,
    )
        .prop_map(
            |(agent, destination, what, class, amount, allowed, reason, count)| {
                let mut seen = Seen {
                    agent,
                    capability: "unlisted".to_owned(),
                    class,
                    resource: None,
                    amount: amount.map(|(whole, cents)| SeenAmount {
                        value: format!("{whole}.{cents:02}"),
                        unit: "EUR".to_owned(),
                    }),
                    destination,
                    method: None,
                    path: None,
                    tool: None,
                    decision: if allowed { "allow" } else { "deny" }.to_owned(),
                    reason: Some(if allowed { "allowed" } else { reason }.to_owned()),
                    rule: None,
                    count,
                    first: "2026-01-01T00:00:00Z".to_owned(),
                    last: "2026-01-02T00:00:00Z".to_owned(),
                    recorded: None,
                };
                match what {
                    What::Http(method, path) => {
                        seen.method = Some(method.to_owned());
                        seen.path = Some(path);
                    }
                    What::Tool(tool) => {
                        seen.path = Some("/mcp".to_owned());
                        seen.tool = Some(tool);
                    }
                    What::Message(method) => {
                        seen.method = Some(method.to_owned());
                        seen.path = Some("/mcp".to_owned());
                    }
                    What::Nothing => {}
                }
                seen
            },
        )
}

/// What `writ policy simulate` says of a suggestion.
fn simulated(suggestion: &Suggestion, seen: &[Seen]) -> crate::policy::simulate::Report {
    let written = parse(&suggestion.yaml, "again").unwrap();
    let engine = Engine::local(&written).unwrap();
    report(&written, &engine, "test".to_owned(), seen, 0).unwrap()
}

fn check(seen: &[Seen], base: Option<&Written>) -> Result<(), TestCaseError> {
    let suggestion = suggest(seen, &frame(base)).unwrap();
    for out in &suggestion.left_out {
        prop_assert!(
            !out.why.starts_with("it would be denied"),
            "the draft did not foresee: {out:?}\n{}",
            suggestion.yaml
        );
    }
    let kept: Vec<Seen> = seen
        .iter()
        .enumerate()
        .filter(|(at, _)| suggestion.left_out.iter().all(|out| out.at != *at))
        .map(|(_, seen)| seen.clone())
        .collect();
    let report = simulated(&suggestion, &kept);
    prop_assert_eq!(report.now_denied.count.actions, 0, "{}", suggestion.yaml);
    prop_assert_eq!(report.still_denied.count.actions, 0, "{}", suggestion.yaml);
    prop_assert_eq!(report.unknown.count.actions, 0, "{}", suggestion.yaml);
    // Whoever was not seen to do it may not.
    let others: Vec<Seen> = kept
        .iter()
        .map(|seen| Seen {
            agent: "spiffe://example.org/ns/shop/sa/nobody".to_owned(),
            ..seen.clone()
        })
        .collect();
    let report = simulated(&suggestion, &others);
    let allowed = report.now_allowed.count.actions + report.still_allowed.actions;
    prop_assert_eq!(allowed, 0, "{}", suggestion.yaml);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_suggested_denies_nothing_that_was_seen_but_what_it_lists(seen in proptest::collection::vec(action(), 0..24)) {
        check(&seen, None)?;
    }

    #[test]
    fn what_is_suggested_on_a_base_denies_nothing_that_was_seen_but_what_it_lists(seen in proptest::collection::vec(action(), 0..24)) {
        let base = base();
        check(&seen, Some(&base))?;
    }

    #[test]
    fn plain_requests_that_no_rule_named_are_all_allowed(paths in proptest::collection::vec("(/[a-z0-9]{1,8}){1,4}", 1..20)) {
        let seen: Vec<Seen> = paths.iter().map(|path| get("api.example.com:443", path)).collect();
        let suggestion = suggest(&seen, &frame(None)).unwrap();
        prop_assert!(suggestion.left_out.is_empty(), "{:?}\n{}", suggestion.left_out, suggestion.yaml);
    }
}

fn get(destination: &str, path: &str) -> Seen {
    Seen {
        agent: "spiffe://example.org/ns/shop/sa/buyer".to_owned(),
        capability: "unlisted".to_owned(),
        class: 1,
        resource: None,
        amount: None,
        destination: destination.to_owned(),
        method: Some("GET".to_owned()),
        path: Some(path.to_owned()),
        tool: None,
        decision: "deny".to_owned(),
        reason: Some("unlisted".to_owned()),
        rule: None,
        count: 3,
        first: "2026-01-01T00:00:00Z".to_owned(),
        last: "2026-01-02T00:00:00Z".to_owned(),
        recorded: None,
    }
}

#[test]
fn neither_another_path_nor_another_host_nor_a_higher_class_is_allowed() {
    let suggestion = suggest(&[get("api.example.com:443", "/orders/7")], &frame(None)).unwrap();
    let others = [
        get("api.example.com:443", "/orders/7/delete"),
        get("api.example.com:443", "/invoices/7"),
        get("other.example.com:443", "/orders/7"),
        Seen {
            class: 2,
            ..get("api.example.com:443", "/orders/7")
        },
        Seen {
            method: Some("DELETE".to_owned()),
            ..get("api.example.com:443", "/orders/7")
        },
    ];
    let report = simulated(&suggestion, &others);
    assert_eq!(report.still_denied.count.actions, 5, "{}", suggestion.yaml);
    let same_shape = simulated(&suggestion, &[get("api.example.com:443", "/orders/8")]);
    assert_eq!(same_shape.now_allowed.count.actions, 1);
}

#[test]
fn amounts_are_allowed_up_to_the_largest_seen_rounded_up() {
    let base = base();
    let transfer = |value: &str| Seen {
        method: Some("POST".to_owned()),
        amount: Some(SeenAmount {
            value: value.to_owned(),
            unit: "EUR".to_owned(),
        }),
        ..get("pay.shop:80", "/v1/accounts/7/transfers")
    };
    let suggestion = suggest(
        &[transfer("12.50"), transfer("437.21")],
        &frame(Some(&base)),
    )
    .unwrap();
    assert!(
        suggestion.yaml.contains("max_amount: \"440.00\""),
        "{}",
        suggestion.yaml
    );
    let report = simulated(&suggestion, &[transfer("440.00"), transfer("440.01")]);
    assert_eq!(
        (
            report.now_allowed.count.actions,
            report.still_denied.count.actions
        ),
        (1, 1)
    );
}

#[test]
fn more_actions_than_a_contract_has_room_for_share_rules() {
    let seen: Vec<Seen> = (0..300)
        .map(|n| {
            get(
                "api.example.com:443",
                &format!("/{}", "x".repeat(n % 20 + 1) + &"y".repeat(n / 20 + 1)),
            )
        })
        .collect();
    let suggestion = suggest(&seen, &frame(None)).unwrap();
    assert!(suggestion.left_out.is_empty());
    assert!(suggestion.yaml.contains("Too many actions for a rule each"));
    assert_eq!(simulated(&suggestion, &seen).now_allowed.count.actions, 300);
}

#[test]
fn what_somebody_denied_by_name_or_must_approve_is_left_out_and_listed() {
    let denied = |reason: &str| Seen {
        reason: Some(reason.to_owned()),
        ..get("api.example.com:443", "/orders")
    };
    let seen = [
        denied("denied-by-rule"),
        denied("approval-required"),
        denied("path-dot-segment"),
    ];
    let suggestion = suggest(&seen, &frame(None)).unwrap();
    assert_eq!(suggestion.left_out.len(), 3);
    assert!(suggestion.yaml.contains("# Left out:"));
}

#[test]
fn what_was_seen_cannot_break_out_of_a_comment() {
    let mut nasty = get("api.example.com:443", "/a");
    nasty.decision = "deny".to_owned();
    nasty.reason = Some("x\nspec: {mode: Observe}\u{85}y\u{2028}z".to_owned());
    nasty.method = Some("GET\n- evil: true".to_owned());
    let suggestion = suggest(&[nasty], &frame(None)).unwrap();
    for line in suggestion.yaml.lines() {
        assert!(!line.contains("evil") || line.starts_with('#'), "{line}");
        assert!(
            !line.contains("Observe}") || line.starts_with('#'),
            "{line}"
        );
    }
}

/// As a sidecar tells of an action that its local API was asked for.
fn custom(destination: &str, capability: &str) -> Seen {
    Seen {
        method: Some(writ_catalog::CUSTOM_ACTION.to_owned()),
        path: None,
        tool: Some(capability.to_owned()),
        ..get(destination, "/")
    }
}

#[test]
fn an_action_of_the_local_api_is_suggested_where_an_entry_names_it_and_listed_where_none_does() {
    let entry = "      - {name: sign, destination: pay, protocol: custom, capability: payouts.sign, class: internal}\n";
    let base = BASE.replace("    presets:\n", &format!("{entry}    presets:\n"));
    let base = parse(&base, "base").unwrap();
    let seen = [
        custom("pay.shop:80", "payouts.sign"),
        custom("pay.shop:80", "payouts.cancel"),
        custom("api.example.com:443", "payouts.sign"),
        // Not that entry, though it has its name.
        custom("pay.shop:80", "payments.read"),
    ];
    let suggestion = suggest(&seen, &frame(Some(&base))).unwrap();
    assert_eq!(suggestion.allowed, 1, "{}", suggestion.yaml);
    let left: Vec<_> = suggestion.left_out.iter().map(|out| out.at).collect();
    assert_eq!(left, [1, 2, 3], "{}", suggestion.yaml);
    for out in &suggestion.left_out {
        assert!(out.why.contains("protocol: custom"), "{}", out.why);
    }
    let told = "custom action payouts.cancel at pay.shop:80";
    assert!(
        suggestion.left_out[0].action.starts_with(told),
        "{:?}",
        suggestion.left_out[0]
    );
    // Nothing is opened to a host for what was no connection to it.
    assert!(
        !suggestion.yaml.contains("host: api.example.com"),
        "{}",
        suggestion.yaml
    );
    let report = simulated(&suggestion, &seen);
    assert_eq!(report.now_allowed.count.actions, 1);
}
