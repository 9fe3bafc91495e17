//! A proxy that cuts connections at bytes that chance chooses: politely, rudely, or after a silence.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::chance::Chance;
use super::wire::{Door, Socket};

/// Cuts in each direction come after so many bytes: in the middle of a head, of a frame, of a long answer.
const CUT_AFTER: (u64, u64) = (100, 4 << 20);

/// The ends of a connection know when it is over; the proxy need not.
const FOR_EVER: Duration = Duration::from_secs(24 * 3_600);

/// Forwards connections to one door.
pub(super) struct Proxy {
    pub(super) door: Door,
    /// No cuts any more.
    pub(super) calm: Arc<AtomicBool>,
    pub(super) cuts: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
}

/// Two ends of one connection, and when it is to be cut.
struct Route {
    client: TcpStream,
    server: Socket,
    calm: Arc<AtomicBool>,
    cuts: Arc<AtomicU64>,
}

impl Proxy {
    pub(super) fn start(target: Door, chance: Chance) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Self {
            door: Door::Tcp(address),
            calm: Arc::default(),
            cuts: Arc::default(),
            end: Arc::default(),
        };
        let (calm, cuts, end) = (proxy.calm.clone(), proxy.cuts.clone(), proxy.end.clone());
        let chance = Arc::new(Mutex::new(chance));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                let seed = chance.lock().unwrap_or_else(PoisonError::into_inner).next();
                let (target, calm, cuts) = (target.clone(), calm.clone(), cuts.clone());
                thread::spawn(move || {
                    if let Some(route) = Route::open(client, &target, calm, cuts) {
                        route.run(Chance::new(seed));
                    }
                });
            }
        });
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Door::Tcp(address) = &self.door {
            // Wakes the accepting thread.
            let _ = TcpStream::connect(*address);
        }
    }
}

impl Route {
    fn open(
        client: TcpStream,
        target: &Door,
        calm: Arc<AtomicBool>,
        cuts: Arc<AtomicU64>,
    ) -> Option<Arc<Self>> {
        // Nobody there: the client is closed on, as when the port is closed.
        let server = Socket::connect(target, FOR_EVER).ok()?;
        client.set_nodelay(true).ok()?;
        Some(Arc::new(Self {
            client,
            server,
            calm,
            cuts,
        }))
    }

    fn run(self: Arc<Self>, mut chance: Chance) {
        let up = (chance.magnitude(CUT_AFTER.0, CUT_AFTER.1), chance.clone());
        chance.next();
        let down = (chance.magnitude(CUT_AFTER.0, CUT_AFTER.1), chance);
        let route = self.clone();
        thread::spawn(move || route.forward(true, up.0, up.1));
        self.forward(false, down.0, down.1);
    }

    /// Copies one direction to its end.
    fn forward(&self, up: bool, mut left: u64, mut chance: Chance) {
        let mut buffer = [0; 8 << 10];
        loop {
            let read = if up {
                (&self.client).read(&mut buffer)
            } else {
                (&self.server).read(&mut buffer)
            };
            let count = match read {
                Ok(count) if count > 0 => count,
                _ => return self.close(false),
            };
            let calm = self.calm.load(Ordering::Relaxed);
            let passed = if calm { count } else { count.min(left as usize) };
            let written = if up {
                (&self.server).write_all(&buffer[..passed])
            } else {
                (&self.client).write_all(&buffer[..passed])
            };
            if written.is_err() {
                return self.close(false);
            }
            left -= (passed as u64).min(left);
            if left == 0 && !calm {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                if chance.one_in(4) {
                    thread::sleep(Duration::from_millis(chance.between(1, 300)));
                }
                return self.close(chance.one_in(2));
            }
        }
    }

    /// Ends both sides; rudely is with a reset, which also throws away what is on its way.
    fn close(&self, rudely: bool) {
        if rudely {
            let _ = socket2::SockRef::from(&self.client).set_linger(Some(Duration::ZERO));
            if let Socket::Tcp(server) = &self.server {
                let _ = socket2::SockRef::from(server).set_linger(Some(Duration::ZERO));
            }
        }
        let _ = self.client.shutdown(Shutdown::Both);
        self.server.close();
    }
}
