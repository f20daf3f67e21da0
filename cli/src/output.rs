//! What commands print: text for people, JSON for programs. No colour, so NO_COLOR changes nothing, and
//! nothing that a terminal obeys.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::error::CliError;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// Prints a value as JSON, or the text.
pub fn emit<T: Serialize>(
    format: Format,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), CliError> {
    let mut line = match format {
        Format::Json => json_text(
            &serde_json::to_string_pretty(value).map_err(|e| CliError::Output(e.to_string()))?,
        ),
        Format::Text => plain(&text(value)),
    };
    if !line.ends_with('\n') {
        line.push('\n');
    }
    std::io::stdout()
        .lock()
        .write_all(line.as_bytes())
        .map_err(|e| CliError::Output(e.to_string()))
}

/// Whether a terminal or an editor could take a character for something other than text: control
/// characters, which move the cursor, and those that turn the direction of what follows or are not seen.
/// Pods, agents and endpoints choose texts that end up here.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Text whose lines are ours, with nothing deceptive in it.
pub fn plain(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' => '\n',
        c if is_deceptive(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(shown).collect()
}

/// Somebody else's text within one line of ours: it cannot begin a line of its own.
pub fn one_line(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\r' | '\t' => ' ',
        c if is_deceptive(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.trim_end().chars().map(shown).collect()
}

/// The same JSON, with what is deceptive escaped. It stands within strings only; the rest was escaped before.
fn json_text(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_deceptive(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// Reads a text file of at most 4 MiB; `-` is standard input.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    use std::io::Read;
    const MOST: u64 = 4 * 1024 * 1024;
    let unreadable = |e: std::io::Error| CliError::File {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(MOST + 1)
            .read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(MOST + 1).read_to_string(&mut text)
    };
    read.map_err(unreadable)?;
    if text.len() as u64 > MOST {
        return Err(unreadable(std::io::Error::other("longer than 4 MiB")));
    }
    Ok(text)
}

/// Most characters of a cell: one long text must not push every row off the screen.
const CELL: usize = 120;

fn cell(text: &str) -> String {
    let line = one_line(text);
    match line.char_indices().nth(CELL) {
        Some((at, _)) => format!("{}...", line.get(..at).unwrap_or_default()),
        None => line,
    }
}

/// Columns padded with spaces, two apart.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut all = vec![header.map(str::to_owned)];
    all.extend(rows.into_iter().map(|row| row.map(|text| cell(&text))));
    let mut widths = [0; N];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &all {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2Jb\u{9b}31mc\rd\u{202e}e\nok  f\u{200b}";

    #[test]
    fn a_text_of_somebody_else_moves_no_cursor_and_begins_no_line() {
        let line = one_line(HOSTILE);
        assert!(!line.chars().any(is_deceptive), "{line:?}");
        assert_eq!(line, "a\u{fffd}[2Jb\u{fffd}31mc d\u{fffd}e ok  f\u{fffd}");
        let text = plain(HOSTILE);
        assert!(
            text.chars().all(|c| c == '\n' || !is_deceptive(c)),
            "{text:?}"
        );
    }

    #[test]
    fn json_says_the_same_when_what_is_deceptive_is_escaped() {
        let json = serde_json::to_string_pretty(&serde_json::json!({"text": HOSTILE})).unwrap();
        let escaped = json_text(&json);
        assert!(
            escaped.chars().all(|c| c == '\n' || !is_deceptive(c)),
            "{escaped:?}"
        );
        let read: serde_json::Value = serde_json::from_str(&escaped).unwrap();
        assert_eq!(read["text"], HOSTILE);
    }

    #[test]
    fn a_table_has_a_line_for_each_row() {
        let text = table(["A", "B"], [[HOSTILE.to_owned(), "x".to_owned()]]);
        assert_eq!(text.lines().count(), 2, "{text:?}");
    }

    #[test]
    fn a_text_of_any_length_fits_into_a_table() {
        let text = table(["A", "B"], [["\u{e4}".repeat(100_000), "x".to_owned()]]);
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(longest.is_some_and(|longest| longest < 200), "{longest:?}");
        assert!(text.contains("...  x"), "{text}");
    }
}
