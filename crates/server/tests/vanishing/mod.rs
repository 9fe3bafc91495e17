//! A network of its own, whose link can go down: nobody there can say goodbye then.
#![allow(unreachable_pub)] // as in every module of a test

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::{Http, Place};

/// A network namespace, a link to it, and its two addresses, of those that are for trying out networks (RFC 2544).
pub struct Link {
    name: String,
    here: Ipv4Addr,
}

impl Link {
    /// Makes it; says so and returns none where that is not allowed.
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let [.., third] = pid.to_be_bytes();
        let [here, there] = [1, 2].map(|end| Ipv4Addr::new(198, 18, third, number * 4 + end));
        let link = Self {
            name: format!("comet-{pid}-{number}"),
            here,
        };
        let (name, near, far) = (&link.name, format!("c{pid}n{number}"), "far");
        let steps = [
            format!("netns add {name}"),
            format!("link add {near} type veth peer name {far} netns {name}"),
            format!("address add {here}/30 dev {near}"),
            format!("link set {near} up"),
            format!("-n {name} address add {there}/30 dev {far}"),
            format!("-n {name} link set {far} up"),
        ];
        for step in &steps {
            if let Err(error) = ip(step) {
                eprintln!("SKIPPED: no network of its own can be made here (root may): ip {step}: {error}");
                return None;
            }
        }
        Some(link)
    }

    /// Connects from its far end to a port here.
    pub fn connect(&self, port: u16) -> Http {
        let place = Place::Tcp(SocketAddr::new(IpAddr::V4(self.here), port));
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        // A thread of its own goes there; what it has connected stays there.
        let far = thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            place.connect()
        });
        far.join().unwrap()
    }

    /// Takes the far end down: from now on nothing arrives, in neither direction.
    pub fn down(&self) {
        ip(&format!("-n {} link set far down", self.name)).unwrap();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = ip(&format!("netns delete {}", self.name));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
