//! What the HTTP reader takes, what it refuses, and that hyper would not refuse what it takes.

mod corpus;
mod hyper_judge;
mod limits;
mod reading;

use cometserver::http::{Limits, Parse, Progress, Reject, parse};

/// A request that was accepted, detached from its buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
}

/// What became of all the bytes of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) accepted: Vec<Accepted>,
    /// `None`: the bytes ended, within a request or not, or the connection is not to be kept.
    pub(crate) refused: Option<Reject>,
    /// Bytes that were part of no accepted request.
    pub(crate) left: usize,
}

/// Reads all requests in `bytes`, which arrive in pieces that end at `cuts` (ascending) and at the end.
pub(crate) fn read(bytes: &[u8], cuts: &[usize], limits: &Limits) -> Verdict {
    let mut verdict = Verdict {
        accepted: Vec::new(),
        refused: None,
        left: 0,
    };
    let (mut begin, mut progress) = (0, Progress::default());
    // No request of this one can end before that byte, if the hints are true.
    let (mut earliest, mut asked) = (0, 0);
    'pieces: for end in cuts.iter().copied().chain([bytes.len()]) {
        while begin < end {
            match parse(&bytes[begin..end], &mut progress, limits) {
                Ok(Parse::Incomplete {
                    wants_continue,
                    needed,
                }) => {
                    assert!(needed > 0);
                    earliest = earliest.max(end + needed);
                    asked += usize::from(wants_continue);
                    assert!(asked <= 1, "100 Continue is asked for once a request");
                    continue 'pieces;
                }
                Ok(Parse::Complete { request, consumed }) => {
                    assert!(consumed > 0 && begin + consumed <= end);
                    assert!(begin + consumed >= earliest, "more was asked for than needed");
                    begin += consumed;
                    (earliest, asked) = (0, 0);
                    let target = format!("{:?} {}?{}", request.method, request.path, request.query);
                    verdict.accepted.push(Accepted {
                        target,
                        body: request.body.into_owned(),
                    });
                    if !request.keep_alive {
                        break 'pieces;
                    }
                }
                Err(reject) => {
                    verdict.refused = Some(reject);
                    break 'pieces;
                }
            }
        }
    }
    verdict.left = bytes.len() - begin;
    verdict
}
