//! Who the clients are, their sessions, and that each request is carried out once (RFC 8881 §2.10, §18.35 to §18.37, §18.46).
//! Pure: no I/O; the moment is passed in.
//!
//! A client whose lease has run out is kept, with all that it holds, until somebody wants the same or there are too many
//! (courtesy, §8.4.2.4 of RFC 8881 allows it).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::proto::{self, CACHED_BYTES_MAX, IO_BYTES_MAX, OPERATIONS_MAX, RECORD_BYTES_MAX, SLOTS_MAX, Status, exchange};

/// Clients that are known at a time; the one that was silent for longest goes, if its lease has run out.
const CLIENTS_MAX: usize = 1024;
/// Sessions of one client.
const SESSIONS_MAX: usize = 64;
/// A channel of smaller requests or replies is of no use.
const CHANNEL_BYTES_MIN: u32 = 512;

/// Identifies a session.
pub type SessionId = [u8; 16];
/// Identifies a client, and the life of the server that it was given by.
pub type ClientId = u64;

/// Who makes requests: the user of AUTH_SYS.
pub(crate) type Principal = Option<u32>;

/// The bounds of one direction of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Channel {
    pub request_bytes: u32,
    pub reply_bytes: u32,
    pub cached_bytes: u32,
    pub operations: u32,
    pub slots: u32,
}

impl Channel {
    /// What of it is granted.
    ///
    /// # Errors
    /// [`Status::Inval`] for a channel that nothing fits through.
    fn granted(self) -> Result<Self, Status> {
        if self.request_bytes < CHANNEL_BYTES_MIN
            || self.reply_bytes < CHANNEL_BYTES_MIN
            || self.operations < 2
            || self.slots == 0
        {
            return Err(Status::Inval);
        }
        Ok(Self {
            request_bytes: self.request_bytes.min(RECORD_BYTES_MAX as u32),
            reply_bytes: self.reply_bytes.min(IO_BYTES_MAX + proto::HEADER_BYTES_MAX),
            cached_bytes: self.cached_bytes.min(CACHED_BYTES_MAX),
            operations: self.operations.min(OPERATIONS_MAX),
            slots: self.slots.min(SLOTS_MAX),
        })
    }
}

/// What EXCHANGE_ID says.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Introduction {
    pub owner: Bytes,
    pub verifier: [u8; 8],
    pub flags: u32,
}

/// And what it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Introduced {
    pub client: ClientId,
    pub sequence: u32,
    pub flags: u32,
}

/// What CREATE_SESSION is answered, for the fore channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Created {
    pub session: SessionId,
    pub sequence: u32,
    pub fore: Channel,
}

#[derive(Debug)]
struct Client {
    owner: Bytes,
    verifier: [u8; 8],
    principal: Principal,
    /// A session was made for it.
    confirmed: bool,
    /// Of the last CREATE_SESSION, and its answer.
    sequence: u32,
    created: Option<Created>,
    sessions: Vec<SessionId>,
    renewed: Instant,
    reclaimed: bool,
}

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub client: ClientId,
    pub fore: Channel,
    slots: Vec<Mutex<Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    sequence: u32,
    busy: bool,
    /// Of the request that was carried out last: its fingerprint, and the reply where the client wanted it kept.
    print: u64,
    reply: Option<Bytes>,
}

/// What is to be done with a request.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It is carried out, and then [`Turn`] is finished.
    Run(Running),
    /// It was, and this is the reply.
    Again(Bytes),
    /// It was, and nobody kept the reply.
    Forgotten,
}

/// A slot that is taken by a request. Dropped without an answer, as by a panic, it counts as carried out and forgotten.
#[derive(Debug)]
pub(crate) struct Running {
    pub session: Arc<Session>,
    pub keep: bool,
    slot: u32,
}

