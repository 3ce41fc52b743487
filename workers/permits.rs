//! Bounds on the work under way: in total, and for each user. (Each server's is in its slot.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::Limits;
use crate::core::names::UserName;

pub struct Permits {
    total: Semaphore,
    calls: usize,
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
            total: Semaphore::new(limits.calls),
            calls: limits.calls,
            per_user: limits.calls_per_user,
            users: Arc::default(),
        }
    }

    /// A place among all. `None`: there is none, and the asker is told so at once.
    pub fn one(&self) -> Option<SemaphorePermit<'_>> {
        self.total.try_acquire().ok()
    }

    /// A place among a user's own.
    pub fn user(&self, user: &UserName) -> Option<UserPermit> {
        let mut users = lock(&self.users);
        let running = users.entry(user.clone()).or_default();
        if *running >= self.per_user {
            return None;
        }
        *running += 1;
        Some(UserPermit { users: self.users.clone(), user: user.clone() })
    }

    /// Waits until nothing is under way.
    pub async fn all_free(&self) {
        let _ = self.total.acquire_many(self.calls as u32).await;
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
