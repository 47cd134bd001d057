//! Single flight: whoever asks for what is already being fetched waits for that answer.
//!
//! A leader that fails or is dropped lands without an answer; those who waited then ask for themselves.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;

/// What is being fetched.
pub struct Flights<K, V> {
    in_air: Mutex<InAir<K, V>>,
}

/// By key: since which stamp, and where the answer will come.
type InAir<K, V> = HashMap<K, (u64, watch::Receiver<Option<V>>)>;

/// Whether to fetch or to wait.
pub enum Seat<'f, K: Eq + Hash + Clone, V> {
    /// Fetch, and say what came with [`Lead::land`].
    Lead(Lead<'f, K, V>),
    /// Wait with [`follow`].
    Follow(watch::Receiver<Option<V>>),
}

/// The duty to fetch something that others wait for.
pub struct Lead<'f, K: Eq + Hash + Clone, V> {
    flights: &'f Flights<K, V>,
    key: K,
    answer: watch::Sender<Option<V>>,
    /// Not in the map: an older flight of the same key is.
    alone: bool,
}

impl<K: Eq + Hash + Clone, V: Clone> Flights<K, V> {
    /// Nothing is being fetched.
    pub fn new() -> Self {
        Self { in_air: Mutex::default() }
    }

    /// Leads, or follows a flight that began at `stamp` or later: an older one may not have seen the last change.
    pub fn board(&self, key: K, stamp: u64) -> Seat<'_, K, V> {
        let mut in_air = self.lock();
        let (answer, waiting) = watch::channel(None);
        let alone = match in_air.get(&key) {
            Some((since, flight)) if *since >= stamp => return Seat::Follow(flight.clone()),
            Some(_) => true,
            None => {
                in_air.insert(key.clone(), (stamp, waiting));
                false
            }
        };
        Seat::Lead(Lead { flights: self, key, answer, alone })
    }
}

impl<K, V> Flights<K, V> {
    fn lock(&self) -> MutexGuard<'_, InAir<K, V>> {
        self.in_air.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<K: Eq + Hash + Clone, V> Lead<'_, K, V> {
    /// What is being fetched.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The answer, for all who wait.
    pub fn land(self, value: V) {
        self.answer.send_replace(Some(value));
    }
}

impl<K: Eq + Hash + Clone, V> Drop for Lead<'_, K, V> {
    fn drop(&mut self) {
        if !self.alone {
            self.flights.lock().remove(&self.key);
        }
    }
}

/// Waits for another's fetch; `None`: it brought nothing, ask again.
pub async fn follow<V: Clone>(mut flight: watch::Receiver<Option<V>>) -> Option<V> {
    let answer = flight.wait_for(Option::is_some).await.ok()?;
    answer.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_gets_the_answer_or_learns_that_there_is_none() {
        let flights: Flights<u8, u8> = Flights::new();
        let Seat::Lead(lead) = flights.board(1, 5) else { panic!("the first leads") };
        let Seat::Follow(second) = flights.board(1, 5) else { panic!("the second waits") };
        assert!(matches!(flights.board(1, 6), Seat::Lead(_)), "a change since: not the old answer");
        lead.land(7);
        assert_eq!(follow(second).await, Some(7));

        let Seat::Lead(lead) = flights.board(1, 5) else { panic!("landed, so the next leads") };
        let Seat::Follow(waiting) = flights.board(1, 5) else { panic!("waits") };
        drop(lead);
        assert_eq!(follow(waiting).await, None);
    }
}
