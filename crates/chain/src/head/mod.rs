//! Which block is the head: agreement of endpoints, and what makes an agreed head unacceptable.

mod agreement;
mod tracker;

pub(crate) use agreement::{Patience, agree, orphaned};
pub use tracker::HeadRefusal;
pub(crate) use tracker::{Step, judge};
