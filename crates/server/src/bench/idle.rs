//! The loads in which nothing is published: connecting, and waiting.

use std::time::{Duration, Instant};

use super::dialect::Dialect;
use super::fan_out::channel_prefix;
use super::opening::Subscribers;
use super::process::{KernelMemory, UserMemory, cpu_time, kernel_memory, user_memory};
use super::report::{Cpu, Latency, Memory, Report, histogram};
use super::{BenchError, Load, Options};

/// Runs [`Load::Connect`] or [`Load::Idle`].
pub(super) fn run(options: Options, progress: &mut dyn FnMut(&str)) -> Result<Report, BenchError> {
    let dialect = Dialect::new(&options, channel_prefix(&options)?);
    let mut report = Report::new(&options);
    let mut subscribers = Subscribers::new()?;
    // The first connections pay for what is made once. And who is still busy closing an earlier load's is done with that.
    subscribers.open(options.warm_up as usize, &options, &dialect, progress)?;
    subscribers.opening_times = histogram();
    subscribers.list.reserve(options.subscribers);

    let own = std::process::id();
    let before = Observed::now(&options, own)?;
    let began = Instant::now();
    subscribers.open(options.subscribers, &options, &dialect, progress)?;
    report.seconds = began.elapsed().as_secs_f64();
    let after = Observed::now(&options, own)?;

    report.opening = Latency::of(&subscribers.opening_times);
    let spent = |from: Option<Duration>, to: Option<Duration>| Some(to?.saturating_sub(from?).as_secs_f64());
    report.generator_busy = spent(before.own_cpu, after.own_cpu).map(|own| own / report.seconds);
    let count = options.subscribers.max(1) as f64;
    report.cpu = spent(before.cpu, after.cpu).map(|seconds| Cpu {
        seconds,
        each_us: seconds * 1e6 / count,
    });
    if options.load == Load::Idle {
        report.memory = after.memory_since(&before, count);
    }
    Ok(report)
}

/// What the server and the kernel have spent and hold at one moment.
struct Observed {
    cpu: Option<Duration>,
    own_cpu: Option<Duration>,
    user: Option<UserMemory>,
    kernel: Option<KernelMemory>,
}

impl Observed {
    fn now(options: &Options, own: u32) -> Result<Self, BenchError> {
        Ok(Observed {
            cpu: options.pid.map(cpu_time).transpose()?,
            own_cpu: cpu_time(own).ok(),
            user: options.pid.map(user_memory).transpose()?,
            kernel: kernel_memory(),
        })
    }

    fn memory_since(&self, before: &Observed, count: f64) -> Option<Memory> {
        let each = |from: u64, to: u64| (to as f64 - from as f64) / count;
        let (user, user_before) = self.user.zip(before.user)?;
        let kernel = self.kernel.zip(before.kernel);
        Some(Memory {
            resident: each(user_before.resident, user.resident),
            private_dirty: each(user_before.private_dirty, user.private_dirty),
            kernel_slab: kernel.map(|(now, then)| each(then.slab, now.slab)),
            kernel_buffers: kernel.map(|(now, then)| each(then.buffers, now.buffers)),
        })
    }
}
