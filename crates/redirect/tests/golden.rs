//! The rules for each case in `tests/golden/`, line by line. A case is a folder with
//! `redirect.json`, `v4.rules` and `v6.rules`, and nothing else.
//!
//! After a wanted change: `WRIT_BLESS=1 cargo test -p writ-redirect --test golden`, and read the
//! difference.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use writ_redirect::{Ipv6, Redirect, UidRange, rules};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    sidecar_uid: u32,
    #[serde(default)]
    local_ports: Vec<u16>,
    ipv6: String,
    /// First and last uid of each range.
    #[serde(default)]
    uids: Vec<(u32, u32)>,
}

impl Case {
    fn redirect(&self) -> Redirect {
        let ipv6 = match self.ipv6.as_str() {
            "on" => Ipv6::On,
            "off" => Ipv6::Off,
            other => panic!("ipv6 is on or off, not {other}"),
        };
        let redirect = Redirect::new(self.sidecar_uid)
            .unwrap()
            .with_local_ports(self.local_ports.iter().copied())
            .unwrap()
            .with_ipv6(ipv6);
        if self.uids.is_empty() {
            return redirect;
        }
        let uids = self
            .uids
            .iter()
            .map(|&(first, last)| UidRange { first, last })
            .collect();
        redirect.with_uids(uids).unwrap()
    }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

#[test]
fn the_rules_of_every_case_are_as_recorded() {
    let bless = std::env::var_os("WRIT_BLESS").is_some();
    for case in cases() {
        let text = fs::read_to_string(case.join("redirect.json")).unwrap();
        let ruleset = rules(&serde_json::from_str::<Case>(&text).unwrap().redirect());
        for (file, rules) in [("v4.rules", &ruleset.v4), ("v6.rules", &ruleset.v6)] {
            let file = case.join(file);
            if bless {
                fs::write(&file, rules).unwrap();
            }
            assert_eq!(
                &fs::read_to_string(&file).unwrap(),
                rules,
                "{}",
                file.display()
            );
        }
        let mut names: Vec<_> = fs::read_dir(&case)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["redirect.json", "v4.rules", "v6.rules"],
            "{}",
            case.display()
        );
    }
}
