//! What a process costs, seen from outside: CPU time and memory. Linux only; elsewhere everything is `None`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::BenchError;

/// The length of a tick in `/proc/PID/stat`: USER_HZ is 100 in Linux's user-space interface on every platform.
const TICK: Duration = Duration::from_millis(10);

/// The unit of `mem` in `/proc/net/sockstat`, in bytes. (Pages; 4 KiB where this is measured, larger on some ARM64.)
const PAGE: u64 = 4096;

/// User-space memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UserMemory {
    pub(super) resident: u64,
    /// Pages only this process has and has written: its heap and stacks, not the program's file.
    pub(super) private_dirty: u64,
}

/// The kernel's memory, system-wide, in bytes: a difference is ours only on a quiet machine.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KernelMemory {
    /// Sockets, inodes, descriptors, epoll entries.
    pub(super) slab: u64,
    /// What sits in the buffers of TCP sockets.
    pub(super) buffers: u64,
}

/// User and system time since the process began, of all its threads that still live: less than before if one has ended.
pub(super) fn cpu_time(pid: u32) -> Result<Duration, BenchError> {
    // The scheduler's own count in nanoseconds, where the kernel shows it; ticks of 10 ms are too coarse.
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let threads = fs::read_dir(&tasks).map_err(|source| BenchError::Process { path: tasks, source })?;
    let spent = |file: PathBuf| {
        fs::read_to_string(file)
            .ok()?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    };
    // A thread that ends meanwhile is skipped.
    let spent: Vec<u64> = threads
        .flatten()
        .filter_map(|thread| spent(thread.path().join("schedstat")))
        .collect();
    if spent.is_empty() {
        cpu_ticks(pid)
    } else {
        Ok(Duration::from_nanos(spent.iter().sum()))
    }
}

fn cpu_ticks(pid: u32) -> Result<Duration, BenchError> {
    let text = read(format!("/proc/{pid}/stat"))?;
    // The name, second field, may hold anything: count from its closing parenthesis. utime and stime are 14 and 15.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u32 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u32>().ok())
        .sum();
    Ok(TICK * ticks)
}

/// The process's memory.
pub(super) fn user_memory(pid: u32) -> Result<UserMemory, BenchError> {
    let text = read(format!("/proc/{pid}/smaps_rollup"))?;
    Ok(UserMemory {
        resident: kilobytes(&text, "Rss:"),
        private_dirty: kilobytes(&text, "Private_Dirty:"),
    })
}

/// The kernel's memory, if it tells.
pub(super) fn kernel_memory() -> Option<KernelMemory> {
    let slab = kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "Slab:");
    let sockets = fs::read_to_string("/proc/net/sockstat").ok()?;
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:"))?;
    let pages: u64 = tcp
        .split_whitespace()
        .skip_while(|word| *word != "mem")
        .nth(1)?
        .parse()
        .ok()?;
    Some(KernelMemory {
        slab,
        buffers: pages * PAGE,
    })
}

fn read(path: String) -> Result<String, BenchError> {
    fs::read_to_string(&path).map_err(|source| BenchError::Process {
        path: path.into(),
        source,
    })
}

/// The value of a line such as `Rss:   1752 kB`, in bytes; 0 if there is none.
fn kilobytes(text: &str, name: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    value.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_is_seen_to_spend_time() {
        let before = cpu_time(std::process::id()).unwrap();
        while cpu_time(std::process::id()).unwrap() <= before {
            std::hint::spin_loop();
        }
        assert!(cpu_ticks(std::process::id()).is_ok());
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let memory = user_memory(std::process::id()).unwrap();
        assert!(memory.resident > 100_000 && memory.private_dirty > 0);
        assert!(kernel_memory().unwrap().slab > 0);
        assert_eq!(kilobytes("Rss:  12 kB\nPss: 1 kB", "Rss:"), 12_288);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(matches!(cpu_time(u32::MAX), Err(BenchError::Process { .. })));
    }
}
