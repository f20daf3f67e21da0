//! Runs `iptables-restore` and `iptables-save`, in whichever variant this kernel takes.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use crate::error::{Family, RedirectError};

/// One variant of the tools for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    family: Family,
    restore: &'static str,
    save: &'static str,
}

/// nft first: it is what current kernels and distributions maintain.
const V4: [Backend; 3] = [
    Backend {
        family: Family::V4,
        restore: "iptables-nft-restore",
        save: "iptables-nft-save",
    },
    Backend {
        family: Family::V4,
        restore: "iptables-legacy-restore",
        save: "iptables-legacy-save",
    },
    Backend {
        family: Family::V4,
        restore: "iptables-restore",
        save: "iptables-save",
    },
];
const V6: [Backend; 3] = [
    Backend {
        family: Family::V6,
        restore: "ip6tables-nft-restore",
        save: "ip6tables-nft-save",
    },
    Backend {
        family: Family::V6,
        restore: "ip6tables-legacy-restore",
        save: "ip6tables-legacy-save",
    },
    Backend {
        family: Family::V6,
        restore: "ip6tables-restore",
        save: "ip6tables-save",
    },
];

impl Backend {
    /// The variants for `family`, in the order of preference.
    pub(crate) fn candidates(family: Family) -> [Self; 3] {
        match family {
            Family::V4 => V4,
            Family::V6 => V6,
        }
    }

    /// The first variant that installs `ruleset` under other names, and removes it again. Nothing
    /// less tells: a tool may start, list and even create tables whose rules the kernel refuses.
    pub(crate) fn probe(family: Family, ruleset: &str) -> Result<Self, RedirectError> {
        let mut tried = Vec::new();
        let mut missing = 0;
        for backend in Self::candidates(family) {
            match backend
                .restore(&probe_rules(ruleset))
                .and_then(|()| backend.restore(&unprobe_rules(ruleset)))
            {
                Ok(()) => return Ok(backend),
                Err(RestoreFailure::Io(error)) => {
                    missing += usize::from(error.kind() == io::ErrorKind::NotFound);
                    tried.push(format!("{}: {error}", backend.restore));
                }
                Err(RestoreFailure::Refused(message)) => {
                    tried.push(format!("{}: {message}", backend.restore))
                }
            }
        }
        if missing == tried.len() {
            let tried = Self::candidates(family).map(|b| b.restore).join(", ");
            return Err(RedirectError::NoProgram { family, tried });
        }
        let tried = tried.join("; ");
        Err(RedirectError::NoBackend {
            family,
            hint: hint(&tried),
            tried,
        })
    }

    /// Applies `input` on top of what is there, each table in one transaction.
    pub(crate) fn install(&self, input: &str) -> Result<(), RedirectError> {
        self.restore(input).map_err(|failure| match failure {
            RestoreFailure::Io(source) => RedirectError::Io {
                what: self.restore.to_owned(),
                source,
            },
            RestoreFailure::Refused(message) => RedirectError::Restore {
                program: self.restore,
                family: self.family,
                hint: hint(&message),
                message,
            },
        })
    }

