//! Jobs side by side, each on a team of threads of its own.
//!
//! Use this instead of a parallel iterator where a job is itself a long row of operators: the images of a batch do not
//! need each other, so two halves of a batch on one thread each finish sooner than one batch on two threads, which would
//! wait for each other at the end of every operator and stand idle in those that have one thread only.
//!
//! A team is a thread pool that takes jobs until there are none left; operators inside a job see the team as their pool.
//! Within a call no team takes work from another: with one pool for all, a thread that waits in an operator of one job
//! could begin another job in the middle of it, with all its memory.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Teams by (number of teams, threads of each), kept from call to call.
static TEAMS: Mutex<BTreeMap<(usize, usize), Teams>> = Mutex::new(BTreeMap::new());

/// A pool for each team.
type Teams = Arc<Vec<ThreadPool>>;

/// `f` of every job, in the jobs' order.
///
/// The threads of the present pool are shared out: with one thread, or one job, everything happens on the calling
/// thread.
///
/// # Panics
/// If `f` does.
pub fn map<J: Send, T: Send>(jobs: Vec<J>, f: impl Fn(J) -> T + Sync) -> Vec<T> {
    let (threads, teams) = (rayon::current_num_threads(), count(jobs.len()));
    let Some(teams) = (teams > 1).then(|| teams_of(teams, threads.div_ceil(teams))).flatten() else {
        return jobs.into_iter().map(f).collect();
    };
    let results: Vec<Mutex<Option<T>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let queue = Mutex::new(jobs.into_iter().zip(&results));
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((job, result)) = take() {
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(f(job));
        }
    };
    start(&teams, &work);
    let result = |r: Mutex<Option<T>>| r.into_inner().unwrap_or_else(PoisonError::into_inner);
    results
        .into_iter()
        .map(|r| result(r).expect("every job was taken and done, or its panic has ended the call"))
        .collect()
}

/// How many teams [`map`] makes of the present pool's threads for so many jobs: at least 1, and at most one for each thread.
pub fn count(jobs: usize) -> usize {
    // Powers of two, so that few sets of teams are ever made.
    ((rayon::current_num_threads().min(jobs) + 1).next_power_of_two() / 2).max(1)
}

/// `f` on a thread of the present pool.
///
/// Use this for a row of small operators on the CPU: a thread outside of the pool, such as the program's first one, hands each
/// operator to the pool and waits for it, which can take longer than the operator.
///
/// # Panics
/// If `f` does.
pub fn in_pool<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    if rayon::current_thread_index().is_some() { f() } else { rayon::scope(|_| f()) }
}

/// Runs `work` on every team at once, and returns when all are done.
fn start(teams: &[ThreadPool], work: &(impl Fn() + Sync)) {
    if let [first, rest @ ..] = teams {
        first.in_place_scope(|scope| {
            scope.spawn(|_| work());
            start(rest, work);
        });
    }
}

/// `None` if the system gives no threads: then the caller does the work.
fn teams_of(teams: usize, threads: usize) -> Option<Teams> {
    let mut all = TEAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = all.get(&(teams, threads)) {
        return Some(found.clone());
    }
    let name = move |team: usize| move |thread: usize| format!("team-{team}-{thread}");
    let team = |i: usize| ThreadPoolBuilder::new().num_threads(threads).thread_name(name(i)).build().ok();
    let made = Arc::new((0..teams).map(team).collect::<Option<Vec<_>>>()?);
    all.insert((teams, threads), made.clone());
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn on(threads: usize, f: impl FnOnce() + Send) {
        ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f);
    }

    #[test]
    fn results_are_in_the_jobs_order() {
        for threads in [1, 2, 3, 8] {
            on(threads, || {
                for jobs in [0, 1, 2, 5, 100] {
                    let got = map((0..jobs).collect(), |job: usize| job * job);
                    assert_eq!(got, (0..jobs).map(|job| job * job).collect::<Vec<_>>());
                }
            });
        }
    }

    #[test]
    fn there_is_a_power_of_two_of_teams() {
        for (threads, jobs, teams) in [(1, 9, 1), (2, 1, 1), (2, 2, 2), (3, 9, 2), (6, 9, 4), (8, 3, 2), (8, 0, 1)] {
            on(threads, || assert_eq!(count(jobs), teams, "{jobs} jobs on {threads} threads"));
        }
    }

    #[test]
    fn jobs_run_at_the_same_time_on_their_share_of_the_threads() {
        on(4, || {
            let both = Barrier::new(2);
            let threads = map(vec![(), ()], |()| {
                both.wait();
                rayon::current_num_threads()
            });
            assert_eq!(threads, [2, 2]);
        });
    }

    #[test]
    fn a_thread_outside_of_the_pool_enters_it() {
        let index = || rayon::current_thread_index();
        assert_eq!(index(), None, "a test runs outside of any pool");
        assert!(in_pool(index).is_some());
        on(3, || assert_eq!(in_pool(index), index()));
    }

    #[test]
    fn jobs_may_have_jobs() {
        on(4, || {
            let sums = map(vec![1, 2, 3], |a| map(vec![10, 20], |b| a + b).into_iter().sum::<i32>());
            assert_eq!(sums, [32, 34, 36]);
        });
    }

    #[test]
    #[should_panic(expected = "job 2")]
    fn a_panic_in_a_job_reaches_the_caller() {
        on(2, || {
            map(vec![1, 2, 3], |job| assert!(job != 2, "job 2"));
        });
    }
}
