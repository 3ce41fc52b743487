//! The calls of each user that wait until the user has opened a page.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::core::names::UserName;

/// The most calls of one user that wait for a page at the same time.
const MAX_WAITS_PER_USER: usize = 16;

/// The waits of each user for the pages of this facade.
#[derive(Default)]
pub struct SignInWaits(Mutex<HashMap<UserName, usize>>);

/// One wait of a user, until it is dropped.
pub(super) struct SignInWait<'a> {
    waits: &'a SignInWaits,
    user: UserName,
}

impl SignInWaits {
    /// Counts a wait. Returns `None` if the user has too many.
    pub(super) fn begin(&self, user: &UserName) -> Option<SignInWait<'_>> {
        let mut waits = self.0.lock();
        let count = waits.entry(user.clone()).or_default();
        if *count >= MAX_WAITS_PER_USER {
            return None;
        }
        *count += 1;
        Some(SignInWait {
            waits: self,
            user: user.clone(),
        })
    }
}

impl Drop for SignInWait<'_> {
    fn drop(&mut self) {
        let mut waits = self.waits.0.lock();
        if let Some(count) = waits.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                waits.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_of_a_user_are_limited_and_end() {
        let waits = SignInWaits::default();
        let user = |name: &str| name.parse::<UserName>().expect("a name");
        let open: Vec<_> = (0..MAX_WAITS_PER_USER)
            .map(|_| waits.begin(&user("ana")).expect("room"))
            .collect();
        assert!(waits.begin(&user("ana")).is_none());
        assert!(waits.begin(&user("ben")).is_some());
        drop(open);
        assert!(waits.0.lock().is_empty());
    }
}
