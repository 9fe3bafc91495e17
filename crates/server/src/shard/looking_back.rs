//! How far back a listener may begin. What was published before it was given a cursor takes the right to `history`.
//!
//! A resume must not take more than `subscribe`: whoever comes back shows the cursor that it was given, and gets what came
//! after it. `earliest` asks for what was there before, as `GET /v1/history` does. So does a cursor that this server knows
//! nothing of, if it were answered with all that is kept: without the right it is a gap, and goes on from now.

use cometserver_core::ChannelName;
use cometserver_core::action::Action;
use cometserver_core::fanout::Begin;
use cometserver_core::grant::Grant;
use cometserver_core::hub::Start;
use cometserver_core::pattern::Pattern;

use super::Shard;
use super::wish::Wish;
use crate::api::Refused;

/// Why `earliest` is refused, and what will do.
const EARLIEST: &str = "`earliest` needs a token or key that allows `history` here: begin with `now`, or with a cursor that you were given";

impl Shard {
    /// Where a request may begin: all that it listens to begins at one place.
    pub(super) fn begin_of_wish(&self, wish: &Wish, grant: &Grant) -> Result<Begin, Refused> {
        let mut begin = wish.beginning.begin;
        for channel in &wish.channels {
            begin = self.begin_in_channel(begin, &channel.name, grant)?;
        }
        let mut patterns = wish.patterns.iter();
        patterns.try_fold(begin, |begin, pattern| {
            self.begin_in_pattern(begin, pattern, grant)
        })
    }

    /// Where a listener of a channel may begin that asks for `begin`.
    pub(super) fn begin_in_channel(
        &self,
        begin: Begin,
        name: &ChannelName,
        grant: &Grant,
    ) -> Result<Begin, Refused> {
        let may = || grant.allows(Action::History, name, &self.hub.namespace_of(name));
        if looks_back(begin) && !may() {
            return self.without_history(begin);
        }
        Ok(begin)
    }

    /// The same for a pattern. To whom it shows only public channels, it shows also what those have kept.
    pub(super) fn begin_in_pattern(
        &self,
        begin: Begin,
        pattern: &Pattern,
        grant: &Grant,
    ) -> Result<Begin, Refused> {
        let may = || grant.covers(Action::History, pattern) || !grant.covers(Action::Subscribe, pattern);
        if looks_back(begin) && !may() {
            return self.without_history(begin);
        }
        Ok(begin)
    }

    fn without_history(&self, begin: Begin) -> Result<Begin, Refused> {
        let Begin::At(mut start) = begin else {
            return Err(Refused::new(403, "forbidden", EARLIEST));
        };
        let now = self.hub.now();
        if start.lost_memory {
            start.position.memory = now.memory;
        }
        if start.lost_durable {
            start.position.durable = now.durable;
        }
        Ok(Begin::At(start))
    }
}

/// Would it be shown what it never came near? A cursor that is known takes no look at the rights.
fn looks_back(begin: Begin) -> bool {
    match begin {
        Begin::Now => false,
        Begin::Earliest => true,
        Begin::At(Start {
            lost_memory,
            lost_durable,
            ..
        }) => lost_memory || lost_durable,
    }
}
