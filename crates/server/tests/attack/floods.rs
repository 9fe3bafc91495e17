//! The kinds of floods, each made of what one visitor, or a few, can say without a token.

use crate::flood::{Flood, command, head, masked};
use crate::stage::Stage;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// All of them.
pub(crate) fn all() -> Vec<Flood> {
    let mut all = vec![
        nobody(),
        patterns_and_names(),
        subscribed_again(),
        polls_of_large_values(),
        unfinished_messages(),
        unfinished_bodies(),
        histories_in_one_go(),
        histories_unread(),
    ];
    all.extend([
        refused_subscriptions(),
        long_lists(),
        refused_publications(),
        nested_json(),
        the_past_by_pattern(),
        names(),
        patterns(),
        static_files(),
        joins(),
        connections(),
    ]);
    all
}

/// Not a flood: one visitor publishes a few messages as large as may be, one after the other, and reads one. What the longest
/// turn takes here, a turn may take besides what bounds it, as a message is parsed and encoded in one piece.
pub(crate) fn one_message() -> Flood {
    let room = MIB - KIB;
    let array = format!("[{}1]", "1,".repeat(room / 2));
    let escaped = format!("\"{}\"", "\\u0041\\n".repeat(room / 8));
    let post = |payload: &str| {
        let body = format!("{{\"channel\":\"open/large\",\"data\":{payload}}}");
        let length = body.len();
        format!(
            "POST /v1/publish HTTP/1.1\r\nHost: comet\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let read =
        "GET /v1/poll?channel=open/large&cursor=earliest&limit=1&wait_ms=0 HTTP/1.1\r\nHost: comet\r\n\r\n";
    let said = [post(&array), read.to_owned(), post(&escaped)];
    Flood {
        say: Box::new(move |_, spoken| (spoken < 9).then(|| said[spoken % 3].clone().into_bytes())),
        ..requests("one message", 1)
    }
}

/// Connections that read, on WebSockets, and have nothing to say.
fn websockets(name: &'static str, connections: usize) -> Flood {
    Flood {
        name,
        connections,
        addresses: 4,
        reads: true,
        websocket: Some("channel=open/quiet".to_owned()),
        durability: "memory",
        prepare: |_| {},
        say: Box::new(|_, _| None),
    }
}

fn requests(name: &'static str, connections: usize) -> Flood {
    Flood {
        websocket: None,
        ..websockets(name, connections)
    }
}

fn nobody() -> Flood {
    websockets("nobody", 1)
}

/// Patterns against which a name of one letter is compared for long.
fn patterns_and_names() -> Flood {
    Flood {
        say: Box::new(|connection, spoken| {
            let list = (0..20).map(|n| format!("\"**a*b{connection}x{n}*\""));
            let patterns = list.collect::<Vec<_>>().join(",");
            Some(match spoken {
                0 => command(&format!("{{\"type\":\"subscribe\",\"patterns\":[{patterns}]}}")),
                n => {
                    let name = format!("{}{connection}.{n}", "a".repeat(8 * KIB - 24));
                    command(&format!(
                        "{{\"type\":\"publish\",\"channel\":\"{name}\",\"data\":1}}"
                    ))
                }
            })
        }),
        ..websockets("patterns against names", 400)
    }
}

fn subscribed_again() -> Flood {
    let again = command("{\"type\":\"subscribe\",\"channel\":\"open/quiet\"}").repeat(1000);
    Flood {
        say: Box::new(move |_, _| Some(again.clone())),
        ..websockets("subscribed again", 4)
    }
}

fn keep_large_values(stage: &Stage) {
    for n in 0..60 {
        stage.publish(
            &format!("/v1/publish?channel=kept/{n}&retain=1"),
            &vec![b'v'; MIB - KIB],
        );
    }
}

fn polls_of_large_values() -> Flood {
    let channels = (0..60)
        .map(|n| format!("channel=kept/{n}"))
        .collect::<Vec<_>>()
        .join("&");
    let request = format!("GET /v1/poll?{channels}&wait_ms=0 HTTP/1.1\r\nHost: comet\r\n\r\n").into_bytes();
    Flood {
        prepare: keep_large_values,
        reads: false,
        say: Box::new(move |_, _| Some(request.clone())),
        ..requests("polls of large values", 8)
    }
}

fn unfinished_messages() -> Flood {
    Flood {
        say: Box::new(|_, spoken| match spoken {
            0 => Some(head(0x81, 2 * MIB)),
            n if n < 31 => Some(vec![b' '; 64 * KIB]),
            _ => None,
        }),
        ..websockets("unfinished messages", 300)
    }
}

fn unfinished_bodies() -> Flood {
    Flood {
        say: Box::new(|_, spoken| match spoken {
            0 => Some(
                b"POST /v1/publish?channel=open/x HTTP/1.1\r\nHost: comet\r\nContent-Length: 1048576\r\n\r\n"
                    .to_vec(),
            ),
            n if n < 16 => Some(vec![b' '; 64 * KIB]),
            _ => None,
        }),
        ..requests("unfinished bodies", 300)
    }
}

fn keep_a_history(stage: &Stage) {
    for n in 0..2_000 {
        stage.publish(&format!("/v1/publish?channel=kept/{}", n % 20), &[b'h'; 10 * KIB]);
    }
}

fn histories_in_one_go() -> Flood {
    let asked = (0..40).flat_map(|id| {
        command(&format!(
            "{{\"type\":\"history\",\"id\":{id},\"channel\":\"kept/1\",\"limit\":1000}}"
        ))
    });
    let asked: Vec<u8> = asked.collect();
    Flood {
        prepare: keep_a_history,
        durability: "fsync",
        say: Box::new(move |_, _| Some(asked.clone())),
        ..websockets("histories in one go", 20)
    }
}

fn histories_unread() -> Flood {
    Flood {
        name: "histories unread",
        reads: false,
        connections: 200,
        ..histories_in_one_go()
    }
}

fn refused_subscriptions() -> Flood {
    let refused = command("{\"type\":\"subscribe\",\"channel\":\"no\"}");
    let many = refused.repeat(2 * MIB / refused.len());
    Flood {
        say: Box::new(move |_, _| Some(many.clone())),
        ..websockets("refused subscriptions", 20)
    }
}

/// One frame each of which names as many channels as fit.
fn long_lists() -> Flood {
    let list = (0..200_000)
        .map(|n| format!("\"{n}\""))
        .collect::<Vec<_>>()
        .join(",");
    let frame = command(&format!(
        "{{\"type\":\"subscribe\",\"id\":1,\"channels\":[{list}]}}"
    ));
    Flood {
        say: Box::new(move |_, _| Some(frame.clone())),
        ..websockets("long lists", 20)
    }
}

fn refused_publications() -> Flood {
    let body = format!(
        "{{\"channel\":\"no\",\"data\":\"{}\"}}",
        "\\u0041".repeat(100 * KIB)
    );
    let request = format!(
        "POST /v1/publish HTTP/1.1\r\nHost: comet\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let request = request.into_bytes();
    Flood {
        say: Box::new(move |_, _| Some(request.clone())),
        ..requests("refused publications", 50)
    }
}

fn nested_json() -> Flood {
    let nested = "[".repeat(400 * KIB) + &"]".repeat(400 * KIB);
    let body = format!("{{\"channel\":\"open/x\",\"data\":{nested}}}");
    let request = format!(
        "POST /v1/publish HTTP/1.1\r\nHost: comet\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let request = request.into_bytes();
    Flood {
        say: Box::new(move |_, _| Some(request.clone())),
        ..requests("nested JSON", 50)
    }
}

fn keep_many_channels(stage: &Stage) {
    for batch in 0..50 {
        let list = (0..1000).map(|n| format!("{{\"channel\":\"kept/{batch}/{n}\",\"data\":{n}}}"));
        let list = list.collect::<Vec<_>>().join(",");
        stage.publish("/v1/batch", format!("{{\"publications\":[{list}]}}").as_bytes());
    }
}

fn the_past_by_pattern() -> Flood {
    let request =
        b"GET /v1/poll?pattern=kept/**no&cursor=earliest&wait_ms=0 HTTP/1.1\r\nHost: comet\r\n\r\n".to_vec();
    Flood {
        prepare: keep_many_channels,
        say: Box::new(move |_, _| Some(request.clone())),
        ..requests("the past by pattern", 32)
    }
}

fn names() -> Flood {
    Flood {
        say: Box::new(|connection, spoken| {
            let name = format!("open/{}{connection}.{spoken}", "n".repeat(8 * KIB - 24));
            (spoken < 1000).then(|| command(&format!("{{\"type\":\"subscribe\",\"channel\":\"{name}\"}}")))
        }),
        ..websockets("names", 20)
    }
}

fn patterns() -> Flood {
    Flood {
        say: Box::new(|connection, spoken| {
            let pattern = format!("open/{connection}/{spoken}/*");
            (spoken < 20).then(|| command(&format!("{{\"type\":\"subscribe\",\"pattern\":\"{pattern}\"}}")))
        }),
        ..websockets("patterns", 500)
    }
}

fn static_files() -> Flood {
    Flood {
        say: Box::new(|connection, spoken| {
            let name = format!("lively/{connection}.{spoken}");
            let request = format!("GET /v1/poll?channel={name}&wait_ms=0 HTTP/1.1\r\nHost: comet\r\n\r\n");
            (spoken < 100).then(|| request.into_bytes())
        }),
        ..requests("static files", 20)
    }
}

fn joins() -> Flood {
    Flood {
        say: Box::new(|connection, spoken| {
            let kind = ["subscribe", "unsubscribe"][spoken % 2];
            let name = format!("open/{}", (connection + spoken / 2) % 200);
            Some(command(&format!(
                "{{\"type\":\"{kind}\",\"channel\":\"{name}\",\"presence\":\"join\",\"info\":{{\"n\":{spoken}}}}}"
            )))
        }),
        ..websockets("joins and leaves", 100)
    }
}

/// More connections than are served, each of which sends a ping.
fn connections() -> Flood {
    let ping = masked(9, b"");
    Flood {
        addresses: 100,
        say: Box::new(move |_, spoken| (spoken < 1).then(|| ping.clone())),
        ..websockets("connections", 5_000)
    }
}
