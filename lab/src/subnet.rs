//! A /24 for a lab's nodes that nothing on this machine uses.

use std::{
    fmt, fs,
    io::Write,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{command, paths};

/// The ranges that are looked through: private, and apart from what Kubernetes' defaults use.
const RANGES: &[[u8; 2]] = &[[172, 30], [10, 213]];

/// `A.B.C.0/24`, claimed in `/run/skerry-lab/subnets` for one lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet([u8; 3]);

impl Subnet {
    /// Claims a free one for `lab`, or finds the one that it has.
    ///
    /// # Errors
    /// When all are taken or the claim can't be written.
    pub fn claim(lab: &str) -> Result<Subnet> {
        let dir = Path::new(paths::RUN).join("subnets");
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        if let Some(found) = Subnet::of(lab) {
            return Ok(found);
        }
        let used = used(&command::run("ip", &["-4", "route", "show", "table", "all"])?);
        for [a, b] in RANGES {
            for c in 0..=255 {
                let subnet = Subnet([*a, *b, c]);
                if used.iter().any(|range| range.overlaps(subnet)) {
                    continue;
                }
                if subnet.try_claim(&dir, lab)? {
                    return Ok(subnet);
                }
            }
        }
        bail!("no free /24 in 172.30.0.0/16 and 10.213.0.0/16: end other labs with `cargo xtask down`")
    }

    /// The one that `lab` has.
    pub fn of(lab: &str) -> Option<Subnet> {
        let entries = fs::read_dir(Path::new(paths::RUN).join("subnets")).ok()?;
        entries.flatten().find_map(|entry| {
            let owner = fs::read_to_string(entry.path()).ok()?;
            (owner.trim() == lab).then(|| Subnet::parse(&entry.file_name().to_string_lossy()))?
        })
    }

    /// Gives the claim back. None there is fine.
    pub fn release(lab: &str) {
        if let Some(subnet) = Subnet::of(lab) {
            let _ = fs::remove_file(subnet.claim_file(&Path::new(paths::RUN).join("subnets")));
        }
    }

    pub fn host(self, number: u8) -> Ipv4Addr {
        let [a, b, c] = self.0;
        Ipv4Addr::new(a, b, c, number)
    }

    /// The same one in the lab's /64 of unique local addresses (RFC 4193), which follows from the IPv4 range
    /// and so is the lab's alone too.
    pub fn host6(self, number: u8) -> Ipv6Addr {
        let [a, b, c] = self.0;
        Ipv6Addr::new(0xfd73, 0x6b65, u16::from_be_bytes([a, b]), c.into(), 0, 0, 0, number.into())
    }

    fn try_claim(self, dir: &Path, lab: &str) -> Result<bool> {
        let path = self.claim_file(dir);
        match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                file.write_all(lab.as_bytes()).with_context(|| format!("write {}", path.display()))?;
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).with_context(|| format!("write {}", path.display())),
        }
    }

    fn claim_file(self, dir: &Path) -> PathBuf {
        let [a, b, c] = self.0;
        dir.join(format!("{a}.{b}.{c}"))
    }

    fn parse(text: &str) -> Option<Subnet> {
        let mut parts = text.split('.').map(str::parse);
        Some(Subnet([parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?]))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.0;
        write!(f, "{a}.{b}.{c}.0/24")
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Range {
    base: u32,
    bits: u32,
}

impl Range {
    fn overlaps(&self, subnet: Subnet) -> bool {
        let shared = self.bits.min(24);
        let other = u32::from(subnet.host(0));
        shared == 0 || (self.base >> (32 - shared)) == (other >> (32 - shared))
    }
}

/// The destinations of `ip -4 route show table all`, the default route left out.
fn used(routes: &str) -> Vec<Range> {
    let parse = |word: &str| {
        let (address, bits) = word.split_once('/').unwrap_or((word, "32"));
        Some(Range { base: address.parse::<Ipv4Addr>().ok()?.into(), bits: bits.parse().ok()? })
    };
    let destination = |line: &str| line.split_whitespace().find_map(parse);
    routes.lines().filter_map(destination).filter(|range| range.bits > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_of_the_machine_rules_out_the_subnets_it_covers() {
        let routes = "default via 192.0.2.1 dev eth0\n172.16.0.0/12 dev br0 scope link\n\
                      local 10.213.7.2 dev x table local proto kernel\n";
        let used = used(routes);
        assert!(used.iter().any(|range| range.overlaps(Subnet([172, 30, 4]))));
        assert!(used.iter().any(|range| range.overlaps(Subnet([10, 213, 7]))));
        assert!(!used.iter().any(|range| range.overlaps(Subnet([10, 213, 8]))));
    }
}
