//! What is to be done with an object, given what its owners are. Pure.

use std::collections::HashSet;

use kube::api::PropagationPolicy;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It is there and stays.
    Solid,
    /// It is being deleted and waits for its dependents to go first.
    Waiting,
    Absent,
}

pub struct View<'a> {
    /// Uid and state of each owner.
    pub owners: &'a [(String, OwnerState)],
    /// The object's dependents are to be left alone when it goes.
    pub orphans: bool,
    /// The object is to wait for its dependents when it goes.
    pub foreground: bool,
    pub has_dependents: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Keep,
    /// Take these owners' references out: others still hold the object.
    Disown(Vec<String>),
    Delete(PropagationPolicy),
}

pub fn judge(view: &View<'_>) -> Verdict {
    let of = |state| view.owners.iter().filter(move |(_, is)| *is == state);
    if view.owners.is_empty() {
        return Verdict::Keep;
    }
    if of(OwnerState::Solid).next().is_some() {
        let gone = view.owners.iter().filter(|(_, state)| *state != OwnerState::Solid);
        let gone: Vec<String> = gone.map(|(uid, _)| uid.clone()).collect();
        return if gone.is_empty() { Verdict::Keep } else { Verdict::Disown(gone) };
    }
    if of(OwnerState::Waiting).next().is_some() && view.has_dependents {
        // Whoever deletes the owner in the foreground waits for the whole tree.
        return Verdict::Delete(PropagationPolicy::Foreground);
    }
    Verdict::Delete(if view.orphans {
        PropagationPolicy::Orphan
    } else if view.foreground {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    })
}

/// Whether an object that is being deleted in the foreground must still wait. `blockers` names, for the uid
/// of an owner, those that hold it back, and whether each waits itself. Those that wait for one another go
/// together: in a circle of owners nobody would ever be the first, and one that owns itself waits for nobody.
pub fn is_held(object: &str, blockers: &dyn Fn(&str) -> Vec<(String, bool)>) -> bool {
    let mut others = blockers(object).into_iter().filter(|(uid, _)| uid != object);
    others.any(|(uid, waits)| !waits || !reaches(&uid, object, blockers))
}

/// Whether `from` waits for `to`, over others that wait.
fn reaches(from: &str, to: &str, blockers: &dyn Fn(&str) -> Vec<(String, bool)>) -> bool {
    let mut seen = HashSet::from([from.to_owned()]);
    let mut ahead = vec![from.to_owned()];
    while let Some(next) = ahead.pop() {
        for (uid, waits) in blockers(&next) {
            if uid == to {
                return true;
            }
            if waits && seen.insert(uid.clone()) {
                ahead.push(uid);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::OwnerState::{Absent, Solid, Waiting};
    use super::*;

    fn verdict(owners: &[OwnerState], has_dependents: bool) -> Verdict {
        let owners: Vec<_> = owners.iter().enumerate().map(|(n, state)| (n.to_string(), *state)).collect();
        judge(&View { owners: &owners, orphans: false, foreground: false, has_dependents })
    }

    #[test]
    fn object_goes_only_when_no_owner_holds_it() {
        assert_eq!(verdict(&[], true), Verdict::Keep, "without owners it is nobody's garbage");
        assert_eq!(verdict(&[Solid], true), Verdict::Keep);
        assert_eq!(verdict(&[Absent, Solid, Waiting], true), Verdict::Disown(vec!["0".into(), "2".into()]));
        assert_eq!(verdict(&[Absent], true), Verdict::Delete(PropagationPolicy::Background));
        assert_eq!(verdict(&[Absent, Waiting], false), Verdict::Delete(PropagationPolicy::Background));
        assert_eq!(verdict(&[Waiting], true), Verdict::Delete(PropagationPolicy::Foreground));
    }

    #[test]
    fn the_objects_own_wish_for_its_dependents_is_kept() {
        let owners = [("a".to_owned(), Absent)];
        let view = View { owners: &owners, orphans: true, foreground: false, has_dependents: true };
        assert_eq!(judge(&view), Verdict::Delete(PropagationPolicy::Orphan));
    }

    /// `owner: dependent dependent …`, a `*` behind those that wait themselves.
    fn held(object: &str, graph: &[(&str, &[&str])]) -> bool {
        is_held(object, &|uid| {
            let of =
                graph.iter().find(|(owner, _)| *owner == uid).map_or(&[][..], |(_, dependents)| dependents);
            of.iter().map(|name| (name.trim_end_matches('*').to_owned(), name.ends_with('*'))).collect()
        })
    }

    #[test]
    fn owners_in_a_circle_go_together_once_all_of_them_are_to_go() {
        assert!(!held("a", &[("a", &["a*"])]), "it owns itself");
        assert!(held("a", &[("a", &["b"]), ("b", &["a*"])]), "the other is not deleted yet");
        assert!(!held("a", &[("a", &["b*"]), ("b", &["a*"])]));
        assert!(!held("a", &[("a", &["b*"]), ("b", &["c*"]), ("c", &["a*"])]));
        assert!(held("a", &[("a", &["b*", "d*"]), ("b", &["a*"])]), "one outside of the circle comes first");
        assert!(held("a", &[("a", &["b*"])]), "no circle: from the leaves up");
        assert!(
            held("a", &[("a", &["b*"]), ("b", &["c*"]), ("c", &["b*"])]),
            "a circle that it is no part of"
        );
        assert!(!held("a", &[]));
    }
}
