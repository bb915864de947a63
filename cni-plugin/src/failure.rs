//! What went wrong, as the runtime is told: a code of the specification (or one of ours from 100 on), a short
//! message, and the whole chain of causes in the details.

use std::path::PathBuf;

use rscni_types::error::Error as CniError;
use skerry_kernel::Error as KernelError;
use skerry_vocabulary::chain;

use crate::{datapath::DatapathError, netlink::NetlinkError, pool::PoolError, state::StateError};

/// Codes from 100 on are a plugin's own.
pub mod code {
    /// No free address in the node's pod CIDRs.
    pub const POOL: u32 = 100;
    /// The kernel lacks something that the datapath needs.
    pub const KERNEL: u32 = 101;
    /// A device, address or route could not be made.
    pub const NETWORK: u32 = 102;
    /// The agent's tables could not be written.
    pub const DATAPATH: u32 = 103;
    /// CHECK found something changed.
    pub const CHANGED: u32 = 104;
    /// The attachment exists already.
    pub const EXISTS: u32 = 105;
    /// Some of the cleaning up failed; the rest is done.
    pub const CLEANUP: u32 = 106;
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Cni(#[from] CniError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("open network namespace {path}", path = path.display())]
    Netns { path: PathBuf, source: std::io::Error },
    #[error("network namespace {path} is the node's own: a pod needs one of its own", path = path.display())]
    OwnNetns { path: PathBuf },
    #[error("the pod has a device {ifname} already (another plugin's, or a runtime's that did not clean up)")]
    IfnameTaken { ifname: String },
    #[error(
        "the node has a device {ifname} already, left over from this container or another one's: DEL, then ADD again"
    )]
    DeviceTaken { ifname: String },
    #[error("{}", what.join("; "))]
    Changed { what: Vec<String> },
    #[error("{}", what.join("; "))]
    Cleanup { what: Vec<String> },
}

impl Failure {
    /// As it goes to standard output.
    pub fn into_cni(self) -> CniError {
        let details = chain(&self);
        let own = |code, text: &str| CniError::Custom(code, text.to_owned(), details.clone());
        match &self {
            Failure::Cni(error) => error.clone(),
            Failure::State(StateError::Pool(PoolError::Full { .. })) => own(code::POOL, "No free address"),
            Failure::State(StateError::Pool(_)) => CniError::InvalidNetworkConfig(details),
            Failure::State(StateError::Exists { .. }) => own(code::EXISTS, "Attachment exists"),
            Failure::State(StateError::Busy { .. }) => CniError::TryAgainLater(details),
            Failure::State(_) => CniError::IOFailure(details),
            Failure::Datapath(error) if error.passes() => CniError::TryAgainLater(details),
            Failure::Datapath(DatapathError::NoTcx { .. }) => own(code::KERNEL, "Kernel is too old"),
            Failure::Datapath(_) => own(code::DATAPATH, "Datapath failure"),
            Failure::Netlink(_) | Failure::Kernel(_) => own(code::NETWORK, "Network failure"),
            Failure::Netns { .. } | Failure::OwnNetns { .. } => CniError::InvalidNetNS(details),
            Failure::IfnameTaken { .. } | Failure::DeviceTaken { .. } => {
                own(code::EXISTS, "Interface exists")
            }
            Failure::Changed { .. } => own(code::CHANGED, "Attachment has changed"),
            Failure::Cleanup { .. } => own(code::CLEANUP, "Cleaning up was not complete"),
        }
    }
}
