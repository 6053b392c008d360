//! How a long computation says how far it got.

/// Is told the work done and the work to do, in units that the function names; called after every unit.
///
/// Every function that may take long takes a `&mut Progress`; `&mut |_, _| {}` ignores it.
pub type Progress<'a> = dyn FnMut(usize, usize) + 'a;
