use std::path::{Path, PathBuf};

/// Why an object was refused.
#[derive(Debug, thiserror::Error)]
pub enum SymbolError {
    #[error("read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is no 64-bit little-endian ELF object with a symbol table: build it again")]
    NotAnObject { path: PathBuf },
    #[error(
        "{path} can panic, which the verifier rejects: it has {symbol}; \
         replace a plain index, `unwrap`, division or slice by its checked form"
    )]
    CanPanic { path: PathBuf, symbol: String },
}

/// Checks that no panic path was left in the object: its symbols name neither `core::panicking` nor the panic
/// handler.
///
/// # Errors
/// The first such symbol, or the object can't be read.
pub fn check_no_panics(path: &Path) -> Result<(), SymbolError> {
    let suspicious = ["panicking", "panic_fmt", "rust_begin_unwind", "panic_bounds_check", "unwrap_failed"];
    match symbols(path)?.into_iter().find(|symbol| suspicious.iter().any(|part| symbol.contains(part))) {
        Some(symbol) => Err(SymbolError::CanPanic { path: path.to_owned(), symbol }),
        None => Ok(()),
    }
}

/// Names of all symbols of an object, in its own order.
///
/// # Errors
/// The file can't be read or is no 64-bit little-endian ELF object.
pub fn symbols(path: &Path) -> Result<Vec<String>, SymbolError> {
    let bytes = std::fs::read(path).map_err(|source| SymbolError::Read { path: path.to_owned(), source })?;
    symbol_names(&bytes).ok_or_else(|| SymbolError::NotAnObject { path: path.to_owned() })
}

/// Layouts: System V ABI, ELF-64 object file format, tables 1 (header), 8 (section header), 14 (symbol).
pub(crate) fn symbol_names(elf: &[u8]) -> Option<Vec<String>> {
    const SECTION_TYPE_SYMTAB: u32 = 2;
    const SYMBOL_SIZE: usize = 24;
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = u64_at(elf, 0x28)?;
    let entry_size = usize::from(u16_at(elf, 0x3a)?);
    let count = usize::from(u16_at(elf, 0x3c)?);
    let section = |index: usize| elf.get(table.checked_add(index.checked_mul(entry_size)?)?..);
    let content = |header: &[u8]| {
        let start = u64_at(header, 0x18)?;
        elf.get(start..start.checked_add(u64_at(header, 0x20)?)?)
    };
    let symtab =
        (0..count).filter_map(section).find(|header| u32_at(header, 4) == Some(SECTION_TYPE_SYMTAB))?;
    let names = content(section(u32_at(symtab, 0x28)? as usize)?)?;
    let name = |symbol: &[u8]| {
        let rest = names.get(u32_at(symbol, 0)? as usize..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(rest.get(..end)?).into_owned())
    };
    Some(
        content(symtab)?.chunks_exact(SYMBOL_SIZE).filter_map(name).filter(|name| !name.is_empty()).collect(),
    )
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    let value = u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?);
    usize::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_binary_can_panic_and_is_told_so() {
        let own = std::env::current_exe().unwrap();
        assert!(matches!(check_no_panics(&own), Err(SymbolError::CanPanic { .. })));
    }

    #[test]
    fn a_cut_or_foreign_file_is_no_object_and_never_a_panic() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in 0..512 {
            assert!(symbol_names(&own[..length]).is_none());
        }
        assert!(symbol_names(b"#!/bin/sh\n").is_none());
    }
}
