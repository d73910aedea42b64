//! Changes of a JSON value that know how to be taken back. A path is a JSON Pointer (RFC 6901) in which a token
//! `key=value` picks the item of a list that has this member, so that it holds when a list is reordered.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::json::{self, escape, unescape};
use crate::matching;

/// How often a value of a template may be looked at to find the changes that a status notes: a fifth of a second.
const MOST_WORK: usize = 4_000_000;

/// Whether these changes of a template will be found again with half of [`MOST_WORK`]: the rest is for what the template
/// grows by before its status is read.
pub(crate) fn are_affordable(changes: &[Change], template: &Value) -> bool {
    let made = changes
        .iter()
        .map(|(Change::Set { to: made, .. } | Change::Insert { item: made, .. })| json::weight(made));
    changes.len().saturating_mul(json::weight(template) + made.sum::<usize>()) <= MOST_WORK / 2
}

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Change {
    /// A member of an object gets a value; `from` is what was there, nothing if it was absent.
    Set {
        path: String,
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "even_null")]
        from: Option<Value>,
        to: Value,
    },
    /// A list gets an item, at its end unless it is to be the first.
    Insert {
        list: String,
        item: Value,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        first: bool,
    },
}

/// Changes that were made, and the parents that had to be made for them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) changes: Vec<Change>,
    /// Lists and objects that were absent before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) absent: Vec<String>,
    /// Lists and objects that were null before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) null: Vec<String>,
}

/// The value has another shape than the Kubernetes API gives it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path} is not what the Kubernetes API says it is")]
pub(crate) struct WrongShape {
    pub(crate) path: String,
}

/// How far taking back goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// What somebody changed since stays.
    Unchanged,
    /// What is whichpod's by its name goes even if somebody changed it: it will be written anew.
    Ours,
}

impl Change {
    /// Sets a member, remembering what `value` has there now; `None` if it has that value already.
    pub(crate) fn set(value: &Value, object: &str, key: &str, to: Value) -> Option<Change> {
        let from = find(value, &tokens(object)).first().and_then(|object| object.get(key)).cloned();
        let path = format!("{object}/{}", escape(key));
        (from.as_ref() != Some(&to)).then_some(Change::Set { path, from, to })
    }

    /// Appends an item to a list.
    pub(crate) fn append(list: &str, item: Value) -> Change {
        Change::Insert { list: list.to_owned(), item, first: false }
    }

    /// Puts an item before all others of a list.
    pub(crate) fn prepend(list: &str, item: Value) -> Change {
        Change::Insert { list: list.to_owned(), item, first: true }
    }

    /// The member of the template's `spec` that it is in.
    pub(crate) fn spec_member(&self) -> Option<&str> {
        let (Change::Set { path, .. } | Change::Insert { list: path, .. }) = self;
        path.strip_prefix("/spec/")?.split('/').next()
    }

    fn condensed(&self) -> Change {
        match self {
            Change::Set { path, from, to } => {
                Change::Set { path: path.clone(), from: from.clone(), to: matching::condense(to) }
            }
            Change::Insert { list, item, first } => {
                Change::Insert { list: list.clone(), item: matching::condense(item), first: *first }
            }
        }
    }
}

impl Record {
    /// Whether it can be followed in this template within [`MOST_WORK`]: anybody may write a record into an object.
    pub(crate) fn is_affordable(&self, template: &Value) -> bool {
        let noted = self.changes.len() + self.absent.len() + self.null.len();
        noted.saturating_mul(json::weight(template)) <= MOST_WORK
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.absent.is_empty() && self.null.is_empty()
    }

    /// Adds later changes: what was there before the first change of a place is what comes back.
    pub(crate) fn merge(&mut self, later: &Record) {
        for change in &later.changes {
            let earlier = self.changes.iter_mut().find_map(|earlier| match (earlier, change) {
                (Change::Set { path, to, .. }, Change::Set { path: again, .. }) if path == again => Some(to),
                _ => None,
            });
            match (earlier, change) {
                (Some(earlier), Change::Set { to, .. }) => *earlier = to.clone(),
                _ => self.changes.push(change.clone()),
            }
        }
        self.absent.extend(later.absent.iter().cloned());
        self.null.extend(later.null.iter().cloned());
    }

