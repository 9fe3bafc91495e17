//! The budget's rows: each a load, what it is held against, and how much it may cost.

use std::time::Duration;

use cometserver::bench::{Load, Options, Transport};

/// What a row's figure is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    /// CPU time, as a multiple of the floor's.
    Cpu,
    /// CPU time, as a multiple of the same server's without what the row adds.
    CpuOfItself,
    /// Private memory of the server per connection, in bytes.
    Memory,
    /// Lost or doubled deliveries.
    Lost,
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) figure: Figure,
    /// The figure may be at most this.
    pub(crate) budget: f64,
    /// Over the Unix socket instead of TCP.
    pub(crate) unix: bool,
    /// Turns default options into this load.
    load: Box<dyn Fn(&mut Options)>,
    /// Turns this load into what it is held against.
    baseline: fn(&mut Options),
}

impl Row {
    fn new(name: String, budget: f64, load: impl Fn(&mut Options) + 'static) -> Self {
        Row {
            name,
            figure: Figure::Cpu,
            budget,
            unix: false,
            load: Box::new(load),
            baseline: |_| {},
        }
    }

    fn unix(self) -> Self {
        Row { unix: true, ..self }
    }

    fn figure(self, figure: Figure) -> Self {
        Row { figure, ..self }
    }

    fn against(self, baseline: fn(&mut Options)) -> Self {
        Row { baseline, ..self }
    }

    pub(crate) fn load(&self, options: &mut Options) {
        (self.load)(options);
    }

    pub(crate) fn baseline(&self, options: &mut Options) {
        (self.load)(options);
        (self.baseline)(options);
    }
}

/// All rows. The numbers of publications make each measurement a few tenths of a second of CPU time.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, transport, idle) in [("sse", Transport::Sse, 1536.0), ("ws", Transport::Ws, 2048.0)] {
        rows.push(idle_row(name, transport, idle));
        let publish = move |subscribers, publications| {
            move |o: &mut Options| {
                (o.transport, o.subscribers, o.publications) = (transport, subscribers, publications);
            }
        };
        rows.push(Row::new(format!("{name}-tcp-1k"), 1.15, publish(1_000, 300)));
        rows.push(Row::new(format!("{name}-tcp-10k"), 1.15, publish(10_000, 30)));
        rows.push(Row::new(format!("{name}-unix-1k"), 1.25, publish(1_000, 300)).unix());
        rows.push(Row::new(format!("{name}-unix-10k"), 1.25, publish(10_000, 30)).unix());
        rows.push(Row::new(format!("{name}-tcp-paced"), 1.4, move |o| {
            publish(1_000, 40)(o);
            o.rate = Some(20.0);
        }));
        rows.push(Row::new(format!("{name}-tcp-4k"), 1.15, move |o| {
            publish(1_000, 200)(o);
            o.payload = 4096;
        }));
        rows.push(Row::new(format!("{name}-tcp-flight-16"), 0.3, move |o| {
            publish(1_000, 480)(o);
            o.in_flight = 16;
        }));
        rows.push(Row::new(format!("{name}-connect"), 1.5, move |o| {
            publish(4_000, 0)(o);
            (o.load, o.warm_up) = (Load::Connect, 100);
        }));
    }
    rows.push(idle_row("poll", Transport::Poll, 1536.0));
    rows.push(Row::new("poll-tcp-1k".into(), 1.4, |o| {
        (o.transport, o.publications) = (Transport::Poll, 100);
    }));
    rows.push(Row::new("channels-1000x10".into(), 1.25, |o| {
        (o.channels, o.subscribers, o.publications, o.warm_up) = (1_000, 10_000, 5_000, 200);
    }));
    rows.push(Row::new("publish".into(), 1.3, |o| {
        (o.load, o.publications, o.warm_up) = (Load::Publish, 10_000, 500);
    }));
    let batch = Row::new("publish-batch-100".into(), 0.1, |o| {
        (o.load, o.publications, o.warm_up, o.batch) = (Load::Publish, 100_000, 1_000, 100);
    });
    rows.push(batch.against(|o| (o.batch, o.publications) = (1, 10_000)));
    let flood = Row::new("flood-60k-per-s".into(), 0.0, |o| {
        (o.subscribers, o.batch, o.rate, o.publications) = (10, 100, Some(60_000.0), 180_000);
    });
    rows.push(flood.figure(Figure::Lost));
    let slow = Row::new("slow-reader".into(), 1.05, |o| {
        (o.publications, o.payload, o.slow_readers) = (300, 4096, 1);
    });
    rows.push(slow.figure(Figure::CpuOfItself).against(|o| o.slow_readers = 0));
    rows
}

fn idle_row(name: &str, transport: Transport, budget: f64) -> Row {
    let row = Row::new(format!("{name}-idle"), budget, move |o| {
        (o.transport, o.load, o.subscribers, o.warm_up) = (transport, Load::Idle, 8_000, 200);
        o.stall = Duration::from_secs(30);
    });
    row.figure(Figure::Memory)
}
