//! Questions that are asked while things happen, and whether their answers are true.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cometserver_core::hub::{History, HistoryQuery, Hub};
use cometserver_core::position::Position;
use cometserver_core::publication::Publication;

use crate::ledger::Ledger;
use crate::world::{is_durable, name};

/// What was asked, and how things stood then.
enum Asked {
    History {
        channel: &'static str,
        query: HistoryQuery,
        visible: Position,
    },
    /// So many values had there been.
    Value { channel: &'static str, before: usize },
}

enum Answer {
    History(Option<History>),
    Value(Option<Arc<Publication>>),
}

/// Questions that have not been answered yet, and answers that have not been looked at.
#[derive(Default)]
pub(crate) struct Questions {
    asked: HashMap<u64, Asked>,
    answers: Arc<Mutex<Vec<(u64, Answer)>>>,
    next: u64,
}

impl Questions {
    pub(crate) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    pub(crate) fn history(&mut self, hub: &Arc<Hub>, channel: &'static str, query: HistoryQuery, now: u64) {
        self.next += 1;
        let number = self.next;
        let visible = hub.now();
        self.asked.insert(
            number,
            Asked::History {
                channel,
                query,
                visible,
            },
        );
        let answers = self.answers.clone();
        let answer = hub.history(&name(channel), query, now, &mut || {
            let answers = answers.clone();
            Box::new(move |history| {
                let history = Answer::History(history.unwrap());
                answers.lock().unwrap().push((number, history));
            })
        });
        if let Some(history) = answer.ready() {
            answers.lock().unwrap().push((number, Answer::History(history)));
        }
    }

    pub(crate) fn value(&mut self, hub: &Arc<Hub>, channel: &'static str, ledger: &Ledger) {
        self.next += 1;
        let number = self.next;
        let before = ledger.values(channel).len();
        self.asked.insert(number, Asked::Value { channel, before });
        let answers = self.answers.clone();
        let answer = hub.retained(&name(channel), &mut || {
            let answers = answers.clone();
            Box::new(move |value| {
                let value = Answer::Value(value.unwrap());
                answers.lock().unwrap().push((number, value));
            })
        });
        if let Some(value) = answer.ready() {
            answers.lock().unwrap().push((number, Answer::Value(value)));
        }
    }

    /// Looks at the answers that have come.
    pub(crate) fn check(&mut self, ledger: &Ledger) {
        let answers = std::mem::take(&mut *self.answers.lock().unwrap());
        for (number, answer) in answers {
            match (self.asked.remove(&number).unwrap(), answer) {
                (
                    Asked::History {
                        channel,
                        query,
                        visible,
                    },
                    Answer::History(history),
                ) => check_history(channel, query, visible, history, ledger),
                (Asked::Value { channel, before }, Answer::Value(value)) => {
                    check_value(channel, before, value, ledger);
                }
                _ => panic!("the answer to something else"),
            }
        }
    }
}

fn check_value(channel: &str, before: usize, value: Option<Arc<Publication>>, ledger: &Ledger) {
    let values = ledger.values(channel);
    let line = value.map(|publication| ledger.find(&publication));
    let mut possible = values[before.saturating_sub(1)..].to_vec();
    if before == 0 {
        possible.push(None);
    }
    // In memory a ceiling may have let it go.
    let gone = line.is_none() && !is_durable(channel);
    assert!(
        possible.contains(&line) || gone,
        "{channel}: {line:?} of {possible:?}"
    );
}

fn check_history(
    channel: &str,
    query: HistoryQuery,
    visible: Position,
    history: Option<History>,
    ledger: &Ledger,
) {
    let of_channel = |line: &usize| {
        let line = &ledger.lines[*line];
        !line.news && line.channels.iter().any(|own| own == channel)
    };
    let Some(history) = history else {
        return;
    };
    let mut shown: Vec<usize> = history.publications.iter().map(|p| ledger.find(p)).collect();
    if query.reverse {
        shown.reverse();
    }
    assert!(shown.len() <= query.limit);
    assert!(shown.iter().all(of_channel), "{channel}: {shown:?}");
    let offsets: Vec<u64> = history
        .publications
        .iter()
        .map(|p| p.places[p.place_in(history.channel.id).unwrap()].offset)
        .collect();
    let step = |pair: &[u64]| {
        if query.reverse {
            pair[0] == pair[1] + 1
        } else {
            pair[0] + 1 == pair[1]
        }
    };
    assert!(offsets.windows(2).all(step), "{channel}: {offsets:?}");
    if !is_durable(channel) {
        return;
    }
    let after = query.since.map_or(0, |since| since.position.durable);
    let asked: Vec<usize> = (0..ledger.len())
        .filter(of_channel)
        .filter(|line| {
            let position = ledger.lines[*line].durable.unwrap();
            position > after && position <= visible.durable
        })
        .collect();
    let excused = history.gap || query.since.is_none();
    let Some((first, last)) = shown.first().zip(shown.last()) else {
        assert!(
            asked.is_empty() || excused || query.limit == 0,
            "{channel}: nothing of {asked:?}"
        );
        return;
    };
    let from = asked.iter().position(|line| line == first).unwrap();
    let to = asked.iter().position(|line| line == last).unwrap();
    assert_eq!(asked[from..=to], shown, "{channel}: without holes");
    let position = |line: usize| ledger.lines[line].durable.unwrap();
    if query.reverse {
        assert_eq!(to, asked.len() - 1, "{channel}: the newest first");
        assert_eq!(history.at, visible);
        assert!(from == 0 || excused || shown.len() == query.limit);
    } else {
        assert!(
            from == 0 || excused,
            "{channel}: {asked:?} since {after}, but {shown:?}"
        );
        assert!(history.at.durable >= position(*last));
        let next = asked.get(to + 1);
        assert!(
            next.is_none_or(|next| position(*next) > history.at.durable),
            "{channel}: it goes on behind {next:?}"
        );
    }
}
