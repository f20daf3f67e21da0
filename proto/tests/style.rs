//! The rules of the `STANDARD` lint category of buf that these files could break, and that none of
//! their messages breaks the compiler's own.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

/// Every .proto file, relative to the root of the imports.
fn files() -> Vec<PathBuf> {
    let root = root();
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "proto") {
                files.push(path.strip_prefix(&root).unwrap().to_owned());
            }
        }
    }
    assert!(!files.is_empty());
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto")
}

/// The declarations of a file without comments, each with the comment before it.
fn lines(file: &Path) -> Vec<(String, bool)> {
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    let mut commented = false;
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("//") {
            commented = true;
        } else if !line.is_empty() {
            lines.push((line.to_owned(), commented));
            commented = false;
        }
    }
    lines
}

fn words(line: &str) -> Vec<String> {
    let split = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.');
    split
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn is_pascal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric())
}

fn is_lower_snake(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.chars().all(good) && !name.starts_with('_') && !name.contains("__")
}

fn upper_snake(name: &str) -> String {
    let mut out = String::new();
    for (index, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && index > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

#[test]
fn every_file_stands_where_its_versioned_package_says() {
    for file in files() {
        let lines = lines(&file);
        let package = lines.iter().find(|(line, _)| line.starts_with("package "));
        let package = &words(&package.unwrap().0)[1];
        let folder = file.parent().unwrap().to_str().unwrap().replace('/', ".");
        assert_eq!(*package, folder);
        let version = package.rsplit('.').next().unwrap();
        let digits = version.strip_prefix('v').unwrap();
        assert!(digits.parse::<u32>().is_ok_and(|v| v > 0), "{version}");
        assert!(is_lower_snake(file.file_stem().unwrap().to_str().unwrap()));
        assert_eq!(lines[0].0, r#"syntax = "proto3";"#);
    }
}

#[test]
fn services_and_their_messages_are_named_after_the_call() {
    for file in files() {
        let mut asked = Vec::new();
        for (line, _) in lines(&file) {
            let words = words(&line);
            match words.first().map(String::as_str) {
                Some("service") => {
                    assert!(
                        is_pascal(&words[1]) && words[1].ends_with("Service"),
                        "{line}"
                    );
                }
                Some("rpc") => {
                    let name = &words[1];
                    let types: Vec<_> = words[2..]
                        .iter()
                        .filter(|word| !matches!(word.as_str(), "stream" | "returns"))
                        .cloned()
                        .collect();
                    assert_eq!(
                        types,
                        [format!("{name}Request"), format!("{name}Response")],
                        "{line}"
                    );
                    asked.extend(types);
                }
                _ => {}
            }
        }
        let before = asked.len();
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), before, "a message serves two calls");
    }
}

#[test]
fn messages_fields_and_enums_are_named_as_the_linter_wants_and_commented() {
    for file in files() {
        let mut within: Option<(String, bool)> = None;
        for (line, commented) in lines(&file) {
            let words = words(&line);
            let first = words.first().map(String::as_str);
            match first {
                Some(kind @ ("message" | "enum")) => {
                    assert!(is_pascal(&words[1]), "{line}");
                    assert!(commented, "no comment: {line}");
                    within = Some((words[1].clone(), kind == "enum"));
                }
                Some("service" | "rpc") => assert!(commented, "no comment: {line}"),
                Some("oneof") => assert!(is_lower_snake(&words[1]), "{line}"),
                Some(_) if line.contains('=') && within.is_some() => {
                    assert!(commented, "no comment: {line}");
                    let (name, is_enum) = within.clone().unwrap();
                    if is_enum {
                        let prefix = format!("{}_", upper_snake(&name));
                        assert!(words[0].starts_with(&prefix), "{line}");
                        let zero = words[1] == "0";
                        assert_eq!(zero, words[0].ends_with("_UNSPECIFIED"), "{line}");
                    } else {
                        assert!(is_lower_snake(&words[words.len() - 2]), "{line}");
                    }
                }
                _ => {}
            }
        }
    }
}

#[test]
fn the_files_compile() {
    protox::compile(files(), [root()]).unwrap();
}