    /// All tables, as `iptables-save` prints them.
    pub(crate) fn saved(&self) -> Result<String, RedirectError> {
        let io_error = |source| RedirectError::Io {
            what: self.save.to_owned(),
            source,
        };
        let output = command(self.save).output().map_err(io_error)?;
        if !output.status.success() {
            return Err(io_error(io::Error::other(message(&output))));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The name of the program that installs the rules.
    pub(crate) fn program(&self) -> &'static str {
        self.restore
    }

    fn restore(&self, input: &str) -> Result<(), RestoreFailure> {
        let mut child = command(self.restore)
            .args(["--noflush", "--wait", "10"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        // It may refuse a line before it has read all; its message says more than the broken pipe.
        let written = child
            .stdin
            .take()
            .map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(RestoreFailure::Refused(message(&output)));
        }
        written.map_err(RestoreFailure::Io)
    }
}

#[derive(Debug)]
enum RestoreFailure {
    Io(io::Error),
    Refused(String),
}

impl From<io::Error> for RestoreFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Many images leave sbin out of PATH, which is where these programs are.
fn command(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .env(
            "PATH",
            format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"),
        )
        .stdin(Stdio::null());
    command
}

/// The program's words on one line, without its usage text.
fn message(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with("Try `") && !l.starts_with("# Warning"))
        .take(4)
        .collect();
    if lines.is_empty() {
        output.status.to_string()
    } else {
        lines.join(" / ")
    }
}

/// `ruleset` in chains that nothing jumps to.
fn probe_rules(ruleset: &str) -> String {
    let lines = ruleset.lines().filter(|line| !line.starts_with("-I "));
    lines
        .map(|line| format!("{}\n", line.replace("WRIT_", "WRIT_PROBE_")))
        .collect()
}

/// The removal of these chains.
fn unprobe_rules(ruleset: &str) -> String {
    let mut out = String::new();
    for line in ruleset.lines() {
        match line
            .strip_prefix(':')
            .and_then(|rest| rest.split(' ').next())
        {
            Some(chain) => {
                let chain = chain.replace("WRIT_", "WRIT_PROBE_");
                out.push_str(&format!("-F {chain}\n-X {chain}\n"));
            }
            None if line.starts_with('*') || line == "COMMIT" => out.push_str(&format!("{line}\n")),
            None => {}
        }
    }
    out
}

/// What to change, by the words that the tools use.
fn hint(message: &str) -> &'static str {
    let has = |needle: &str| message.contains(needle);
    if has("Permission denied") || has("Operation not permitted") {
        "add NET_ADMIN to the capabilities of the redirect init container, and in a user namespace map the sidecar's uid"
    } else if has("xtables.lock") || has("lock file") {
        "mount an emptyDir at /run, where iptables keeps its lock"
    } else if has("Table does not exist")
        || has("do you need to insmod")
        || has("No such file or directory")
    {
        "load nf_nat, iptable_nat, iptable_mangle (ip6table_* for IPv6), xt_owner, xt_conntrack and xt_REDIRECT on the node, or for IPv6 set it to off"
    } else {
        "load xt_owner, xt_conntrack and xt_REDIRECT on the node, and check that the sidecar's uid is mapped in this user namespace"
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

    const RULES: &str = "*nat\n:WRIT_OUTPUT - [0:0]\n-I OUTPUT 1 -j WRIT_OUTPUT\n-A WRIT_OUTPUT -p tcp -j REDIRECT --to-ports 15801\nCOMMIT\n";

    #[test]
    fn the_probe_is_the_real_rules_where_nothing_jumps_to_them() {
        assert_eq!(
            probe_rules(RULES),
            "*nat\n:WRIT_PROBE_OUTPUT - [0:0]\n-A WRIT_PROBE_OUTPUT -p tcp -j REDIRECT --to-ports 15801\nCOMMIT\n"
        );
    }

    #[test]
    fn the_probe_is_removed_in_one_transaction() {
        assert_eq!(
            unprobe_rules(RULES),
            "*nat\n-F WRIT_PROBE_OUTPUT\n-X WRIT_PROBE_OUTPUT\nCOMMIT\n"
        );
    }

    #[test]
    fn each_known_failure_names_its_fix() {
        for (message, fix) in [
            (
                "Could not fetch rule set generation id: Permission denied (you must be root)",
                "NET_ADMIN",
            ),
            (
                "can't initialize ip6tables table `nat': Table does not exist (do you need to insmod?)",
                "ip6table_",
            ),
            (
                "Fatal: can't open lock file /run/xtables.lock: Read-only file system",
                "emptyDir at /run",
            ),
            (
                "RULE_APPEND failed (Invalid argument): rule in chain WRIT_OUTPUT",
                "user namespace",
            ),
        ] {
            assert!(hint(message).contains(fix), "{message}: {}", hint(message));
        }
    }
}
