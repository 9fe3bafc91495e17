//! The embedded log keeps every promise that a broker makes to the hub.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "storage_support/rig.rs"]
mod rig;
#[macro_use]
#[path = "../../core/tests/broker_contract/suite.rs"]
mod suite;

use std::sync::mpsc::channel;
use std::time::Duration;

use cometserver::broker::disk::DiskOptions;
use cometserver_core::broker::{Broker, BrokerError, Fetch, Outcome, Page};
use rig::Log;
use suite::Rig;

impl Rig for Log {
    fn broker(&self) -> &dyn Broker {
        &*self.log
    }

    fn settle(&mut self) -> Vec<(u64, Result<Outcome, BrokerError>)> {
        Log::settle(self)
    }

    fn read(&mut self, fetch: Fetch) -> Page {
        let (answer, wait) = channel();
        let here = std::thread::current().id();
        let answered = move |page| {
            assert_ne!(
                std::thread::current().id(),
                here,
                "a read is never answered at once"
            );
            answer.send(page).unwrap();
        };
        self.log.read(fetch, Box::new(answered));
        wait.recv_timeout(rig::PATIENCE)
            .expect("answered")
            .expect("readable")
    }

    fn reopen(&mut self) {
        Log::reopen(self);
    }

    fn now(&self) -> u64 {
        rig::NOW
    }
}

mod the_disk_log {
    use super::*;

    fn log() -> Log {
        Log::new(DiskOptions::default(), suite::namespaces())
    }

    contract!(log());
}

/// The same where every few records begin a new segment, and nothing dead stays for long.
mod in_tiny_segments {
    use super::*;

    fn log() -> Log {
        let options = DiskOptions {
            segment: 300,
            garbage: 300,
            idle_grace: Duration::ZERO,
            ..DiskOptions::default()
        };
        Log::new(options, suite::namespaces())
    }

    contract!(log());
}
