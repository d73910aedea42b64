//! The part of the `whichpod` command that others read with, too: manifests as text, and how the command ends.

pub mod documents;
pub mod exit;
