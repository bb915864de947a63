/// An error with all its causes, `: ` between them, for one line of a log or an answer.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("start")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("read the file")]
    struct Inner(#[source] std::fmt::Error);

    #[test]
    fn every_cause_is_told_once_and_in_order() {
        let text = chain(&Outer(Inner(std::fmt::Error)));
        assert_eq!(text, format!("start: read the file: {}", std::fmt::Error));
    }
}
