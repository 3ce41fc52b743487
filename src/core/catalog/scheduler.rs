//! Who is next: users in turn, so that one with ten thousand jobs delays nobody else's next one.
//!
//! A lane is one area's work for one server. Lanes and users have bounds on what runs at once, so a server that
//! is slow, or a user who asks for much, holds no more than that.

use imbl::{HashMap, OrdMap, OrdSet, Vector};

use crate::core::command::Area;
use crate::core::ids::JobId;
use crate::core::model::job::Job;
use crate::core::names::{ServerName, UserName};

/// How many jobs may run at once in the whole cluster.
#[derive(Debug, Clone, Copy)]
pub struct ConcurrencyLimits {
    pub per_user: usize,
    pub per_server: usize,
}

impl ConcurrencyLimits {
    /// Packages of one server are changed one after the other.
    fn of(&self, lane: &QueueKey) -> usize {
        match lane {
            QueueKey {
                area: Some(Area::Packages),
                server: Some(_),
            } => 1,
            _ => self.per_server,
        }
    }
}

/// One area's work for one server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    area: Option<Area>,
    server: Option<ServerName>,
}

impl QueueKey {
    pub fn of(job: &Job) -> Self {
        Self {
            area: job.area(),
            server: job.server.clone(),
        }
    }
}

/// A user's place.
#[derive(Debug, Clone, Copy, Default)]
struct UserShare {
    /// Where the user stands in the turns.
    turn: u64,
    waiting: u32,
    running: u32,
}

/// The jobs that wait, and how many run.
#[derive(Debug, Clone, Default)]
pub struct FairScheduler {
    /// Grows by one with every job that starts.
    clock: u64,
    users: HashMap<UserName, UserShare>,
    /// The users for whom something waits, in the order in which they are served.
    turns: OrdSet<(u64, UserName)>,
    /// What waits in each lane of each user, the oldest first.
    backlog: OrdMap<(UserName, QueueKey), Vector<JobId>>,
    waiting: usize,
    running: HashMap<QueueKey, u32>,
}

impl FairScheduler {
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn waiting_of(&self, user: &str) -> usize {
        self.users
            .get(user)
            .map_or(0, |share| share.waiting as usize)
    }

    /// The user's name as it is kept here already, so that many jobs share one text.
    pub fn user(&self, user: &UserName) -> UserName {
        self.users
            .get_key_value(user)
            .map_or(user, |(known, _)| known)
            .clone()
    }

    pub fn enqueue(&mut self, job: &Job) {
        let clock = self.clock;
        let share = self.users.entry(job.user.clone()).or_default();
        if share.waiting == 0 {
            // Before whoever was served last, after those who have waited.
            share.turn = 2 * clock;
            self.turns.insert((share.turn, job.user.clone()));
        }
        share.waiting += 1;
        self.waiting += 1;
        let lane = self
            .backlog
            .entry((job.user.clone(), QueueKey::of(job)))
            .or_default();
        // Nearly always it is the newest.
        match lane.last() {
            Some(last) if *last >= job.id => {
                if let Err(at) = lane.binary_search(&job.id) {
                    lane.insert(at, job.id);
                }
            }
            _ => lane.push_back(job.id),
        }
    }

    /// It waits no more. False: it did not wait.
    pub fn remove(&mut self, job: &Job) -> bool {
        let place = (job.user.clone(), QueueKey::of(job));
        let Some(lane) = self.backlog.get_mut(&place) else {
            return false;
        };
        let Ok(at) = lane.binary_search(&job.id) else {
            return false;
        };
        // Whoever is next stands first.
        if at == 0 {
            lane.pop_front()
        } else {
            Some(lane.remove(at))
        };
        if lane.is_empty() {
            self.backlog.remove(&place);
        }
        self.waiting -= 1;
        if let Some(share) = self.users.get_mut(&job.user) {
            share.waiting -= 1;
            if share.waiting == 0 {
                self.turns.remove(&(share.turn, job.user.clone()));
            }
        }
        self.tidy(&job.user);
        true
    }

    pub fn mark_running(&mut self, job: &Job) {
        if !self.remove(job) {
            return;
        }
        self.clock += 1;
        let share = self.users.entry(job.user.clone()).or_default();
        share.running += 1;
        if share.waiting > 0 {
            self.turns.remove(&(share.turn, job.user.clone()));
            share.turn = 2 * self.clock + 1;
            self.turns.insert((share.turn, job.user.clone()));
        }
        *self.running.entry(QueueKey::of(job)).or_default() += 1;
    }

