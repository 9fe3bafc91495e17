//! Publishes to subscribers, in a closed loop or paced, and notes what arrives when.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::Token;

use super::channels::Channel;
use super::dialect::Dialect;
use super::opening::{PROGRESS, Subscribers, wait};
use super::process::cpu_time;
use super::publisher::Publisher;
use super::report::{Cpu, Latency, Report, histogram};
use super::{Address, BenchError, Load, Options};

/// Publishing connections when paced: so many answers may be late before the pace suffers.
const PACED_CONNECTIONS: usize = 32;

/// Runs [`Load::FanOut`] or [`Load::Publish`].
pub(super) fn run(mut options: Options, progress: &mut dyn FnMut(&str)) -> Result<Report, BenchError> {
    if options.load == Load::Publish {
        options.subscribers = 0;
        options.slow_readers = 0;
    }
    let mut report = Report::new(&options);
    let mut fan_out = FanOut::open(options, progress)?;
    fan_out.drive(fan_out.options.warm_up, None, progress)?;
    if fan_out.seen.delivered != fan_out.seen.expected {
        // Lost already: measuring would only wait for the same ones again.
        fan_out.tell_counts(&mut report);
        return Ok(report);
    }
    fan_out.reset();

    let pid = fan_out.options.pid;
    let own = std::process::id();
    let server_before = pid.map(cpu_time).transpose()?;
    let own_before = cpu_time(own).ok();
    let began = Instant::now();
    let until = fan_out.options.duration.map(|duration| began + duration);
    fan_out.drive(fan_out.options.publications, until, progress)?;
    let elapsed = began.elapsed().as_secs_f64();

    let seen = &fan_out.seen;
    fan_out.tell_counts(&mut report);
    report.seconds = elapsed;
    report.wire_bytes = if seen.delivered > 0 {
        seen.bytes as f64 / seen.delivered as f64
    } else {
        0.0
    };
    report.latency = Latency::of(&seen.latency);
    report.answer = Latency::of(&seen.answers);
    report.opening = Latency::of(&fan_out.subscribers.opening_times);
    let spent = |from: Duration, pid| Some((cpu_time(pid).ok()?.saturating_sub(from)).as_secs_f64());
    report.generator_busy = own_before
        .and_then(|from| spent(from, own))
        .map(|own| own / elapsed);
    if let (Some(before), Some(pid)) = (server_before, pid) {
        let seconds = (cpu_time(pid)?.saturating_sub(before)).as_secs_f64();
        report.cpu = Some(Cpu {
            seconds,
            each_us: seconds * 1e6 / report.counted().max(1) as f64,
        });
    }
    Ok(report)
}

/// The names of this run's channels begin so.
pub(super) fn channel_prefix(options: &Options) -> Result<String, BenchError> {
    if let Some(prefix) = &options.channel_prefix {
        return Ok(prefix.clone());
    }
    let random = random()?;
    Ok(format!("bench-{random:016x}-"))
}

fn random() -> Result<u64, BenchError> {
    getrandom::u64().map_err(|error| BenchError::Io {
        what: "the system gives no random numbers",
        source: std::io::Error::other(error.to_string()),
    })
}

/// What has been seen since the last [`FanOut::reset`].
struct Seen {
    publications: u64,
    expected: u64,
    delivered: u64,
    bytes: u64,
    latency: Histogram<u64>,
    answers: Histogram<u64>,
}

impl Seen {
    fn nothing() -> Self {
        let (latency, answers) = (histogram(), histogram());
        Seen {
            publications: 0,
            expected: 0,
            delivered: 0,
            bytes: 0,
            latency,
            answers,
        }
    }
}

/// A load that is running.
struct FanOut {
    options: Options,
    dialect: Dialect,
    subscribers: Subscribers,
    publishers: Vec<Publisher>,
    /// Publishers without a request under way.
    idle: Vec<usize>,
    channels: Vec<Channel>,
    /// Publications that somebody has not got yet.
    incomplete: usize,
    /// When the next publication is due, if paced.
    due: Instant,
    /// The state of a xorshift generator, which picks channels; never 0.
    dice: u64,
    seen: Seen,
}

impl FanOut {
    /// Opens all connections.
    fn open(options: Options, progress: &mut dyn FnMut(&str)) -> Result<Self, BenchError> {
        let dialect = Dialect::new(&options, channel_prefix(&options)?);
        let mut subscribers = Subscribers::new()?;
        subscribers.open(options.subscribers, &options, &dialect, progress)?;
        subscribers.open(options.slow_readers, &options, &dialect, progress)?;
        for slow in &mut subscribers.list[options.subscribers..] {
            slow.fall_asleep(subscribers.poll.registry())?;
        }
        let mut channels: Vec<u32> = vec![0; options.channels];
        subscribers.list[..options.subscribers]
            .iter()
            .for_each(|s| channels[s.channel as usize] += 1);

        let address: &Address = options.publish_address.as_ref().unwrap_or(&options.address);
        let paced = if options.rate.is_some() {
            PACED_CONNECTIONS
        } else {
            1
        };
        let connect = |number| {
            let token = Token(subscribers.list.len() + number);
            Publisher::connect(address, subscribers.poll.registry(), token)
        };
        let publishers = (0..options.in_flight.max(paced))
            .map(connect)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(FanOut {
            dialect,
            idle: (0..publishers.len()).rev().collect(),
            publishers,
            channels: channels.into_iter().map(Channel::new).collect(),
            incomplete: 0,
            due: Instant::now(),
            dice: random()? | 1,
            seen: Seen::nothing(),
            subscribers,
            options,
        })
    }

