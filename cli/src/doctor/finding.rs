//! What was found, and how it is printed.

use serde::Serialize;

use super::gather::Looked;
use crate::output::one_line;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `identity`, `redirect`, `chain`, `policy`, `clock`, `webhook`, `cluster`.
    pub area: &'static str,
    pub level: Level,
    pub says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, or cannot be told.
    Warn,
    /// It does not work, or does not protect.
    Fail,
}

/// Findings of one area.
pub struct Area<'f> {
    pub name: &'static str,
    pub into: &'f mut Vec<Finding>,
}

impl Area<'_> {
    pub fn ok(&mut self, says: impl Into<String>) {
        self.add(Level::Ok, says.into(), None);
    }

    pub fn warn(&mut self, says: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Warn, says.into(), Some(fix.into()));
    }

    pub fn fail(&mut self, says: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Fail, says.into(), Some(fix.into()));
    }

    /// What was looked at, where it could be; else a warning that says why not.
    pub fn seen<'l, T>(&mut self, looked: &'l Looked<T>) -> Option<&'l T> {
        match looked {
            Looked::Seen(value) => Some(value),
            Looked::Hidden { what, fix } => {
                let there = self.into.iter().any(|f| f.says == one_line(what));
                if !there {
                    self.warn(what.clone(), fix.clone());
                }
                None
            }
        }
    }

    fn add(&mut self, level: Level, says: String, fix: Option<String>) {
        self.into.push(Finding {
            area: self.name,
            level,
            says: one_line(&says),
            fix: fix.as_deref().map(one_line),
        });
    }
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether something fails.
    pub fn failed(&self) -> bool {
        self.count(Level::Fail) > 0
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|f| f.level == level).count()
    }

    /// By area.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut area = "";
        for finding in &self.findings {
            if finding.area != area {
                area = finding.area;
                text.push_str(&format!("{area}\n"));
            }
            let mark = match finding.level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            text.push_str(&format!("  {mark:<5} {}\n", finding.says));
            if let Some(fix) = &finding.fix {
                text.push_str(&format!("        fix: {fix}\n"));
            }
        }
        text.push_str(&format!(
            "\n{} failed, {} warnings, {} ok\n",
            self.count(Level::Fail),
            self.count(Level::Warn),
            self.count(Level::Ok)
        ));
        text
    }
}
