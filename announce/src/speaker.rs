use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use skerry_kernel::{ClassicInstruction, PacketSocket};
use tokio::io::unix::AsyncFd;

use crate::{
    filter::{self, FRAME},
    frame::{ETHER_ARP, ETHER_IPV6, Mac, Question, announcements, answer, parse, solicited_node},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum SpeakError {
    #[error(transparent)]
    Socket(#[from] skerry_kernel::Error),
    #[error("wait for frames of device #{device}")]
    Wait { device: u32, source: io::Error },
    #[error("join multicast group {group} on device #{device}")]
    Join { group: Ipv6Addr, device: u32, source: io::Error },
    #[error(
        "device #{0} is no Ethernet device: load-balancer addresses can't be announced on it, set --announce=false"
    )]
    NoEthernet(u32),
    #[error("send to device #{device}")]
    Send { device: u32, source: io::Error },
    #[error("no socket of this address's family is open on device #{0}")]
    Closed(u32),
}

/// Hears and answers questions about some addresses on one device.
#[derive(Default)]
pub(crate) struct Speaker {
    device: u32,
    arp: Option<Ear>,
    neighbours: Option<(Ear, Groups)>,
}

impl Speaker {
    /// From now on answers for exactly these addresses on this device. Without addresses of a family it holds
    /// no socket.
    pub fn tune(&mut self, device: u32, addresses: &BTreeSet<IpAddr>) -> Result<(), SpeakError> {
        if self.device != device {
            *self = Speaker { device, ..Speaker::default() };
        }
        let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
        for address in addresses {
            match address {
                IpAddr::V4(ip) => v4.insert(*ip),
                IpAddr::V6(ip) => v6.insert(*ip),
            };
        }
        self.tune_arp(&v4)?;
        self.tune_neighbours(&v6)
    }

    fn tune_arp(&mut self, addresses: &BTreeSet<Ipv4Addr>) -> Result<(), SpeakError> {
        match &self.arp {
            _ if addresses.is_empty() => self.arp = None,
            Some(ear) => ear.set_filter(&filter::arp(addresses))?,
            None => self.arp = Some(Ear::open(self.device, ETHER_ARP, &filter::arp(addresses))?),
        }
        Ok(())
    }

    fn tune_neighbours(&mut self, addresses: &BTreeSet<Ipv6Addr>) -> Result<(), SpeakError> {
        let device = self.device;
        match &mut self.neighbours {
            _ if addresses.is_empty() => self.neighbours = None,
            Some((ear, groups)) => {
                groups.follow(device, addresses)?;
                ear.set_filter(&filter::solicitations(addresses))?;
            }
            None => {
                let ear = Ear::open(device, ETHER_IPV6, &filter::solicitations(addresses))?;
                let mut groups = Groups::default();
                groups.follow(device, addresses)?;
                self.neighbours = Some((ear, groups));
            }
        }
        Ok(())
    }

    /// Closes everything: the next [`Speaker::tune`] begins anew.
    pub fn close(&mut self) {
        *self = Speaker::default();
    }

    /// The next question; waits for ever where no socket is open. May be dropped and called again.
    pub async fn hear(&self) -> io::Result<Question> {
        tokio::select! {
            heard = hear(self.arp.as_ref()) => heard,
            heard = hear(self.neighbours.as_ref().map(|(ear, _)| ear)) => heard,
        }
    }

    /// Answers a question, unless it is our own (`false`).
    pub fn answer(&self, question: &Question) -> Result<bool, SpeakError> {
        let (ear, mac) = self.ear(question.target)?;
        if question.asker_mac == mac {
            return Ok(false);
        }
        self.send(ear, &answer(question, mac)).map(|()| true)
    }

    /// Tells everyone that the address is ours.
    pub fn announce(&self, address: IpAddr) -> Result<(), SpeakError> {
        let (ear, mac) = self.ear(address)?;
        announcements(address, mac).iter().try_for_each(|frame| self.send(ear, frame))
    }

    fn ear(&self, address: IpAddr) -> Result<(&Ear, Mac), SpeakError> {
        let ear = match address {
            IpAddr::V4(_) => self.arp.as_ref(),
            IpAddr::V6(_) => self.neighbours.as_ref().map(|(ear, _)| ear),
        };
        let ear = ear.ok_or(SpeakError::Closed(self.device))?;
        // Asked each time: a device may get another address.
        Ok((ear, ear.0.get_ref().mac()?.ok_or(SpeakError::NoEthernet(self.device))?))
    }

    fn send(&self, ear: &Ear, frame: &[u8]) -> Result<(), SpeakError> {
        ear.0.get_ref().send(frame).map_err(|source| SpeakError::Send { device: self.device, source })
    }
}

async fn hear(ear: Option<&Ear>) -> io::Result<Question> {
    match ear {
        Some(ear) => ear.hear().await,
        None => std::future::pending().await,
    }
}

struct Ear(AsyncFd<PacketSocket>);

impl Ear {
    fn open(device: u32, ether_type: u16, filter: &[ClassicInstruction]) -> Result<Ear, SpeakError> {
        let socket = PacketSocket::open(device, ether_type, filter)?;
        if socket.mac()?.is_none() {
            return Err(SpeakError::NoEthernet(device));
        }
        #[expect(
            deprecated,
            reason = "its successor is an unsafe function; a PacketSocket owns its descriptor, which is the condition"
        )]
        let waiting = AsyncFd::new(socket);
        waiting.map(Ear).map_err(|source| SpeakError::Wait { device, source })
    }

    fn set_filter(&self, filter: &[ClassicInstruction]) -> Result<(), SpeakError> {
        Ok(self.0.get_ref().set_filter(filter)?)
    }

    async fn hear(&self) -> io::Result<Question> {
        let mut frame = [0; FRAME];
        loop {
            let mut guard = self.0.readable().await?;
            let Ok(received) = guard.try_io(|socket| socket.get_ref().receive(&mut frame)) else { continue };
            if let Some(question) = frame.get(..received?).and_then(parse) {
                return Ok(question);
            }
        }
    }
}

/// Membership in the groups in which our addresses are asked for: the device lets their frames in, and
/// switches that listen to MLD lead them to us. It ends with the socket.
#[derive(Default)]
struct Groups {
    socket: Option<UdpSocket>,
    joined: BTreeSet<Ipv6Addr>,
}

impl Groups {
    fn follow(&mut self, device: u32, addresses: &BTreeSet<Ipv6Addr>) -> Result<(), SpeakError> {
        let wanted: BTreeSet<Ipv6Addr> = addresses.iter().map(solicited_node).collect();
        let failed = |group: Ipv6Addr| move |source| SpeakError::Join { group, device, source };
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).map_err(failed(Ipv6Addr::UNSPECIFIED))?,
        };
        let socket = self.socket.insert(socket);
        for group in wanted.difference(&self.joined) {
            socket.join_multicast_v6(group, device).map_err(failed(*group))?;
        }
        for group in self.joined.difference(&wanted) {
            // Gone with the device perhaps; a membership too many does no harm.
            socket.leave_multicast_v6(group, device).ok();
        }
        self.joined = wanted;
        Ok(())
    }
}