    fn reset(&mut self) {
        self.seen = Seen::nothing();
    }

    fn tell_counts(&self, report: &mut Report) {
        report.publications = self.seen.publications;
        report.expected = self.seen.expected;
        report.delivered = self.seen.delivered;
    }

    /// Publishes `publications`, or until then, and returns when everything has arrived or nothing moves any more.
    fn drive(
        &mut self,
        publications: u64,
        until: Option<Instant>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), BenchError> {
        let mut now = Instant::now();
        let mut last_event = now;
        let mut next_progress = now + PROGRESS;
        self.due = now;
        loop {
            let more = self.seen.publications < publications && until.is_none_or(|until| now < until);
            if more {
                self.publish(now, publications)?;
            } else if self.incomplete == 0 && self.idle.len() == self.publishers.len() {
                return Ok(());
            }
            let rest = self.options.stall.saturating_sub(now - last_event);
            let timeout = self.timeout(more, now).min(rest);
            wait(&mut self.subscribers.poll, &mut self.subscribers.events, timeout)?;
            now = Instant::now();
            if !self.subscribers.events.is_empty() {
                last_event = now;
                self.take_events()?;
            } else if now - last_event >= self.options.stall {
                return Ok(());
            }
            if now >= next_progress {
                next_progress = now + PROGRESS;
                self.tell(publications, progress);
            }
        }
    }

    fn timeout(&self, more: bool, now: Instant) -> Duration {
        // Paced, but nobody idle: the next answer wakes us.
        if more && self.options.rate.is_some() && !self.idle.is_empty() {
            return self.due.saturating_duration_since(now);
        }
        PROGRESS
    }

    fn tell(&self, publications: u64, progress: &mut dyn FnMut(&str)) {
        let seen = &self.seen;
        let of = format!("{} of {publications} publications", seen.publications);
        progress(&format!(
            "{of}, {} of {} deliveries",
            seen.delivered, seen.expected
        ));
    }

    /// Publishes whatever is due now.
    fn publish(&mut self, now: Instant, limit: u64) -> Result<(), BenchError> {
        while self.seen.publications < limit {
            let sent = match self.options.rate {
                Some(_) if self.due > now => return Ok(()),
                Some(_) => self.due,
                None if self.incomplete >= self.options.in_flight => return Ok(()),
                None => Instant::now(),
            };
            let Some(publisher) = self.idle.pop() else {
                return Ok(());
            };
            let number = self.pick_channel();
            let channel = &mut self.channels[number];
            for _ in 0..self.options.batch {
                let expected = channel.publish(sent);
                self.seen.expected += u64::from(expected);
                self.incomplete += usize::from(expected > 0);
            }
            self.seen.publications += self.options.batch as u64;
            if let Some(rate) = self.options.rate {
                self.due += Duration::from_secs_f64(self.options.batch as f64 / rate);
            }
            self.publishers[publisher].publish(&self.dialect, number as u32)?;
        }
        Ok(())
    }

    fn pick_channel(&mut self) -> usize {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice % self.channels.len() as u64) as usize
    }

    fn take_events(&mut self) -> Result<(), BenchError> {
        let FanOut {
            subscribers,
            publishers,
            idle,
            channels,
            incomplete,
            seen,
            dialect,
            ..
        } = self;
        for event in subscribers.events.iter() {
            let token = event.token().0;
            if let Some(subscriber) = subscribers.list.get_mut(token) {
                let (bytes, deliveries) = subscriber.read(dialect, &mut subscribers.buffer)?;
                seen.bytes += bytes as u64;
                seen.delivered += u64::from(deliveries);
                let now = Instant::now();
                let channel = &mut channels[subscriber.channel as usize];
                for number in subscriber.received..subscriber.received + u64::from(deliveries) {
                    if let Some((sent, complete)) = channel.deliver(number) {
                        seen.latency.saturating_record((now - sent).as_nanos() as u64);
                        *incomplete -= usize::from(complete);
                    }
                }
                subscriber.received += u64::from(deliveries);
                continue;
            }
            let number = token - subscribers.list.len();
            let publisher = &mut publishers[number];
            if publisher.is_idle() {
                continue; // its socket has room again, and nothing to send
            }
            if event.is_writable() {
                publisher.write()?;
            }
            if let Some(time) = publisher.read(&mut subscribers.buffer)? {
                seen.answers.saturating_record(time.as_nanos() as u64);
                idle.push(number);
            }
        }
        Ok(())
    }
}
