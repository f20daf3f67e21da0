//! The format's page names every code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

/// Codes stand in the sources as `=> "kebab-case",`.
#[test]
fn the_page_names_every_code_of_both_crates() {
    let page = include_str!("../../../docs/sae.md");
    let sources = [
        include_str!("../src/refusal.rs"),
        include_str!("../../sae/src/refusal.rs"),
    ];
    let mut codes = 0;
    for line in sources.iter().flat_map(|source| source.lines()) {
        let Some((_, code)) = line.split_once("=> \"") else {
            continue;
        };
        let code = code.trim_end_matches(['"', ',']);
        let kebab = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if code.bytes().all(kebab) {
            codes += 1;
            assert!(page.contains(&format!("`{code}`")), "{code}");
        }
    }
    assert!(codes > 70, "{codes} codes were found");
}
