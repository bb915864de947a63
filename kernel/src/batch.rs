//! Many elements by one system call (Linux 5.6; tries 5.16), or one by one where the kernel or the map's type
//! has no batches.

use std::io;

use bytemuck::Pod;

use crate::{Error, Map, Update, error::ENOTSUPP};

/// Elements asked for by one `BPF_MAP_LOOKUP_BATCH`; doubled when a single bucket holds more.
const LOOKUP_CHUNK: usize = 4_096;
/// A walk key by key may meet changes of others; more steps than this many times the map's size are refused.
const WALK_FACTOR: usize = 4;

impl<K: Pod + PartialEq, V: Pod> Map<K, V> {
    /// Writes all pairs, in order. On failure [`Error::Batch`] says how many are in.
    pub fn update_batch(&self, keys: &[K], values: &[V]) -> Result<(), Error> {
        if keys.len() != values.len() {
            let (keys, values) = (keys.len(), values.len());
            return Err(Error::Uneven { map: self.name.clone(), keys, values });
        }
        if keys.is_empty() {
            return Ok(());
        }
        let (key_bytes, value_bytes) = (bytemuck::cast_slice(keys), bytemuck::cast_slice(values));
        match self.raw.update_batch(key_bytes, value_bytes, keys.len(), Update::Any as u64) {
            (_, Ok(())) => Ok(()),
            (0, Err(error)) if no_batches(&error) => {
                self.one_by_one("update map", keys.len(), |i| self.update(&keys[i], &values[i], Update::Any))
            }
            (done, Err(source)) => Err(self.stopped("update map", done, keys.len(), source)),
        }
    }

    /// Deletes all keys; one that is not there is no error. Returns how many were there.
    pub fn delete_batch(&self, keys: &[K]) -> Result<usize, Error> {
        let (mut rest, mut deleted) = (keys, 0);
        while !rest.is_empty() {
            match self.raw.delete_batch(bytemuck::cast_slice(rest), rest.len()) {
                (_, Ok(())) => return Ok(deleted + rest.len()),
                // The kernel stops at the first key that is absent: skip it.
                (done, Err(error)) if error.raw_os_error() == Some(libc::ENOENT) => {
                    deleted += done;
                    rest = &rest[done + 1..];
                }
                (0, Err(error)) if no_batches(&error) => {
                    self.one_by_one("delete from map", rest.len(), |i| {
                        deleted += usize::from(self.delete(&rest[i])?);
                        Ok(())
                    })?;
                    return Ok(deleted);
                }
                (done, Err(source)) => {
                    return Err(self.stopped(
                        "delete from map",
                        keys.len() - rest.len() + done,
                        keys.len(),
                        source,
                    ));
                }
            }
        }
        Ok(deleted)
    }

    /// All elements. What others write meanwhile may or may not be among them; a key comes once.
    pub fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        let mut entries = Vec::new();
        self.for_each(|key, value| entries.push((key, value)))?;
        Ok(entries)
    }

    /// As [`Map::entries`], chunk by chunk: a large table takes no memory of its own size.
    pub fn for_each(&self, mut f: impl FnMut(K, V)) -> Result<(), Error> {
        let bound = self.info().max_entries as usize;
        let mut chunk = LOOKUP_CHUNK.min(bound.max(1));
        let (mut mark, mut next) = (None::<Vec<u8>>, self.raw.place());
        // Every round brings an element, ends, or doubles the chunk.
        for _ in 0..=bound + usize::BITS as usize {
            let (mut keys, mut values) = (vec![K::zeroed(); chunk], vec![V::zeroed(); chunk]);
            let (count, result) = self.raw.lookup_batch(
                mark.as_deref(),
                &mut next,
                bytemuck::cast_slice_mut(&mut keys),
                bytemuck::cast_slice_mut(&mut values),
                chunk,
            );
            match result {
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    chunk *= 2;
                    continue;
                }
                Err(error) if mark.is_none() && no_batches(&error) => return self.walk(f),
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                    return Err(self.error("read map", error));
                }
                end => {
                    keys.into_iter().zip(values).take(count).for_each(|(key, value)| f(key, value));
                    if end.is_err() {
                        return Ok(());
                    }
                    mark = Some(next.clone());
                }
            }
        }
        Err(Error::Restless { map: self.name.clone(), bound })
    }

    fn walk(&self, mut f: impl FnMut(K, V)) -> Result<(), Error> {
        let bound = (self.info().max_entries as usize).saturating_mul(WALK_FACTOR);
        let mut key = None;
        for _ in 0..=bound {
            let Some(next) = self.next_key(key.as_ref())? else { return Ok(()) };
            if let Some(value) = self.lookup(&next)? {
                f(next, value);
            }
            key = Some(next);
        }
        Err(Error::Restless { map: self.name.clone(), bound })
    }

    fn one_by_one(
        &self,
        operation: &'static str,
        total: usize,
        mut f: impl FnMut(usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for done in 0..total {
            f(done).map_err(|error| match error {
                Error::System { source, .. } => self.stopped(operation, done, total, source),
                other => other,
            })?;
        }
        Ok(())
    }

    fn stopped(&self, operation: &'static str, done: usize, total: usize, source: io::Error) -> Error {
        Error::Batch { operation, object: self.name.clone(), done, total, source }
    }
}

fn no_batches(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP))
}
