//! What the runtime does with containers' logs.

use k8s_cri::v1;

use super::{CALL_LIMIT, Cri, CriError, call};
use crate::logs::Reopen;

impl Reopen for Cri {
    async fn reopen_log(&self, container_id: &str) -> Result<(), CriError> {
        let request = v1::ReopenContainerLogRequest { container_id: container_id.to_owned() };
        let mut runtime = self.runtime.clone();
        let answer = runtime.reopen_container_log(request);
        call("ReopenContainerLog", container_id, CALL_LIMIT, answer).await.map(drop)
    }
}
