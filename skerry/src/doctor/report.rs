//! What was found, for people and for programs.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use crate::cli::Format;

/// Something is wrong, and what a person does about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    pub next: String,
}

impl Finding {
    pub fn new(what: impl Into<String>, next: impl Into<String>) -> Finding {
        Finding { what: what.into(), next: next.into() }
    }
}

/// How a check came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// With what was seen.
    Fine(String),
    Found(Vec<Finding>),
    /// There is nothing to check here, or no way to; with the reason.
    Left(String),
}

impl Checked {
    pub fn found(what: impl Into<String>, next: impl Into<String>) -> Checked {
        Checked::Found(vec![Finding::new(what, next)])
    }

    /// Fine where nothing was found.
    pub fn of(findings: Vec<Finding>, seen: impl Into<String>) -> Checked {
        if findings.is_empty() { Checked::Fine(seen.into()) } else { Checked::Found(findings) }
    }
}

#[derive(Debug)]
pub struct Outcome {
    pub check: &'static str,
    pub checked: Checked,
    pub took: Duration,
}

#[derive(Debug)]
pub struct Report {
    pub outcomes: Vec<Outcome>,
}

impl Report {
    pub fn is_well(&self) -> bool {
        self.findings() == 0
    }

    fn findings(&self) -> usize {
        let count = |outcome: &Outcome| match &outcome.checked {
            Checked::Found(findings) => findings.len(),
            Checked::Fine(_) | Checked::Left(_) => 0,
        };
        self.outcomes.iter().map(count).sum()
    }

    pub fn print(&self, format: Format) {
        match format {
            Format::Json => println!("{:#}", self.json()),
            Format::Table => print!("{}", self.text()),
        }
    }

    pub fn json(&self) -> Value {
        let check = |outcome: &Outcome| {
            let (state, detail, findings) = match &outcome.checked {
                Checked::Fine(seen) => ("fine", Some(seen), &[][..]),
                Checked::Found(findings) => ("found", None, &findings[..]),
                Checked::Left(why) => ("not checked", Some(why), &[][..]),
            };
            let findings = findings.iter().map(|found| json!({"what": found.what, "next": found.next}));
            json!({"check": outcome.check, "state": state, "detail": detail,
                "findings": findings.collect::<Vec<_>>(), "took-s": outcome.took.as_secs_f64()})
        };
        json!({"well": self.is_well(), "checks": self.outcomes.iter().map(check).collect::<Vec<_>>()})
    }

    /// A line a check, below it what was found and what to do.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Outcome { check, checked, .. } in &self.outcomes {
            // Writing to a String cannot fail.
            let _ = match checked {
                Checked::Fine(seen) => writeln!(text, "{check:<14}fine: {seen}"),
                Checked::Left(why) => writeln!(text, "{check:<14}not checked: {why}"),
                Checked::Found(findings) => findings.iter().try_for_each(|found| {
                    writeln!(text, "{check:<14}WRONG: {}\n{:<14}  next: {}", found.what, "", found.next)
                }),
            };
        }
        let left = self.outcomes.iter().filter(|outcome| matches!(outcome.checked, Checked::Left(_))).count();
        let checked = self.outcomes.len() - left;
        let _ = match self.findings() {
            0 => writeln!(text, "\nAll is well, as far as {checked} checks can tell."),
            1 => writeln!(text, "\n1 finding."),
            count => writeln!(text, "\n{count} findings."),
        };
        text
    }
}
