//! What a request costs in whichpod, in Envoy, in HAProxy and in nginx, measured in one run on the same backends.
//!
//! The modules are in the order of a run.

/// Tells how far a run has come, on standard error.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write;
        // Nobody is left to tell if this fails.
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}

pub mod comparison;
pub mod instructions;
pub mod options;

pub mod programs;
pub mod row;

pub mod backends;
pub mod cores;
pub mod peer;
pub mod process;

pub mod load;
pub mod meter;

pub mod statistics;

pub mod report;