    /// Makes a change and records it.
    pub(crate) fn apply(&mut self, value: &mut Value, change: &Change) -> Result<(), WrongShape> {
        match change {
            Change::Set { path, from, to } => {
                let (object, key) = split_last(path);
                match from {
                    None => {
                        let object = self.make(value, object, &Value::Object(Map::new()))?;
                        let object = object.as_object_mut().ok_or_else(|| wrong(path))?;
                        object.insert(key, to.clone());
                    }
                    Some(from) => {
                        let replaced = visit(value, &tokens(object), Order::Forward, &mut |object| {
                            let slot = object.get_mut(&key).filter(|slot| **slot == *from);
                            slot.map(|slot| *slot = to.clone()).is_some()
                        });
                        replaced.then_some(()).ok_or_else(|| wrong(path))?;
                    }
                }
            }
            Change::Insert { list, item, first } => {
                let items = self.make(value, list, &Value::Array(Vec::new()))?;
                let items = items.as_array_mut().ok_or_else(|| wrong(list))?;
                let at = if *first { 0 } else { items.len() };
                items.insert(at, item.clone());
            }
        }
        self.changes.push(change.condensed());
        Ok(())
    }

    /// The object or list at a path, made (and recorded) where there is none.
    pub(crate) fn make<'v>(
        &mut self,
        value: &'v mut Value,
        path: &str,
        empty: &Value,
    ) -> Result<&'v mut Value, WrongShape> {
        let tokens = tokens(path);
        let mut walked = String::new();
        let mut at = value;
        for (index, token) in tokens.iter().enumerate() {
            walked.push('/');
            walked.push_str(&escape(token));
            at = match at {
                Value::Object(members) => {
                    match members.get(token) {
                        None => self.absent.push(walked.clone()),
                        Some(Value::Null) => self.null.push(walked.clone()),
                        Some(_) => {}
                    }
                    let slot = members.entry(token.as_str()).or_insert(Value::Null);
                    if slot.is_null() {
                        let last = index + 1 == tokens.len();
                        *slot = if last { empty.clone() } else { Value::Object(Map::new()) };
                    }
                    slot
                }
                Value::Array(items) => {
                    items.iter_mut().find(|item| picks(token, item)).ok_or_else(|| wrong(&walked))?
                }
                _ => return Err(wrong(&walked)),
            };
        }
        Ok(at)
    }

    /// Takes the changes back, the last one first; returns what somebody changed since: what therefore stays, or with
    /// [`Take::Ours`] what goes all the same.
    pub(crate) fn undo(&self, value: &mut Value, take: Take) -> Vec<String> {
        let mut edited: Vec<String> =
            self.changes.iter().rev().filter_map(|change| undo_one(value, change, take)).collect();
        edited.reverse();
        let mut parents: Vec<(&String, bool)> = self
            .absent
            .iter()
            .map(|path| (path, false))
            .chain(self.null.iter().map(|path| (path, true)))
            .collect();
        // A child's path is longer than its parent's.
        parents.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        for (path, was_null) in parents {
            let (object, key) = split_last(path);
            visit(value, &tokens(object), Order::Backward, &mut |object| {
                let Some(members) = object.as_object_mut() else { return false };
                if !members.get(&key).is_some_and(is_empty_container) {
                    return false;
                }
                if was_null {
                    members.insert(key.clone(), Value::Null);
                } else {
                    members.shift_remove(&key);
                }
                true
            });
        }
        edited
    }

    /// Whether everything that was written still does its work.
    pub(crate) fn intact(&self, value: &Value) -> bool {
        self.changes.iter().all(|change| find_live(value, change).is_some())
    }

    /// The changes with the values as they stand in `value` (the record has long ones by hash only).
    pub(crate) fn as_in(&self, value: &Value) -> Option<Vec<Change>> {
        let with_live = |change: &Change| {
            let live = find_live(value, change)?.clone();
            Some(match change {
                Change::Set { path, from, .. } => {
                    Change::Set { path: path.clone(), from: from.clone(), to: live }
                }
                Change::Insert { list, first, .. } => {
                    Change::Insert { list: list.clone(), item: live, first: *first }
                }
            })
        };
        self.changes.iter().map(with_live).collect()
    }
}

