use std::collections::HashMap;

use proxy_abi::FrontendKey;

use crate::model::ObjectKey;

/// Which services want which frontend. Nearly always one; where several do (externalIPs that overlap), the
/// oldest has it, and the next gets it when that one lets go.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    one: HashMap<FrontendKey, ObjectKey>,
    /// Keys with more claimants than one: all but the one in `one`.
    more: HashMap<FrontendKey, Vec<ObjectKey>>,
}

impl Claims {
    pub fn add(&mut self, key: FrontendKey, service: &ObjectKey) {
        match self.one.get(&key) {
            None => {
                self.one.insert(key, service.clone());
            }
            Some(first) if first == service => {}
            Some(_) => {
                let more = self.more.entry(key).or_default();
                if !more.contains(service) {
                    more.push(service.clone());
                }
            }
        }
    }

    pub fn remove(&mut self, key: FrontendKey, service: &ObjectKey) {
        let next = self.more.get_mut(&key).and_then(|more| {
            if self.one.get(&key) == Some(service) {
                return more.pop();
            }
            more.retain(|other| other != service);
            None
        });
        if self.more.get(&key).is_some_and(Vec::is_empty) {
            self.more.remove(&key);
        }
        match next {
            Some(next) => {
                self.one.insert(key, next);
            }
            None if self.one.get(&key) == Some(service) => {
                self.one.remove(&key);
            }
            None => {}
        }
    }

    /// Frontends that anybody wants.
    pub fn len(&self) -> usize {
        self.one.len()
    }

    pub fn of(&self, key: &FrontendKey) -> impl Iterator<Item = &ObjectKey> {
        self.one.get(key).into_iter().chain(self.more.get(key).into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_claimant_that_lets_go_leaves_nothing() {
        let (a, b, c) = (ObjectKey::new("n", "a"), ObjectKey::new("n", "b"), ObjectKey::new("n", "c"));
        let key = FrontendKey::default();
        let mut claims = Claims::default();
        for service in [&a, &b, &c, &a] {
            claims.add(key, service);
        }
        claims.remove(key, &a);
        claims.remove(key, &a);
        assert_eq!(claims.of(&key).count(), 2);
        claims.remove(key, &b);
        assert_eq!(claims.of(&key).collect::<Vec<_>>(), [&c]);
        claims.remove(key, &c);
        assert!(claims.one.is_empty() && claims.more.is_empty());
    }
}
