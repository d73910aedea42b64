//! The environment behind a trait, so that tests never touch the process's own.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Environment variables.
pub trait Env {
    /// The variable's value, if it is set.
    fn get(&self, name: &str) -> Option<OsString>;
    /// The names of all variables that are set.
    fn names(&self) -> Vec<String>;
}

/// The process's own environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn get(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

impl<V: Clone + Into<OsString>> Env for BTreeMap<String, V> {
    fn get(&self, name: &str) -> Option<OsString> {
        BTreeMap::get(self, name).cloned().map(Into::into)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}
