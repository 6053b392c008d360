//! How a long computation says how far it got, and is asked to stop.

use std::ops::ControlFlow;

/// Is told the work done and the work to do, in units that the function names; called after every unit. It answers
/// whether to go on: after [`ControlFlow::Break`] the function ends with its error for [`Stopped`].
///
/// Every function that may take long takes a `&mut Progress`; `&mut` [`unwatched`] lets it run to its end.
///
/// ```
/// use std::ops::ControlFlow;
///
/// let mut watch = |done: usize, total: usize| {
///     eprintln!("{done} of {total}");
///     ControlFlow::Continue(())
/// };
/// let progress: &mut vdm::Progress = &mut watch;
/// assert!(progress(1, 2).is_continue());
/// ```
pub type Progress<'a> = dyn FnMut(usize, usize) -> ControlFlow<()> + 'a;

/// The [`Progress`] of a computation that nobody watches: it always goes on.
pub fn unwatched(_done: usize, _total: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A computation was asked to stop before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped before the end, as was asked")]
pub struct Stopped;

/// Tells `progress` how far the work is.
///
/// # Errors
/// [`Stopped`] if it answers so.
pub(crate) fn tell(progress: &mut Progress, done: usize, total: usize) -> Result<(), Stopped> {
    if progress(done, total).is_break() { Err(Stopped) } else { Ok(()) }
}
