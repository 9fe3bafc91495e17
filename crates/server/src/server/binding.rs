//! The doors of a configuration: bound, and removed again.

use std::net::SocketAddr;

use crate::config::Config;
use crate::data_folder::Lock;
use crate::gateway_key::{self, GatewayKey};
use crate::listener::{Door, DoorAddress, Listener, Role};
use crate::platform;

use super::healing::Made;
use super::{Addresses, StartError, system};

/// The sockets that this server made, which go with it: also if it fails to start. Not those that it inherited: whoever
/// opened one goes on listening there when we are gone.
#[derive(Default)]
pub(super) struct Sockets {
    made: Vec<Made>,
}

impl Sockets {
    pub(super) fn remove(&mut self) {
        for made in self.made.drain(..) {
            // Somebody else may have removed it; nothing depends on it.
            let _ = std::fs::remove_file(made.path);
        }
    }

    /// All of them.
    pub(super) fn made(&mut self) -> impl Iterator<Item = &mut Made> {
        self.made.iter_mut()
    }

    /// The listeners of those whose path leads elsewhere, or nowhere.
    pub(super) fn missing(&self) -> Vec<usize> {
        let missing = self.made.iter().filter(|made| made.is_missing());
        missing.map(|made| made.listener).collect()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Binds every door of the configuration; an inherited Unix socket takes the place of the one with its path.
pub(super) fn bind_all(
    config: &Config,
    lock: &Lock,
    sockets: &mut Sockets,
) -> Result<Vec<(Door, Listener)>, StartError> {
    let mut bound: Vec<(Door, Listener)> = Vec::new();
    for inherited in platform::inherited_listeners().map_err(system("the inherited listeners"))? {
        let (listener, address) =
            Listener::inherited(inherited.listener).map_err(system("an inherited listener"))?;
        let role = match inherited.name.as_str() {
            "backend" => Role::Backend,
            "ops" => Role::Ops,
            _ => Role::Public,
        };
        let configured = match address {
            DoorAddress::Tcp(address) => Some(address),
            DoorAddress::Unix(_) => None,
        };
        bound.push((door(config, role, configured, address), listener));
    }
    let has = |bound: &[(Door, Listener)], path: &std::path::Path| {
        bound
            .iter()
            .any(|(door, _)| door.address == DoorAddress::Unix(path.to_owned()))
    };
    let group = match &config.socket_group {
        None => None,
        Some(name) => Some(
            platform::group_id(name)
                .map_err(system("a look-up of the socket's group"))?
                .ok_or_else(|| StartError::NoGroup(name.clone()))?,
        ),
    };
    let backend = [(Some(&config.socket), Role::Backend, config.socket_mode, group)];
    let public = [(config.public.socket.as_ref(), Role::Public, 0o666, None)];
    // The site's own last: who waits for that one finds the other there.
    for (path, role, mode, group) in public.into_iter().chain(backend) {
        let Some(path) = path.filter(|path| !has(&bound, path)) else {
            continue;
        };
        lock.remove_stale_socket(path)?;
        let listener = Listener::unix(path, mode, group).map_err(StartError::Listen)?;
        let made = Made::new(path.clone(), mode, group, bound.len());
        sockets.made.push(made);
        bound.push((
            door(config, role, None, DoorAddress::Unix(path.clone())),
            listener,
        ));
    }
    let tcp = [
        (&config.public.listen, Role::Public),
        (&config.backend.listen, Role::Backend),
        (&config.ops.listen, Role::Ops),
    ];
    for (addresses, role) in tcp {
        for configured in addresses {
            let (listener, address) = Listener::tcp(*configured).map_err(StartError::Listen)?;
            let door = door(config, role, Some(*configured), DoorAddress::Tcp(address));
            bound.push((door, listener));
        }
    }
    check_proxied(config, bound.iter().map(|(door, _)| door)).map_err(StartError::Config)?;
    Ok(bound)
}

/// A door; `configured` is its TCP address as the configuration names it, where the port may be 0.
pub(super) fn door(
    config: &Config,
    role: Role,
    configured: Option<SocketAddr>,
    address: DoorAddress,
) -> Door {
    let is_public = role == Role::Public;
    Door {
        role,
        ops: !is_public || config.public.ops,
        proxied: is_public && config.public.proxied.has(configured),
        hears_gateways: is_public && !config.public.proxied.is_off(),
        address,
    }
}

/// Refuses a name in `public.proxied` that is no listener's: all visitors of the one that was meant would count as one. Some of
/// the doors that are bound may have been inherited.
pub(super) fn check_proxied<'a>(
    config: &Config,
    bound: impl Iterator<Item = &'a Door> + Clone,
) -> Result<(), String> {
    let is_there = |address: &SocketAddr| {
        let inherited = DoorAddress::Tcp(*address);
        config.public.listen.contains(address)
            || bound
                .clone()
                .any(|door| door.role == Role::Public && door.address == inherited)
    };
    match config
        .public
        .proxied
        .addresses()
        .find(|address| !is_there(address))
    {
        None => Ok(()),
        Some(address) => Err(format!(
            "public.proxied \"{address}\": no public listener has this address: write it as in public.listen"
        )),
    }
}

pub(super) fn addresses(config: &Config, doors: &[Door]) -> Addresses {
    let tcp = doors
        .iter()
        .filter(|door| door.role == Role::Public)
        .filter_map(|door| match &door.address {
            DoorAddress::Tcp(address) => Some(*address),
            DoorAddress::Unix(_) => None,
        });
    Addresses {
        backend: config.socket.clone(),
        public: config.public.socket.clone(),
        tcp: tcp.collect(),
    }
}

/// The key of this site's gateways, beside the public socket, or where that is by itself if there is none.
///
/// A server without one still serves: it only cannot tell the site's gateways from visitors who pretend to be one.
pub(super) fn gateway_key(config: &Config) -> GatewayKey {
    let usual = || config.data_dir.join("public/comet.sock");
    let socket = config.public.socket.clone().unwrap_or_else(usual);
    GatewayKey::beside(&socket).unwrap_or_else(|error| {
        tracing::warn!(
            "{}: {error}: let the server's user write there, or visitors can take the places of PHP and CGI",
            gateway_key::path(&socket).display()
        );
        GatewayKey::default()
    })
}
