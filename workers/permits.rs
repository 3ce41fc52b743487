//! Bounds on the work under way: on calls in total and for each user, and on changes. (Each server's
//! is in its slot.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::Limits;
use crate::core::names::UserName;

/// Changes at once. They have places of their own: a worker full of calls can still be told to
/// disable the server they wait for.
const CHANGES: usize = 256;

pub struct Permits {
    calls: Semaphore,
    all_calls: usize,
    changes: Semaphore,
    per_user: usize,
    users: Arc<Mutex<HashMap<UserName, usize>>>,
}

/// One call of one user, until dropped.
pub struct UserPermit {
    users: Arc<Mutex<HashMap<UserName, usize>>>,
    user: UserName,
}

impl Permits {
    pub fn new(limits: &Limits) -> Self {
        Self {
            calls: Semaphore::new(limits.calls),
            all_calls: limits.calls,
            changes: Semaphore::new(CHANGES),
            per_user: limits.calls_per_user,
            users: Arc::default(),
        }
    }

    /// A place among all calls. `None`: there is none, and the asker is told so at once.
    pub fn call(&self) -> Option<SemaphorePermit<'_>> {
        self.calls.try_acquire().ok()
    }

    /// A place among all changes.
    pub fn change(&self) -> Option<SemaphorePermit<'_>> {
        self.changes.try_acquire().ok()
    }

    /// A place among a user's own.
    pub fn user(&self, user: &UserName) -> Option<UserPermit> {
        let mut users = lock(&self.users);
        let running = users.entry(user.clone()).or_default();
        if *running >= self.per_user {
            return None;
        }
        *running += 1;
        Some(UserPermit {
            users: self.users.clone(),
            user: user.clone(),
        })
    }

    /// Waits until nothing is under way.
    pub async fn all_free(&self) {
        let _ = self.calls.acquire_many(self.all_calls as u32).await;
        let _ = self.changes.acquire_many(CHANGES as u32).await;
    }
}

impl Drop for UserPermit {
    fn drop(&mut self) {
        let mut users = lock(&self.users);
        if let Some(running) = users.get_mut(&self.user) {
            *running -= 1;
            if *running == 0 {
                users.remove(&self.user);
            }
        }
    }
}

fn lock(users: &Mutex<HashMap<UserName, usize>>) -> MutexGuard<'_, HashMap<UserName, usize>> {
    users.lock().unwrap_or_else(PoisonError::into_inner)
}
