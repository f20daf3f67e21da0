//! Compares what `iptables-save` prints with what [`rules`](crate::rules) asked for. Pure.

use std::collections::BTreeMap;

use crate::rules::PREFIX;

/// Rules of each table, in order: the lines after `-A`, without counters.
fn tables(saved: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut tables: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut current = "";
    for line in saved.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            current = name;
            tables.entry(current).or_default();
        } else if let Some(rule) = line.strip_prefix("-A ") {
            tables.entry(current).or_default().push(rule);
        }
    }
    tables
}

fn own(rule: &str) -> bool {
    rule.starts_with(PREFIX)
}

/// `OUTPUT -j WRIT_OUTPUT` for hook `OUTPUT`.
fn jump(hook: &str) -> String {
    format!("{hook} -j {PREFIX}{hook}")
}

/// The hooks which a ruleset enters at the top, per table: its `-I <hook> 1 -j WRIT_<hook>`.
fn hooks(ruleset: &str) -> Vec<(&str, &str)> {
    let mut table = "";
    let mut hooks = Vec::new();
    for line in ruleset.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(hook) = line
            .strip_prefix("-I ")
            .and_then(|rest| rest.split(' ').next())
        {
            hooks.push((table, hook));
        }
    }
    hooks
}

/// `ruleset` changed so that it replaces what `saved` shows of an earlier one: the jumps to the
/// own chains are deleted in the same transaction that inserts them again at the top.
#[must_use]
pub fn replacing(ruleset: &str, saved: &str) -> String {
    let present = tables(saved);
    let mut out = String::with_capacity(ruleset.len() + 256);
    let mut table = "";
    for line in ruleset.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(hook) = line
            .strip_prefix("-I ")
            .and_then(|rest| rest.split(' ').next())
        {
            let jump = jump(hook);
            let times = present
                .get(table)
                .map_or(0, |rules| rules.iter().filter(|r| **r == jump).count());
            for _ in 0..times {
                out.push_str(&format!("-D {jump}\n"));
            }
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// How the rules that `iptables-save` printed differ from `ruleset`, one sentence each; empty when
/// the own chains hold exactly the expected rules and are entered first, and once.
#[must_use]
pub fn differences(ruleset: &str, saved: &str) -> Vec<String> {
    let expected = tables(ruleset);
    let found = tables(saved);
    let mut out = Vec::new();
    for (table, hook) in hooks(ruleset) {
        let rules = found.get(table).map(Vec::as_slice).unwrap_or_default();
        let jump = jump(hook);
        let in_hook: Vec<&&str> = rules
            .iter()
            .filter(|r| r.split(' ').next() == Some(hook))
            .collect();
        if in_hook.first().is_none_or(|first| **first != jump) {
            out.push(format!(
                "{table} {hook} does not start with a jump to {PREFIX}{hook}"
            ));
        } else if in_hook.iter().filter(|r| ***r == jump).count() > 1 {
            out.push(format!(
                "{table} {hook} jumps to {PREFIX}{hook} more than once"
            ));
        }
    }
    for (table, rules) in &expected {
        let expected: Vec<&str> = rules.iter().copied().filter(|r| own(r)).collect();
        let found: Vec<&str> = found
            .get(table)
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .copied()
            .filter(|r| own(r))
            .collect();
        // Across chains the order is the saver's, within a chain it is ours.
        let mut chains: Vec<&str> = expected
            .iter()
            .chain(&found)
            .filter_map(|r| r.split(' ').next())
            .collect();
        chains.sort_unstable();
        chains.dedup();
        for chain in chains {
            compare_chain(table, chain, &expected, &found, &mut out);
        }
    }
    out
}

fn compare_chain(
    table: &str,
    chain: &str,
    expected: &[&str],
    found: &[&str],
    out: &mut Vec<String>,
) {
    let of = |rules: &[&str]| -> Vec<String> {
        rules
            .iter()
            .filter(|r| r.split(' ').next() == Some(chain))
            .map(|r| (*r).to_owned())
            .collect()
    };
    let (expected, found) = (of(expected), of(found));
    if expected == found {
        return;
    }
    let before = out.len();
    out.extend(
        expected
            .iter()
            .filter(|r| !found.contains(r))
            .map(|r| format!("{table} lacks \"{r}\"")),
    );
    out.extend(
        found
            .iter()
            .filter(|r| !expected.contains(r))
            .map(|r| format!("{table} also has \"{r}\"")),
    );
    if out.len() == before {
        out.push(format!(
            "{table} {chain} has its rules in another order, or twice"
        ));
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )]
    use super::*;
    use crate::{Redirect, rules};
    use proptest::prelude::*;

    fn ruleset() -> String {
        rules(&Redirect::new(40_000).unwrap()).v4
    }

    /// What `iptables-save` would print after a restore into an empty namespace.
    fn saved() -> String {
        let mut jumps: Vec<String> = Vec::new();
        for line in ruleset().lines() {
            jumps.push(match line.strip_prefix("-I ") {
                Some(rest) => format!("-A {}", rest.replacen(" 1 ", " ", 1)),
                None => line.to_owned(),
            });
        }
        jumps.join("\n")
    }

    #[test]
    fn installed_rules_do_not_differ() {
        assert_eq!(differences(&ruleset(), &saved()), Vec::<String>::new());
    }

    #[test]
    fn each_missing_rule_is_found() {
        let all = saved();
        let lines: Vec<&str> = all.lines().collect();
        for (index, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, l)| l.starts_with("-A"))
        {
            let mut fewer = lines.clone();
            fewer.remove(index);
            assert_ne!(
                differences(&ruleset(), &fewer.join("\n")),
                Vec::<String>::new(),
                "{line}"
            );
        }
    }

    #[test]
    fn a_rule_added_to_an_own_chain_is_found() {
        let hole = saved().replace(
            "*nat",
            "*nat\n-A WRIT_OUTPUT -p tcp -m tcp --dport 443 -j RETURN",
        );
        let found = differences(&ruleset(), &hole);
        assert_eq!(
            found,
            ["nat also has \"WRIT_OUTPUT -p tcp -m tcp --dport 443 -j RETURN\""]
        );
    }

    #[test]
    fn a_rule_in_front_of_the_own_chain_is_found() {
        let hole = saved().replace("*nat", "*nat\n-A OUTPUT -j ACCEPT");
        assert_eq!(
            differences(&ruleset(), &hole),
            ["nat OUTPUT does not start with a jump to WRIT_OUTPUT"]
        );
    }

    #[test]
    fn rules_in_another_order_are_found() {
        let swapped = saved()
            .replace("-A WRIT_PREROUTING -p tcp -j RETURN\n", "")
            .replace(
                "-A WRIT_PREROUTING -j DROP\n",
                "-A WRIT_PREROUTING -j DROP\n-A WRIT_PREROUTING -p tcp -j RETURN\n",
            );
        assert_eq!(
            differences(&ruleset(), &swapped),
            ["mangle WRIT_PREROUTING has its rules in another order, or twice"]
        );
    }

    #[test]
    fn the_rules_of_others_are_left_alone() {
        let others = saved().replace("COMMIT", "-A OUTPUT -d 10.0.0.1/32 -j ACCEPT\nCOMMIT");
        assert_eq!(differences(&ruleset(), &others), Vec::<String>::new());
    }

    #[test]
    fn a_first_installation_deletes_nothing() {
        assert_eq!(replacing(&ruleset(), ""), ruleset());
    }

    #[test]
    fn a_second_installation_deletes_each_jump_as_often_as_it_is_there() {
        let twice = saved().replacen(
            "-A OUTPUT -j WRIT_OUTPUT",
            "-A OUTPUT -j WRIT_OUTPUT\n-A OUTPUT -j WRIT_OUTPUT",
            1,
        );
        let deletions: Vec<String> = replacing(&ruleset(), &twice)
            .lines()
            .filter(|l| l.starts_with("-D"))
            .map(str::to_owned)
            .collect();
        assert_eq!(
            deletions,
            [
                "-D PREROUTING -j WRIT_PREROUTING",
                "-D OUTPUT -j WRIT_OUTPUT",
                "-D OUTPUT -j WRIT_OUTPUT",
                "-D POSTROUTING -j WRIT_POSTROUTING",
                "-D PREROUTING -j WRIT_PREROUTING",
                "-D OUTPUT -j WRIT_OUTPUT",
            ]
        );
    }

    proptest! {
        #[test]
        fn no_saved_text_panics(saved in "[*:\\-A-Z a-z0-9\n]{0,400}") {
            let _ = differences(&ruleset(), &saved);
            let _ = replacing(&ruleset(), &saved);
        }
    }
}
