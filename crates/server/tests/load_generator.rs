//! What `comet bench` promises: it counts every delivery, notices the missing ones, and says why it cannot go on.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use cometserver::bench::{self, Address, BenchError, Load, Options, Report, Target, Transport};

#[path = "../examples/floor.rs"]
#[allow(dead_code)]
mod floor;

const TRANSPORTS: [Transport; 4] = [Transport::Sse, Transport::Stream, Transport::Ws, Transport::Poll];

/// A floor on a free port and on a Unix socket in `folder`. Its thread ends with the process.
fn floor_in(folder: &tempfile::TempDir) -> [Address; 2] {
    let path = folder.path().join("floor.sock");
    let tcp = mio::net::TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let unix = mio::net::UnixListener::bind(&path).unwrap();
    let address = tcp.local_addr().unwrap();
    std::thread::spawn(move || floor::serve(tcp, Some(unix)).map_err(|error| error.to_string()));
    [Address::Tcp(address), Address::Unix(path)]
}

fn options(address: &Address) -> Options {
    Options {
        target: Target::Floor,
        subscribers: 20,
        publications: 50,
        warm_up: 3,
        pid: Some(std::process::id()),
        ..Options::new(address.clone())
    }
}

fn run(options: Options) -> Report {
    bench::run(options, &mut |_| {}).unwrap()
}

/// Answers the first request of every connection with `answer`, and leaves it open.
fn server_that_answers(answer: &'static str) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut socket in listener.incoming().flatten() {
            let mut request = [0; 4096];
            if socket.read(&mut request).is_ok_and(|n| n > 0) && socket.write_all(answer.as_bytes()).is_ok() {
                open.push(socket);
            }
        }
    });
    address
}

#[test]
fn every_delivery_is_counted_on_every_transport_over_tcp_and_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    for address in floor_in(&folder) {
        for transport in TRANSPORTS {
            let report = run(Options {
                transport,
                frame: Some(300),
                ..options(&address)
            });
            let what = format!("{transport:?} over {address}");
            assert_eq!((report.expected, report.delivered), (1_000, 1_000), "{what}");
            assert_eq!(report.publications, 50, "{what}");
            assert_eq!(report.wire_bytes, 300.0, "{what}");
            assert_eq!((report.latency.count, report.answer.count), (1_000, 50), "{what}");
            // How much is not asserted: the server is this process, whose other tests' threads come and go.
            assert!(report.cpu.is_some(), "{what}");
        }
    }
}

#[test]
fn each_publication_is_expected_by_the_subscribers_of_its_channel_only() {
    let folder = tempfile::tempdir().unwrap();
    let [tcp, _] = floor_in(&folder);
    let report = run(Options {
        channels: 10,
        ..options(&tcp)
    });
    assert_eq!(
        (report.expected, report.delivered),
        (100, 100),
        "two of twenty listen to each"
    );
    let report = run(Options {
        channels: 20,
        in_flight: 4,
        ..options(&tcp)
    });
    assert_eq!(
        (report.expected, report.delivered),
        (50, 50),
        "one listens to each"
    );
}

#[test]
fn a_paced_load_and_one_with_many_in_flight_deliver_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let [tcp, _] = floor_in(&folder);
    for (rate, in_flight) in [(Some(2_000.0), 1), (None, 16)] {
        // Warming up with more than is measured: the two must not be taken for one another.
        let report = run(Options {
            rate,
            in_flight,
            warm_up: 60,
            ..options(&tcp)
        });
        assert_eq!(
            (report.expected, report.delivered),
            (1_000, 1_000),
            "{rate:?} {in_flight}"
        );
    }
}

#[test]
fn a_duration_ends_the_load_before_all_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let [tcp, _] = floor_in(&folder);
    let duration = Some(Duration::from_millis(20));
    let report = run(Options {
        publications: u64::MAX,
        duration,
        ..options(&tcp)
    });
    assert!(report.complete() && report.publications > 0);
}

#[test]
fn publishing_connecting_and_waiting_are_loads_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let [tcp, _] = floor_in(&folder);
    let report = run(Options {
        load: Load::Publish,
        ..options(&tcp)
    });
    assert_eq!(
        (report.publications, report.expected, report.answer.count),
        (50, 0, 50)
    );
    for transport in TRANSPORTS {
        let report = run(Options {
            load: Load::Connect,
            transport,
            ..options(&tcp)
        });
        assert_eq!(report.opening.count, 20, "the warm-up is not counted");
        assert!(report.per_second() > 0.0 && report.memory.is_none());
        let report = run(Options {
            load: Load::Idle,
            transport,
            ..options(&tcp)
        });
        assert!(report.memory.is_some());
    }
}

#[test]
fn deliveries_that_never_come_are_missing_in_the_report() {
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ([listening, _], [publishing, _]) = (floor_in(&here), floor_in(&elsewhere));
    for warm_up in [0, 1] {
        let publish_address = Some(publishing.clone());
        let stall = Duration::from_millis(50);
        let report = run(Options {
            publish_address,
            stall,
            warm_up,
            ..options(&listening)
        });
        assert_eq!(
            (report.expected, report.delivered),
            (20, 0),
            "the first one is waited for in vain"
        );
        assert!(!report.complete());
    }
}

#[test]
fn a_reader_that_sleeps_is_no_part_of_what_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    let [tcp, _] = floor_in(&folder);
    let report = run(Options {
        slow_readers: 5,
        ..options(&tcp)
    });
    assert_eq!((report.expected, report.delivered), (1_000, 1_000));
}

#[test]
fn a_refusal_is_told_with_the_servers_own_reason() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nforbidden";
    let address = server_that_answers(refusal);
    for transport in TRANSPORTS {
        let options = Options {
            target: Target::Comet,
            transport,
            ..options(&address)
        };
        let error = bench::run(options, &mut |_| {}).unwrap_err();
        let said = error.to_string();
        assert!(
            said.starts_with("the server refused a subscriber: 403 forbidden ("),
            "{transport:?}: {said}"
        );
        assert!(said.contains("--token"), "what would help is named: {said}");
    }
    let options = Options {
        load: Load::Publish,
        ..options(&address)
    };
    let error = bench::run(options, &mut |_| {}).unwrap_err();
    let said = error.to_string();
    assert!(
        said.starts_with("the server refused a publisher: 403 forbidden ("),
        "{said}"
    );
    assert!(said.contains("--key") && said.contains("--publish-at"), "{said}");
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let stall = Duration::from_millis(50);
    let error = bench::run(
        Options {
            stall,
            ..options(&address)
        },
        &mut |_| {},
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            BenchError::Stalled {
                opened: 0,
                wanted: 20
            }
        ),
        "{error}"
    );
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [Address::Tcp(port), Address::Unix(folder.path().join("none"))] {
        let error = bench::run(options(&address), &mut |_| {}).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("cannot connect to {address}: ")),
            "{error}"
        );
    }
}
