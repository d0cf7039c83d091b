//! Claims: blobs that are in use before metadata names them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Digest;

/// Which blobs are claimed, and how often.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claimed: Mutex<HashMap<Digest, usize>>,
}

/// Keeps the collector from a blob while it lives.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    digest: Digest,
}

impl Claims {
    /// Claims a blob, whether or not it is there.
    pub fn claim(&self, digest: &Digest) -> Claim<'_> {
        *self.lock().entry(digest.clone()).or_default() += 1;
        Claim {
            claims: self,
            digest: digest.clone(),
        }
    }

    /// Runs `work` unless the blob is claimed; nobody can claim it before `work` has returned.
    pub fn unless_claimed<T>(&self, digest: &Digest, work: impl FnOnce() -> T) -> Option<T> {
        let claimed = self.lock();
        (!claimed.contains_key(digest)).then(work)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = self.claims.lock();
        if let Some(count) = claimed.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                claimed.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_free_when_the_last_claim_on_it_goes() {
        let claims = Claims::default();
        let digest = Digest::of(b"a");
        let first = claims.claim(&digest);
        let second = claims.claim(&digest);
        drop(first);
        assert_eq!(claims.unless_claimed(&digest, || ()), None);
        assert_eq!(claims.unless_claimed(&Digest::of(b"b"), || ()), Some(()));
        drop(second);
        assert_eq!(claims.unless_claimed(&digest, || ()), Some(()));
    }
}