    /// It runs no more.
    pub fn mark_stopped(&mut self, job: &Job) {
        let lane = QueueKey::of(job);
        if let Some(running) = self.running.get_mut(&lane) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(&lane);
            }
        }
        if let Some(share) = self.users.get_mut(&job.user) {
            share.running = share.running.saturating_sub(1);
        }
        self.tidy(&job.user);
    }

    /// One that runs without having waited here: it is read from a snapshot.
    pub fn count_running(&mut self, job: &Job) {
        self.users.entry(job.user.clone()).or_default().running += 1;
        *self.running.entry(QueueKey::of(job)).or_default() += 1;
    }

    fn tidy(&mut self, user: &UserName) {
        if self
            .users
            .get(user)
            .is_some_and(|share| share.waiting == 0 && share.running == 0)
        {
            self.users.remove(user);
        }
    }

    /// The next job of one of the areas that the bounds allow and `mine` takes: that of the user who has waited
    /// longest, and of that user the oldest.
    pub fn next_job(
        &self,
        areas: &[Area],
        bounds: &ConcurrencyLimits,
        mine: &impl Fn(JobId) -> bool,
    ) -> Option<JobId> {
        let may = |lane: &QueueKey| {
            let running = self
                .running
                .get(lane)
                .map_or(0, |running| *running as usize);
            lane.area.is_some_and(|area| areas.contains(&area)) && running < bounds.of(lane)
        };
        let free = self.turns.iter().filter(|(_, user)| {
            self.users
                .get(user)
                .is_some_and(|share| (share.running as usize) < bounds.per_user)
        });
        free.filter_map(|(_, user)| {
            let heads = self
                .oldest_per_queue(user)
                .filter(|(lane, head)| may(lane) && mine(*head));
            heads.map(|(_, head)| head).min()
        })
        .next()
    }

    /// The oldest job of each of a user's lanes.
    fn oldest_per_queue<'a>(
        &'a self,
        user: &'a UserName,
    ) -> impl Iterator<Item = (&'a QueueKey, JobId)> {
        let first = (
            user.clone(),
            QueueKey {
                area: None,
                server: None,
            },
        );
        let of_user = self
            .backlog
            .range(first..)
            .take_while(move |((of, _), _)| of == user);
        of_user.filter_map(|((_, lane), jobs)| Some((lane, *jobs.front()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::command::Command;
    use crate::core::ids::ValueId;
    use crate::core::model::job::JobStage;
    use crate::core::model::tool_call::CallTool;
    use uuid::Uuid;

    const BOUNDS: ConcurrencyLimits = ConcurrencyLimits {
        per_user: 4,
        per_server: 3,
    };

    fn job(number: u128, user: &str, server: &str) -> Job {
        Job {
            id: JobId(Uuid::from_u128(number)),
            user: user.parse().expect("a name"),
            command: CallTool::NAME.into(),
            server: Some(server.parse().expect("a name")),
            tool: None,
            arguments: ValueId(Uuid::nil()),
            key: None,
            stage: JobStage::Waiting { attempts: 0 },
        }
    }

    /// Starts whatever may start, and gives the numbers in their order.
    fn start_all(line: &mut FairScheduler, jobs: &[Job], most: usize) -> Vec<u128> {
        let mut started = Vec::new();
        while started.len() < most {
            let Some(next) = line.next_job(&[Area::Tools], &BOUNDS, &|_| true) else {
                break;
            };
            line.mark_running(jobs.iter().find(|job| job.id == next).expect("a job"));
            started.push(next.0.as_u128());
        }
        started
    }

    #[test]
    fn users_take_turns_whatever_they_have_waiting() {
        let mut jobs: Vec<_> = (1..=100)
            .map(|n| job(n, "much", &format!("s{}", n % 50)))
            .collect();
        jobs.extend([
            job(101, "little", "s1"),
            job(102, "little", "s2"),
            job(103, "other", "s3"),
        ]);
        let mut line = FairScheduler::default();
        jobs.iter().for_each(|job| line.enqueue(job));
        assert_eq!(start_all(&mut line, &jobs, 5), [101, 1, 103, 102, 2]);
        // Who comes now waits for nobody who was served after having come.
        let late = job(104, "late", "s4");
        line.enqueue(&late);
        jobs.push(late);
        assert_eq!(start_all(&mut line, &jobs, 1), [104]);
    }

    #[test]
    fn a_slow_server_and_a_greedy_user_are_bounded() {
        let mut jobs: Vec<_> = (1..=9).map(|n| job(n, "a", "slow")).collect();
        jobs.extend((11..=19).map(|n| job(n, "b", "slow")));
        jobs.extend((21..=29).map(|n| job(n, "a", "quick")));
        let mut line = FairScheduler::default();
        jobs.iter().for_each(|job| line.enqueue(job));
        let started = start_all(&mut line, &jobs, 99);
        assert_eq!(
            started.iter().filter(|n| **n < 20).count(),
            3,
            "a server has its bound: {started:?}"
        );
        assert_eq!(
            started.iter().filter(|n| **n < 10 || **n > 20).count(),
            4,
            "a user has one too: {started:?}"
        );
        let first = jobs
            .iter()
            .find(|job| job.id.0.as_u128() == started[0])
            .expect("a job");
        line.mark_stopped(first);
        let room = "what has ended makes room at its server, and for its user elsewhere";
        assert_eq!(start_all(&mut line, &jobs, 99), [12, 23], "{room}");
    }

    #[test]
    fn packages_of_one_server_are_changed_one_after_the_other() {
        let bounds = |area, server: Option<&str>| {
            BOUNDS.of(&QueueKey {
                area: Some(area),
                server: server.map(|name| name.parse().expect("a name")),
            })
        };
        assert_eq!(bounds(Area::Packages, Some("a")), 1);
        assert_eq!(
            (bounds(Area::Packages, None), bounds(Area::Tools, Some("a"))),
            (3, 3)
        );
    }

    #[test]
    fn nothing_is_left_of_who_has_nothing() {
        let (mut line, jobs) = (
            FairScheduler::default(),
            [job(1, "a", "s"), job(2, "a", "s")],
        );
        jobs.iter().for_each(|job| line.enqueue(job));
        start_all(&mut line, &jobs, 1);
        line.remove(&jobs[1]);
        line.mark_stopped(&jobs[0]);
        assert!(
            line.users.is_empty()
                && line.turns.is_empty()
                && line.backlog.is_empty()
                && line.running.is_empty()
        );
    }
}
