//! How many instructions each program has, and how many the verifier walks: the same in every run.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use proxy_abi::{PROGRAMS, prog};
use skerry_packet_cases::Object;

/// Bytes of an instruction.
const INSTRUCTION: u32 = 8;

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Count {
    pub translated: f64,
    pub verified: f64,
}

/// By program.
///
/// # Errors
/// When the verifier refuses one.
pub fn of_all() -> Result<BTreeMap<String, Count>> {
    let mut object = Object::load()?;
    PROGRAMS
        .iter()
        .chain([&prog::LB_XDP])
        .map(|name| Ok(((*name).to_owned(), of(&mut object, name)?)))
        .collect()
}

fn of(object: &mut Object, name: &str) -> Result<Count> {
    let info = match name {
        prog::LB_XDP => object.xdp(name)?.info(),
        name if name.starts_with("sock_") => object.sock_addr(name)?.info(),
        name => object.classifier(name)?.info(),
    };
    let info = info.with_context(|| format!("ask about program {name}"))?;
    let bytes = info.size_translated().with_context(|| format!("{name}: no size: are you root?"))?;
    let verified =
        info.verified_instruction_count().with_context(|| format!("{name}: no count (Linux 5.16)"))?;
    Ok(Count { translated: f64::from(bytes / INSTRUCTION), verified: f64::from(verified) })
}

/// The running kernel's version, its first two numbers.
///
/// # Errors
/// When the kernel does not tell.
pub fn kernel() -> Result<String> {
    let release = skerry_kernel::kernel_release()?;
    Ok(release.split('.').take(2).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::baseline::{self, Baseline};

    #[test]
    fn no_program_has_grown_unsaid() {
        let accepted = baseline::read().unwrap();
        assert!(!accepted.translated.is_empty(), "no figures yet: `cargo xtask bench P16 --accept`");
        let kernel = kernel().unwrap();
        if kernel != accepted.kernel {
            let why = format!("the accepted figures are of Linux {}, this is {kernel}", accepted.kernel);
            return skerry_lab::skipped("no_program_has_grown_unsaid", &why);
        }
        let counts = of_all().unwrap();
        let figures = |figure: fn(&Count) -> f64| {
            counts.iter().map(|(name, count)| (name.clone(), figure(count))).collect()
        };
        let now = Baseline {
            translated: figures(|count| count.translated),
            verified: figures(|count| count.verified),
            ..Baseline::default()
        };
        let grown = accepted.grown(&now);
        assert!(
            grown.is_empty(),
            "{}\nif that is meant, say so: `cargo xtask bench P16 --accept`",
            grown.join("\n")
        );
    }
}
