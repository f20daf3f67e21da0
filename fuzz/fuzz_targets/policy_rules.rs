//! Any text: the rule compiler refuses it or gives rules that the contract accepts.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use writ_policy::rules::{Names, Ruleset, compile, explain};

fuzz_target!(|text: &str| {
    let Ok(ruleset) = Ruleset::from_yaml(text) else { return };
    let agents = BTreeMap::from([("a".to_owned(), [1; 16])]);
    let capabilities = ["mail.send", "payments.refund", "payments.transfer"].map(String::from);
    let names = Names { salt: &[2; 16], agents: &agents, capabilities: &capabilities };
    let Ok(compiled) = compile(&ruleset, names) else { return };
    for rule in compiled.contract_rules() {
        assert!((30..=300).contains(&rule.ttl) && rule.riskCeiling <= 100 && rule.classCeiling <= 3);
        assert!((1..=7).contains(&rule.bindings) && rule.maxStateAge <= 300);
        assert!(rule.notAfter == 0 || rule.notAfter >= rule.notBefore);
    }
    explain(&compiled);
});
