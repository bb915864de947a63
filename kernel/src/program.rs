use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use bytemuck::{Pod, Zeroable};

use crate::{
    Error,
    map::short_name,
    sys::{self, Command},
};

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    name: String,
}

/// `enum bpf_prog_type` of `linux/bpf.h`, as far as it is used here.
pub mod program_type {
    pub const SCHED_CLS: u32 = 3;
    pub const XDP: u32 = 6;
    pub const CGROUP_SOCK_ADDR: u32 = 18;
}

/// One `struct bpf_insn`.
pub type Instruction = [u8; 8];

/// `dst` and `src` are register numbers; `offset` and `immediate` in host byte order.
pub const fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    let registers = if cfg!(target_endian = "little") { dst | src << 4 } else { dst << 4 | src };
    let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
    [code, registers, o0, o1, i0, i1, i2, i3]
}

/// The beginning of `struct bpf_prog_info`, without its pointers.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct ProgramInfo {
    pub program_type: u32,
    pub id: u32,
    /// SHA-1 of the instructions, shortened: equal programs have equal tags.
    pub tag: [u8; 8],
    /// Bytes.
    pub jited_length: u32,
    /// Bytes.
    pub xlated_length: u32,
}

impl Program {
    /// Loads instructions: for probes and tests. `expected_attach_type` 0 where the type has none.
    pub fn load(
        name: &str,
        program_type: u32,
        expected_attach_type: u32,
        instructions: &[Instruction],
    ) -> Result<Program, Error> {
        let fd = sys::load(program_type, expected_attach_type, short_name(name), instructions, c"GPL")
            .map_err(|e| Error::system("load program", name, e))?;
        Ok(Program::from_fd(fd, name))
    }

    /// The program pinned at `path`. (A pinned map or link opens as well; attaching it fails.)
    pub fn open(path: &Path) -> Result<Program, Error> {
        let name = path.display().to_string();
        let fd = sys::get(path).map_err(|e| Error::system("open pinned program", &name, e))?;
        Ok(Program { fd, name })
    }

    /// The program with this kernel-wide number.
    pub fn by_id(id: u32) -> Result<Program, Error> {
        let fd = sys::plain_fd(Command::ProgramFdById, &mut sys::ById { id, next_id: 0, open_flags: 0 })
            .map_err(|e| Error::system("open program with id", id, e))?;
        Ok(Program { fd, name: format!("#{id}") })
    }

    /// A program that somebody else opened; `name` is for error texts.
    pub fn from_fd(fd: OwnedFd, name: &str) -> Program {
        Program { fd, name: name.to_owned() }
    }

    pub fn pin(&self, path: &Path) -> Result<(), Error> {
        sys::pin(self.fd(), path).map_err(|e| Error::system("pin program at", path.display(), e))
    }

    pub fn info(&self) -> Result<ProgramInfo, Error> {
        sys::info(self.fd()).map_err(|e| Error::system("ask about program", &self.name, e))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
