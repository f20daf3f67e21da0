//! The commands that talk to a cluster, as they are run, against an API server that answers from a file.
//!
//! Cases are found by folder: `golden/<case>/{command.txt, cluster.yaml, output.txt}`.
//! `WRIT_GOLDEN=write cargo test --workspace --locked --test kubectl` writes what is missing or stale.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use server::{Server, Setup};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(cases.len() > 15, "the cases are gone");
    cases
}

/// The words of a command line, with single quotes around those that have spaces.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.trim().split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

fn run(folder: &Path, kubeconfig: &Path, words: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_writ"))
        .args(words)
        .current_dir(folder)
        .env_clear()
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", folder)
        .env("PATH", folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn kubeconfig(folder: &Path, address: &str) -> PathBuf {
    let path = folder.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters: [{{name: c, cluster: {{server: '{address}'}}}}]\n\
         users: [{{name: u, user: {{token: t}}}}]\ncontexts: [{{name: test, context: {{cluster: c, user: u, namespace: shop}}}}]\n"
    );
    fs::write(&path, text).unwrap();
    path
}

/// A Date header has whole seconds: another may have begun until it was read.
fn on_the_second(text: String, server: &Server) -> String {
    let ahead = server.ahead();
    let early = [2, 1].map(|late| format!("is {} s ahead", ahead - late));
    early.iter().fold(text, |text, early| {
        text.replace(early, &format!("is {ahead} s ahead"))
    })
}

/// Exit code, standard output, standard error, and what was changed in the cluster.
fn transcript(output: &Output, server: &Server) -> String {
    let clean = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        on_the_second(text.replace(&server.address(), "http://cluster"), server)
    };
    let mut text = format!("exit {}\n", output.status.code().unwrap());
    for (name, part) in [
        ("stdout", clean(&output.stdout)),
        ("stderr", clean(&output.stderr)),
        ("changes", server.changes()),
    ] {
        if !part.is_empty() {
            text.push_str(&format!("--- {name}\n{part}"));
        }
    }
    text
}

/// What no answer may be, whatever its folder says.
fn is_fit(case: &Path, command: &str, now: &str) {
    let case = case.display();
    let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(
        !now.contains(obeyed),
        "{case}: a terminal obeys it: {now:?}"
    );
    assert!(!now.contains("cannot reach"), "{case}: the server died");
    if command.contains("-o json")
        && let Some((_, stdout)) = now.split_once("--- stdout\n")
    {
        let stdout = stdout.split("--- ").next().unwrap();
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(stdout);
        assert!(parsed.is_ok(), "{case}: no JSON: {stdout}");
    }
}

#[test]
fn every_golden_command_answers_as_its_folder_says() {
    let mut stale = Vec::new();
    for case in cases() {
        let setup = fs::read_to_string(case.join("cluster.yaml")).unwrap_or_default();
        let server = Server::start(Setup::read(&setup));
        let temporary = tempfile::tempdir().unwrap();
        let kubeconfig = kubeconfig(temporary.path(), &server.address());
        let command = fs::read_to_string(case.join("command.txt")).unwrap();
        let output = run(&case, &kubeconfig, &words(&command));
        let now = transcript(&output, &server);
        is_fit(&case, &command, &now);
        let path = case.join("output.txt");
        if fs::read_to_string(&path).unwrap_or_default() == now {
            continue;
        }
        if std::env::var("WRIT_GOLDEN").as_deref() == Ok("write") {
            fs::write(&path, now).unwrap();
        } else {
            stale.push(format!("{}\n{now}", path.display()));
        }
    }
    assert!(
        stale.is_empty(),
        "stale, see the head of this file:\n{}",
        stale.join("\n")
    );
}

/// What a reader of the documentation sees of a case: the command, and what it printed.
fn example(case: &Path) -> String {
    let read = |name: &str| fs::read_to_string(case.join(name)).unwrap_or_default();
    let mut text = format!("```\n$ kubectl writ {}\n", read("command.txt").trim());
    let output = read("output.txt");
    let mut shown = false;
    for line in output.lines() {
        match line.strip_prefix("--- ") {
            Some(part) => shown = part != "changes",
            None if shown => text.push_str(&format!("{line}\n")),
            None => {}
        }
    }
    text + "```\n"
}

#[test]
fn the_examples_of_the_documentation_are_what_the_golden_commands_print() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubectl.md");
    let docs = fs::read_to_string(docs).unwrap();
    let examples: Vec<String> = cases().iter().map(|case| example(case)).collect();
    let start = "```\n$ kubectl writ ";
    assert!(docs.matches(start).count() > 5, "the examples are gone");
    for (at, _) in docs.match_indices(start) {
        let rest = &docs[at..];
        assert!(
            examples.iter().any(|example| rest.starts_with(example)),
            "no golden command prints this:\n{}",
            rest.chars().take(400).collect::<String>()
        );
    }
}

#[test]
fn a_cluster_that_is_not_there_is_named_with_what_to_check() {
    let folder = tempfile::tempdir().unwrap();
    // A port that nobody listens on any more.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let kubeconfig = kubeconfig(folder.path(), &format!("http://{free}"));
    for command in [
        "status",
        "doctor",
        "revoke spiffe://a.b/sa/c --reason r --yes",
    ] {
        let output = run(folder.path(), &kubeconfig, &words(command));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(
            said.contains("cannot reach") && said.contains("kubectl cluster-info"),
            "{said}"
        );
    }
}

#[test]
fn no_kubeconfig_and_an_unknown_context_are_named_with_what_to_give() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &folder.path().join("none"), &words("status"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("--kubeconfig") && !output.status.success(),
        "{said}"
    );
    let kubeconfig = kubeconfig(folder.path(), "http://127.0.0.1:1");
    let output = run(folder.path(), &kubeconfig, &words("status --context other"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("other") && said.contains("--context"),
        "{said}"
    );
}

#[test]
fn the_plugin_is_the_same_program_under_its_own_name() {
    let help = |program: &str| {
        let output = Command::new(program).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (plain, plugin) = (
        help(env!("CARGO_BIN_EXE_writ")),
        help(env!("CARGO_BIN_EXE_kubectl-writ")),
    );
    assert!(plain.contains("Usage: writ <COMMAND>"), "{plain}");
    assert!(plugin.contains("Usage: kubectl writ <COMMAND>"), "{plugin}");
    assert!(plain.contains("kubectl writ"), "{plain}");
}

#[test]
fn every_command_that_talks_to_a_cluster_ends_its_help_in_examples() {
    for command in [
        "status",
        "revoke",
        "doctor",
        "init",
        "uninstall",
        "policy test",
        "policy diff",
        "policy simulate",
        "policy suggest",
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_writ"))
            .args(command.split(' '))
            .arg("--help")
            .output()
            .unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(
            help.contains("Examples:") && help.contains("--context"),
            "{command}: {help}"
        );
        // What is about the cluster stands last, under its own heading.
        let (own, cluster) = help.split_once("\nCluster:").unwrap();
        let stray = ["--output", "--yes", "--fail-on", "--base", "--agent"];
        assert!(
            !stray
                .iter()
                .any(|flag| cluster.contains(&format!("{flag} <"))),
            "{command}: {help}"
        );
        assert!(own.contains("Options:"), "{command}: {help}");
    }
}
