use crate::symbols::{u16_at, u32_at, u64_at};

/// What is to be embedded is no object of ours.
#[derive(Debug, thiserror::Error)]
#[error("the kernel programs' object is no 64-bit little-endian ELF object: build it again")]
pub struct SlimError;

const HEADER_BYTES: usize = 64;
const SECTION_NULL: u32 = 0;
const SECTION_NOBITS: u32 = 8;

/// Without what only a debugger reads (DWARF, three quarters of the file). BTF stays: the kernel wants it, and
/// its lines name the sources in the verifier's log. Sections keep their numbers, so that nothing that refers
/// to one changes: a debugger's becomes an empty one of no type.
///
/// # Errors
/// When it is no ELF object of the kernel programs' kind.
pub fn slim(elf: &[u8]) -> Result<Vec<u8>, SlimError> {
    rewrite(elf).ok_or(SlimError)
}

/// Layouts: System V ABI, ELF-64 object file format, tables 1 (header) and 8 (section header).
fn rewrite(elf: &[u8]) -> Option<Vec<u8>> {
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = u64_at(elf, 0x28)?;
    let entry_size = usize::from(u16_at(elf, 0x3a)?);
    let count = usize::from(u16_at(elf, 0x3c)?);
    let entry = |index: usize| {
        let start = table.checked_add(index.checked_mul(entry_size)?)?;
        elf.get(start..start.checked_add(entry_size)?)
    };
    let content = |header: &[u8]| {
        let start = u64_at(header, 0x18)?;
        elf.get(start..start.checked_add(u64_at(header, 0x20)?)?)
    };
    let names = content(entry(usize::from(u16_at(elf, 0x3e)?))?)?;
    let is_debug = |header: &[u8]| {
        let name = u32_at(header, 0).and_then(|at| names.get(at as usize..)).unwrap_or_default();
        name.starts_with(b".debug_") || name.starts_with(b".rel.debug_")
    };
    let mut slim = elf.get(..HEADER_BYTES)?.to_vec();
    let mut sections = Vec::new();
    for index in 0..count {
        let mut header = entry(index)?.to_vec();
        if is_debug(&header) {
            header.get_mut(4..)?.fill(0);
        } else if ![SECTION_NULL, SECTION_NOBITS].contains(&u32_at(&header, 4)?) {
            align(&mut slim, u64_at(&header, 0x30)?);
            let at = (slim.len() as u64).to_le_bytes();
            slim.extend(content(&header)?);
            header.get_mut(0x18..0x20)?.copy_from_slice(&at);
        }
        sections.extend(header);
    }
    align(&mut slim, 8);
    let at = (slim.len() as u64).to_le_bytes();
    slim.get_mut(0x28..0x30)?.copy_from_slice(&at);
    slim.extend(sections);
    Some(slim)
}

/// `to`: a power of 2, or 0 for any place.
fn align(bytes: &mut Vec<u8>, to: usize) {
    let length = bytes.len().next_multiple_of(to.clamp(1, 4096));
    bytes.resize(length, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debuggers_sections_go_and_the_symbols_stay() {
        let whole = std::fs::read(crate::build().unwrap()).unwrap();
        let slim = slim(&whole).unwrap();
        assert!(slim.len() * 2 < whole.len(), "{} of {} bytes are left", slim.len(), whole.len());
        let symbols = crate::symbols::symbol_names(&slim).unwrap();
        assert!(!symbols.is_empty());
        assert_eq!(Some(symbols), crate::symbols::symbol_names(&whole));
        assert_eq!(super::slim(&slim).unwrap(), slim, "there is nothing more to take");
    }

    #[test]
    fn a_cut_or_foreign_file_is_refused_and_never_a_panic() {
        let whole = std::fs::read(crate::build().unwrap()).unwrap();
        for length in (0..whole.len()).step_by(997) {
            assert!(slim(&whole[..length]).is_err(), "the table of sections is last: {length}");
        }
        assert!(slim(b"#!/bin/sh\n").is_err());
    }
}
