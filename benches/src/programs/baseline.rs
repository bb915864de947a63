//! The figures that were accepted last: a file of the repository, so that a change of them is seen in a
//! review.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use skerry_lab::paths;

/// A figure may be worse by this share and nothing is said.
const TOLERANCE: f64 = 0.05;

/// By program, or by program and packet.
pub type Figures = BTreeMap<String, f64>;

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Baseline {
    /// Version of the kernel, its first two numbers: another one translates and verifies in another way.
    pub kernel: String,
    /// Instructions of each program as the kernel runs it, before the JIT.
    pub translated: Figures,
    /// Instructions that the verifier walked for each program, all branches together.
    pub verified: Figures,
    /// Nanoseconds over those of an empty program.
    pub ns: Figures,
}

fn path() -> PathBuf {
    paths::workspace().join("benches/baseline/p16.json")
}

/// What was accepted; nothing where nothing was yet.
///
/// # Errors
/// When the file is not as [`write()`] writes it.
pub fn read() -> Result<Baseline> {
    let path = path();
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("read {}", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Baseline::default()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// # Errors
/// When the file can't be written.
pub fn write(figures: &Baseline) -> Result<PathBuf> {
    let path = path();
    let text = serde_json::to_string_pretty(figures)? + "\n";
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

impl Baseline {
    /// A line for each figure of `now` that is worse than the accepted one by more than 5%.
    pub fn worse(&self, now: &Baseline) -> Vec<String> {
        let ns = worse("ns", &self.ns, &now.ns);
        [self.grown(now), ns].concat()
    }

    /// As [`Baseline::worse`], of the counts alone: these are the same in every run.
    pub fn grown(&self, now: &Baseline) -> Vec<String> {
        let verified = worse("instructions walked by the verifier", &self.verified, &now.verified);
        [worse("instructions", &self.translated, &now.translated), verified].concat()
    }
}

fn worse(what: &str, then: &Figures, now: &Figures) -> Vec<String> {
    let line = |(name, figure): (&String, &f64)| {
        let accepted = then.get(name)?;
        (*figure > accepted * (1.0 + TOLERANCE)).then(|| {
            let percent = (figure / accepted - 1.0) * 100.0;
            format!("{name}: {figure:.0} {what}, {accepted:.0} were accepted ({percent:+.1}%)")
        })
    };
    now.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(value: f64) -> Figures {
        [("from_pod".to_owned(), value)].into()
    }

    #[test]
    fn what_is_more_than_five_percent_worse_is_named() {
        let then = Baseline { translated: figures(1000.0), ns: figures(100.0), ..Baseline::default() };
        let same = Baseline { translated: figures(1050.0), ns: figures(104.0), ..Baseline::default() };
        assert!(then.worse(&same).is_empty());
        let more = Baseline { translated: figures(1051.0), ns: figures(106.0), ..Baseline::default() };
        assert_eq!(
            then.worse(&more),
            [
                "from_pod: 1051 instructions, 1000 were accepted (+5.1%)",
                "from_pod: 106 ns, 100 were accepted (+6.0%)"
            ]
        );
        assert_eq!(then.grown(&more).len(), 1);
        // A new program has nothing to be compared with.
        assert!(Baseline::default().worse(&more).is_empty());
    }
}