/// What stands where a change was made, if it still does its work.
fn find_live<'v>(value: &'v Value, change: &Change) -> Option<&'v Value> {
    match change {
        Change::Set { path, to, .. } => {
            let all = find(value, &tokens(path));
            all.into_iter().find(|live| matching::unchanged(to, live))
        }
        Change::Insert { list, item, .. } => {
            let lists = find(value, &tokens(list));
            lists.into_iter().filter_map(Value::as_array).flatten().find(|live| matching::serves(item, live))
        }
    }
}

/// Takes one change back; returns it if somebody changed it and it stays, or with [`Take::Ours`] goes all the same.
fn undo_one(value: &mut Value, change: &Change, take: Take) -> Option<String> {
    match change {
        Change::Set { path, from, to } => {
            let (object, key) = split_last(path);
            let undone = visit(value, &tokens(object), Order::Backward, &mut |object| {
                let Some(members) = object.as_object_mut() else { return false };
                if !members.get(&key).is_some_and(|live| matching::unchanged(to, live)) {
                    return false;
                }
                match from {
                    Some(from) => members.insert(key.clone(), from.clone()),
                    None => members.shift_remove(&key),
                };
                true
            });
            if undone || take == Take::Ours {
                return None;
            }
            let others = find(value, &tokens(path));
            others.iter().any(|live| Some(*live) != from.as_ref()).then(|| path.clone())
        }
        Change::Insert { list, item, .. } => {
            let mut edited = None;
            visit(value, &tokens(list), Order::Backward, &mut |live| {
                let Some(items) = live.as_array_mut() else { return false };
                if let Some(at) = items.iter().position(|live| matching::unchanged(item, live)) {
                    items.remove(at);
                } else if let Some(at) = items.iter().position(|live| matching::same_item(item, live)) {
                    let name = described(list, &items[at]);
                    let emptied = matching::drop_hostnames(item, &mut items[at]);
                    let ours = take == Take::Ours && matching::ours_by_name(item);
                    if emptied || ours {
                        items.remove(at);
                    }
                    edited = (!emptied && ours == (take == Take::Ours)).then_some(name);
                } else {
                    return false;
                }
                true
            });
            edited
        }
    }
}

fn described(list: &str, item: &Value) -> String {
    let id = ["name", "ip"].iter().find_map(|key| item.get(*key)?.as_str()).unwrap_or("item");
    format!("{list}/{id}")
}

/// In which order the items of a list are tried; taking back goes the other way than making, so that items of one name
/// get their own originals back.
#[derive(Debug, Clone, Copy)]
enum Order {
    Forward,
    Backward,
}

/// Calls `act` on each value at a path until one says that it is done.
fn visit(
    value: &mut Value,
    tokens: &[String],
    order: Order,
    act: &mut dyn FnMut(&mut Value) -> bool,
) -> bool {
    let Some((token, rest)) = tokens.split_first() else { return act(value) };
    match value {
        Value::Object(members) => {
            members.get_mut(token).is_some_and(|member| visit(member, rest, order, act))
        }
        Value::Array(items) => {
            let mut visit_item = |item: &mut Value| picks(token, item) && visit(item, rest, order, act);
            match order {
                Order::Forward => items.iter_mut().any(visit_item),
                Order::Backward => items.iter_mut().rev().any(&mut visit_item),
            }
        }
        _ => false,
    }
}

/// All values at a path.
fn find<'v>(value: &'v Value, tokens: &[String]) -> Vec<&'v Value> {
    let Some((token, rest)) = tokens.split_first() else { return vec![value] };
    match value {
        Value::Object(members) => members.get(token).map_or_else(Vec::new, |member| find(member, rest)),
        Value::Array(items) => {
            items.iter().filter(|item| picks(token, item)).flat_map(|item| find(item, rest)).collect()
        }
        _ => Vec::new(),
    }
}

fn picks(token: &str, item: &Value) -> bool {
    token.split_once('=').is_some_and(|(key, want)| item.get(key).and_then(Value::as_str) == Some(want))
}

fn tokens(path: &str) -> Vec<String> {
    path.split('/').skip(1).map(unescape).collect()
}

fn split_last(path: &str) -> (&str, String) {
    let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
    (parent, unescape(last))
}

fn is_empty_container(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

fn wrong(path: &str) -> WrongShape {
    WrongShape { path: path.to_owned() }
}

/// Tells a null from an absent member, which serde takes for one.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests;