impl Running {
    /// The request is answered.
    pub fn finish(self, reply: Option<Bytes>) {
        if let Some(slot) = self.session.slots.get(self.slot as usize) {
            lock(slot).reply = reply;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(slot) = self.session.slots.get(self.slot as usize) {
            lock(slot).busy = false;
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    clients: HashMap<ClientId, Client>,
    sessions: HashMap<SessionId, Arc<Session>>,
    last_client: u32,
}

/// All clients and sessions of a server.
#[derive(Debug)]
pub(crate) struct Sessions {
    /// Which life of the server: another one each time.
    boot: u32,
    lease: Duration,
    inner: Mutex<Inner>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    pub fn new(boot: u32, lease: Duration) -> Self {
        Self { boot, lease, inner: Mutex::default() }
    }

    pub fn lease_seconds(&self) -> u32 {
        self.lease.as_secs() as u32
    }

    /// EXCHANGE_ID (§18.35.4). With the clients that are no more.
    ///
    /// # Errors
    /// As the section names them.
    pub fn introduce(
        &self,
        intro: Introduction,
        principal: Principal,
        now: Instant,
    ) -> Result<(Introduced, Vec<ClientId>), Status> {
        if intro.flags & !exchange::MASK != 0 {
            return Err(Status::Inval);
        }
        let mut inner = lock(&self.inner);
        let known = inner.clients.iter().find(|(_, client)| client.confirmed && client.owner == intro.owner);
        let known = known.map(|(id, client)| (*id, client.verifier == intro.verifier, client.principal == principal));
        if intro.flags & exchange::UPD_CONFIRMED_REC_A != 0 {
            return match known {
                None => Err(Status::NoEnt),
                Some((_, _, false)) => Err(Status::Perm),
                Some((_, false, _)) => Err(Status::NotSame),
                Some((id, true, true)) => inner.introduced(id, now).map(|introduced| (introduced, Vec::new())),
            };
        }
        match known {
            Some((id, true, true)) => return inner.introduced(id, now).map(|introduced| (introduced, Vec::new())),
            Some((id, _, false)) if !inner.is_expired(id, self.lease, now) => return Err(Status::ClidInUse),
            _ => {}
        }
        // Who introduced itself under that name and got no further does so anew.
        inner.clients.retain(|_, client| client.confirmed || client.owner != intro.owner);
        let gone = inner.make_room(self.lease, now)?;
        inner.last_client = inner.last_client.wrapping_add(1);
        let id = u64::from(self.boot) << 32 | u64::from(inner.last_client);
        let client = Client {
            owner: intro.owner,
            verifier: intro.verifier,
            principal,
            confirmed: false,
            sequence: 0,
            created: None,
            sessions: Vec::new(),
            renewed: now,
            reclaimed: false,
        };
        inner.clients.insert(id, client);
        Ok((inner.introduced(id, now)?, gone))
    }

    /// CREATE_SESSION (§18.36.4). With the clients that are no more: those of that name before it was started anew.
    ///
    /// # Errors
    /// As the section names them.
    pub fn create(
        &self,
        client: ClientId,
        sequence: u32,
        (fore, id): (Channel, SessionId),
        principal: Principal,
        now: Instant,
    ) -> Result<(Created, Vec<ClientId>), Status> {
        let mut inner = lock(&self.inner);
        let found = inner.clients.get_mut(&client).ok_or(Status::StaleClientId)?;
        if let Some(created) = found.created.filter(|_| sequence == found.sequence) {
            return Ok((created, Vec::new()));
        }
        if sequence != found.sequence.wrapping_add(1) {
            return Err(Status::SeqMisordered);
        }
        if found.principal != principal {
            return Err(Status::ClidInUse);
        }
        let fore = fore.granted()?;
        if found.sessions.len() >= SESSIONS_MAX {
            return Err(Status::Delay);
        }
        found.confirmed = true;
        found.sequence = sequence;
        found.renewed = now;
        found.sessions.push(id);
        let created = Created { session: id, sequence, fore };
        found.created = Some(created);
        let owner = found.owner.clone();
        let slots = (0..fore.slots).map(|_| Mutex::default()).collect();
        inner.sessions.insert(id, Arc::new(Session { client, fore, slots }));
        let before: Vec<ClientId> =
            inner.clients.iter().filter(|(other, known)| **other != client && known.owner == owner).map(|(id, _)| *id).collect();
        for other in &before {
            inner.forget(*other);
        }
        Ok((created, before))
    }

    /// SEQUENCE (§18.46.3): whether a request is carried out. Renews the client's lease.
    ///
    /// # Errors
    /// As the section names them.
    pub fn turn(
        &self,
        (id, slot, sequence): (SessionId, u32, u32),
        keep: bool,
        print: u64,
        now: Instant,
    ) -> Result<Turn, Status> {
        let session = {
            let mut inner = lock(&self.inner);
            let session = inner.sessions.get(&id).cloned().ok_or(Status::BadSession)?;
            inner.clients.get_mut(&session.client).ok_or(Status::BadSession)?.renewed = now;
            session
        };
        let mut held = lock(session.slots.get(slot as usize).ok_or(Status::BadSlot)?);
        if sequence == held.sequence.wrapping_add(1) && !held.busy {
            *held = Slot { sequence, busy: true, print, reply: None };
            drop(held);
            return Ok(Turn::Run(Running { session, keep, slot }));
        }
        if sequence != held.sequence {
            return Err(Status::SeqMisordered);
        }
        if held.busy {
            // Sent again before it was answered: the answer will be there the next time.
            return Err(if held.print == print { Status::Delay } else { Status::SeqFalseRetry });
        }
        if held.sequence == 0 {
            return Err(Status::SeqMisordered);
        }
        if held.print != print {
            return Err(Status::SeqFalseRetry);
        }
        Ok(held.reply.clone().map_or(Turn::Forgotten, Turn::Again))
    }

    /// DESTROY_SESSION (§18.37).
    ///
    /// # Errors
    /// [`Status::BadSession`].
    pub fn destroy(&self, id: SessionId) -> Result<(), Status> {
        let mut inner = lock(&self.inner);
        let session = inner.sessions.remove(&id).ok_or(Status::BadSession)?;
        if let Some(client) = inner.clients.get_mut(&session.client) {
            client.sessions.retain(|session| *session != id);
            // What CREATE_SESSION said is not to be said again of a session that is gone.
            client.created = client.created.filter(|created| created.session != id);
        }
        Ok(())
    }

    /// Whether there is such a session.
    ///
    /// # Errors
    /// [`Status::BadSession`].
    pub fn exists(&self, id: SessionId) -> Result<(), Status> {
        if lock(&self.inner).sessions.contains_key(&id) { Ok(()) } else { Err(Status::BadSession) }
    }

    /// DESTROY_CLIENTID (§18.50). `holds`: whether it has opens or locks.
    ///
    /// # Errors
    /// [`Status::StaleClientId`], [`Status::ClientIdBusy`].
    pub fn destroy_client(&self, id: ClientId, holds: bool) -> Result<(), Status> {
        let mut inner = lock(&self.inner);
        let client = inner.clients.get(&id).ok_or(Status::StaleClientId)?;
        if holds || !client.sessions.is_empty() {
            return Err(Status::ClientIdBusy);
        }
        inner.forget(id);
        Ok(())
    }

    /// RECLAIM_COMPLETE (§18.51): the owner that has done with it.
    ///
    /// # Errors
    /// [`Status::CompleteAlready`].
    pub fn reclaim_complete(&self, id: ClientId) -> Result<Bytes, Status> {
        let mut inner = lock(&self.inner);
        let client = inner.clients.get_mut(&id).ok_or(Status::StaleClientId)?;
        if std::mem::replace(&mut client.reclaimed, true) {
            return Err(Status::CompleteAlready);
        }
        Ok(client.owner.clone())
    }

    /// By which name a client introduced itself, and whether it has done with reclaiming.
    pub fn owner_of(&self, id: ClientId) -> Option<(Bytes, bool)> {
        let inner = lock(&self.inner);
        inner.clients.get(&id).map(|client| (client.owner.clone(), client.reclaimed))
    }

    /// Takes all from a client whose lease has run out, because another one wants the same. Whether it had.
    pub fn expire(&self, id: ClientId, now: Instant) -> bool {
        let mut inner = lock(&self.inner);
        if !inner.clients.contains_key(&id) {
            return true;
        }
        let expired = inner.is_expired(id, self.lease, now);
        if expired {
            inner.forget(id);
        }
        expired
    }

    /// Clients, and sessions.
    pub fn count(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        (inner.clients.len(), inner.sessions.len())
    }
}

impl Inner {
    fn introduced(&mut self, id: ClientId, now: Instant) -> Result<Introduced, Status> {
        let client = self.clients.get_mut(&id).ok_or(Status::ServerFault)?;
        client.renewed = now;
        let confirmed = if client.confirmed { exchange::CONFIRMED_R } else { 0 };
        Ok(Introduced { client: id, sequence: client.sequence.wrapping_add(1), flags: exchange::USE_NON_PNFS | confirmed })
    }

    fn is_expired(&self, id: ClientId, lease: Duration, now: Instant) -> bool {
        self.clients.get(&id).is_none_or(|client| now.saturating_duration_since(client.renewed) > lease)
    }

    /// Room for one client more.
    fn make_room(&mut self, lease: Duration, now: Instant) -> Result<Vec<ClientId>, Status> {
        if self.clients.len() < CLIENTS_MAX {
            return Ok(Vec::new());
        }
        let oldest = self.clients.iter().min_by_key(|(_, client)| (client.confirmed, client.renewed)).map(|(id, _)| *id);
        let oldest = oldest.filter(|id| !self.clients.get(id).is_some_and(|c| c.confirmed) || self.is_expired(*id, lease, now));
        let oldest = oldest.ok_or(Status::Delay)?;
        self.forget(oldest);
        Ok(vec![oldest])
    }

    fn forget(&mut self, id: ClientId) {
        for session in self.clients.remove(&id).map(|client| client.sessions).unwrap_or_default() {
            self.sessions.remove(&session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);
    const CHANNEL: Channel =
        Channel { request_bytes: 2 << 20, reply_bytes: 2 << 20, cached_bytes: 8192, operations: 100, slots: 1000 };

    fn intro(name: &'static str, verifier: u8) -> Introduction {
        Introduction { owner: Bytes::from(name), verifier: [verifier; 8], flags: 0 }
    }

    fn session(sessions: &Sessions, name: &'static str, verifier: u8, now: Instant) -> (ClientId, SessionId) {
        let (introduced, _) = sessions.introduce(intro(name, verifier), Some(0), now).unwrap();
        let id = [introduced.client as u8; 16];
        let made = sessions.create(introduced.client, introduced.sequence, (CHANNEL, id), Some(0), now);
        (introduced.client, made.unwrap().0.session)
    }

    fn run(turn: Turn) -> Running {
        match turn {
            Turn::Run(running) => running,
            other => panic!("{other:?}"),
        }
    }

    /// RFC 8881 §2.10.6.1, §18.46.3.
    #[test]
    fn a_request_is_carried_out_once() {
        let (sessions, now) = (Sessions::new(7, LEASE), Instant::now());
        let (_, id) = session(&sessions, "a", 1, now);
        let turn = |slot, sequence, print| sessions.turn((id, slot, sequence), true, print, now);
        assert!(matches!(turn(0, 0, 1), Err(Status::SeqMisordered)), "nothing was sent yet");
        let running = run(turn(0, 1, 1).unwrap());
        assert!(matches!(turn(0, 1, 1), Err(Status::Delay)), "it is being carried out");
        assert!(matches!(turn(0, 2, 2), Err(Status::SeqMisordered)));
        running.finish(Some(Bytes::from_static(b"reply")));
        assert!(matches!(turn(0, 1, 1), Ok(Turn::Again(reply)) if reply == "reply"));
        assert!(matches!(turn(0, 1, 2), Err(Status::SeqFalseRetry)), "another request");
        assert!(matches!(turn(0, 3, 1), Err(Status::SeqMisordered)));
        assert!(matches!(turn(SLOTS_MAX, 1, 1), Err(Status::BadSlot)));
        run(turn(0, 2, 3).unwrap()).finish(None);
        assert!(matches!(turn(0, 2, 3), Ok(Turn::Forgotten)));
        assert!(matches!(sessions.turn(([9; 16], 0, 1), true, 1, now), Err(Status::BadSession)));
    }

    /// RFC 8881 §18.35.4, cases 1 to 5.
    #[test]
    fn a_client_that_was_restarted_loses_what_it_had_when_it_is_back() {
        let (sessions, now) = (Sessions::new(7, LEASE), Instant::now());
        let (first, id) = session(&sessions, "a", 1, now);
        let (same, _) = sessions.introduce(intro("a", 1), Some(0), now).unwrap();
        assert_eq!((same.client, same.flags & exchange::CONFIRMED_R), (first, exchange::CONFIRMED_R));
        let (introduced, _) = sessions.introduce(intro("a", 2), Some(0), now).unwrap();
        assert_ne!(introduced.client, first);
        assert!(sessions.exists(id).is_ok(), "until the new one is confirmed");
        let made = sessions.create(introduced.client, introduced.sequence, (CHANNEL, [3; 16]), Some(0), now).unwrap();
        assert_eq!(made.1, [first]);
        assert_eq!(sessions.exists(id), Err(Status::BadSession));
        assert_eq!(sessions.introduce(intro("a", 2), Some(1), now).unwrap_err(), Status::ClidInUse);
        let later = now + LEASE * 2;
        assert!(sessions.introduce(intro("a", 2), Some(1), later).is_ok(), "its lease has run out");
    }

    /// RFC 8881 §18.36.4.
    #[test]
    fn a_session_is_made_once() {
        let (sessions, now) = (Sessions::new(7, LEASE), Instant::now());
        let (introduced, _) = sessions.introduce(intro("a", 1), Some(0), now).unwrap();
        let create = |sequence, id| sessions.create(introduced.client, sequence, (CHANNEL, [id; 16]), Some(0), now);
        assert_eq!(create(introduced.sequence + 1, 1).unwrap_err(), Status::SeqMisordered);
        let made = create(introduced.sequence, 1).unwrap().0;
        assert_eq!(create(introduced.sequence, 2).unwrap().0, made, "sent again");
        assert_eq!(made.fore.slots, SLOTS_MAX);
        assert_eq!(create(introduced.sequence + 1, 2).unwrap().0.session, [2; 16]);
        assert_eq!(sessions.create(99, 1, (CHANNEL, [4; 16]), Some(0), now).unwrap_err(), Status::StaleClientId);
        assert_eq!(sessions.destroy_client(introduced.client, false), Err(Status::ClientIdBusy));
        assert_eq!((sessions.destroy([1; 16]), sessions.destroy([2; 16])), (Ok(()), Ok(())));
        assert_eq!(sessions.destroy([2; 16]), Err(Status::BadSession));
        assert_eq!(sessions.destroy_client(introduced.client, true), Err(Status::ClientIdBusy));
        assert_eq!(sessions.destroy_client(introduced.client, false), Ok(()));
        assert_eq!(sessions.count(), (0, 0));
    }

    #[test]
    fn who_introduces_itself_a_thousand_times_pushes_nobody_out_that_has_a_session() {
        let (sessions, now) = (Sessions::new(7, LEASE), Instant::now());
        let (_, id) = session(&sessions, "a", 1, now);
        for n in 0..CLIENTS_MAX * 2 {
            let intro = Introduction { owner: Bytes::from(n.to_string()), verifier: [0; 8], flags: 0 };
            sessions.introduce(intro, Some(0), now).unwrap();
        }
        assert!(sessions.exists(id).is_ok());
        assert_eq!(sessions.count().0, CLIENTS_MAX);
    }
}
