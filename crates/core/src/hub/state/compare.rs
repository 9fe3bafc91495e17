//! The comparison of names with patterns, which may take long: in a hold of the lock only a little of it.

use super::State;
use crate::Time;
use crate::channel::ChannelId;
use crate::log::Trimmed;
use crate::registry::{COUNTED, Comparison};

/// So many steps of a hold of the lock may go into comparisons; what takes longer is done without it.
const COMPARED: usize = 2_000;

/// A channel whose name has to be compared with patterns, without the lock. The channel is not forgotten meanwhile.
pub(in crate::hub) struct Behind {
    channel: ChannelId,
    comparison: Comparison,
}

/// What a channel has let go, of which its patterns have not been told yet.
pub(super) struct Untold {
    channel: ChannelId,
    messages: Trimmed,
    news: Trimmed,
}

impl Untold {
    /// What the channel has let go, of messages or of news about members.
    pub(super) fn trimmed(&mut self, news: bool) -> &mut Trimmed {
        if news { &mut self.news } else { &mut self.messages }
    }
}

impl Behind {
    /// Compares, without the lock.
    pub(in crate::hub) fn run(&mut self) {
        self.comparison.run();
    }
}

impl State {
    /// Brings the matches of channels up to date, before something is appended to them. What takes too long for that is
    /// returned: run it without the lock, give it to [`State::compared`], and ask again.
    pub(in crate::hub) fn compare(&mut self, channels: &[ChannelId]) -> Option<Behind> {
        channels.iter().find_map(|id| self.compare_one(*id))
    }

    fn compare_one(&mut self, id: ChannelId) -> Option<Behind> {
        let entry = self
            .entries
            .get_mut(id.slot as usize)
            .filter(|entry| entry.channel.id == id)?;
        if self.patterns.is_current(&entry.matches) {
            return None;
        }
        let most = COMPARED.saturating_sub(self.steps);
        let name = &entry.channel.name;
        match self.patterns.update(name, &mut entry.matches, most) {
            Ok(steps) => {
                self.steps += steps;
                None
            }
            Err(candidates) => {
                // They are looked up, and then taken out.
                self.steps += 2 * candidates.len() / COUNTED;
                let comparison = self.patterns.comparison(name, &entry.matches, &candidates);
                self.await_store(id);
                Some(Behind {
                    channel: id,
                    comparison,
                })
            }
        }
    }

    /// Takes over what was compared.
    pub(in crate::hub) fn compared(&mut self, behind: Behind, now: Time) {
        self.steps += behind.comparison.matching() / COUNTED;
        if let Some(entry) = self.channel_mut(behind.channel) {
            let mut matches = std::mem::take(&mut entry.matches);
            self.patterns.compared(&mut matches, behind.comparison);
            if let Some(entry) = self.channel_mut(behind.channel) {
                entry.matches = matches;
            }
        }
        self.answered(behind.channel, now);
    }

    /// A channel lets something go: its patterns are told once for all of it.
    pub(super) fn untold(&mut self, id: ChannelId) -> &mut Untold {
        if self.untold.as_ref().is_some_and(|untold| untold.channel != id) {
            self.tell_patterns();
        }
        self.untold.get_or_insert(Untold {
            channel: id,
            messages: Trimmed::default(),
            news: Trimmed::default(),
        })
    }

    /// What a channel has let go, its patterns have lost as well. Patterns that came after the channel's last publication are
    /// among them. If it would take too long to say which of these match, all that may are told: a gap may be told that was
    /// none, one that was is always told.
    pub(in crate::hub) fn tell_patterns(&mut self) {
        let Some(untold) = self.untold.take() else { return };
        let Some(entry) = self
            .entries
            .get_mut(untold.channel.slot as usize)
            .filter(|entry| entry.channel.id == untold.channel)
        else {
            return;
        };
        let most = COMPARED.saturating_sub(self.steps);
        let name = &entry.channel.name;
        let perhaps = match self.patterns.update(name, &mut entry.matches, most) {
            Ok(steps) => {
                self.steps += steps;
                Vec::new()
            }
            Err(candidates) => candidates,
        };
        let known = entry.matches.ids.clone();
        let known = known.iter().flat_map(|ids| ids.iter());
        for pattern in known.chain(&perhaps) {
            if let Some(listened) = self.patterns.get_mut(*pattern) {
                listened.trimmed = listened.trimmed.max(untold.messages);
                listened.trimmed_news = listened.trimmed_news.max(untold.news);
            }
        }
        let known = entry_count(&self.entries[untold.channel.slot as usize]);
        self.steps += (known + 2 * perhaps.len()) / COUNTED;
    }
}

fn entry_count(entry: &super::Entry) -> usize {
    entry.matches.ids.as_ref().map_or(0, |ids| ids.len())
}
