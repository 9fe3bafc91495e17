//! What a process has used: CPU time and memory, for the benchmark and for statistics.

use std::io;
use std::time::Duration;

/// What a process has used so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessUsage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Memory in RAM, in bytes, shared pages included.
    pub resident: u64,
    /// Memory in RAM that no other process shares, in bytes.
    pub private: u64,
}

/// CPU time that this thread has used, where the system tells. A system call.
pub fn thread_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Some(Duration::new(
        u64::try_from(time.tv_sec).ok()?,
        u32::try_from(time.tv_nsec).ok()?,
    ))
}

/// How many descriptors this process has open, where the system tells.
pub fn open_descriptors() -> Option<u64> {
    let listed = std::fs::read_dir("/proc/self/fd")
        .or_else(|_| std::fs::read_dir("/dev/fd"))
        .ok()?;
    u64::try_from(listed.count()).ok()
}

/// What the process `pid` has used so far.
///
/// # Errors
/// `NotFound` if there is no such process, `Unsupported` where there is no `/proc` to read it from.
#[cfg(target_os = "linux")]
pub fn process_usage(pid: u32) -> io::Result<ProcessUsage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (user, system) = cpu_ticks(&stat).ok_or_else(|| unreadable("stat"))?;
    let (resident, private) = match std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        Ok(rollup) => memory_of_rollup(&rollup).ok_or_else(|| unreadable("smaps_rollup"))?,
        // Another user's process, or a kernel without it: pages of files count as shared then.
        Err(_) => {
            let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
            memory_of_statm(&statm, page_size()).ok_or_else(|| unreadable("statm"))?
        }
    };
    let time = |ticks: u64| Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second());
    Ok(ProcessUsage {
        user: time(user),
        system: time(system),
        resident,
        private,
    })
}

/// What the process `pid` has used so far.
///
/// # Errors
/// Always: only Linux tells it in a way that is stable.
#[cfg(not(target_os = "linux"))]
pub fn process_usage(_pid: u32) -> io::Result<ProcessUsage> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "the usage of a process can only be read on Linux",
    ))
}

#[cfg(target_os = "linux")]
fn unreadable(file: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("/proc: {file} does not look as expected"),
    )
}

#[cfg(target_os = "linux")]
fn ticks_per_second() -> u64 {
    // SAFETY: no pointer is passed.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks)
        .ok()
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}

#[cfg(target_os = "linux")]
fn page_size() -> u64 {
    // SAFETY: no pointer is passed.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).ok().filter(|size| *size > 0).unwrap_or(4096)
}

/// User and system ticks: fields 14 and 15 of proc(5)'s `stat`, counted after the name, which may hold blanks and brackets.
#[cfg(target_os = "linux")]
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(target_os = "linux")]
fn memory_of_rollup(rollup: &str) -> Option<(u64, u64)> {
    let bytes = |name: &str| -> Option<u64> {
        let line = rollup.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split_ascii_whitespace()
            .nth(1)?
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    };
    Some((bytes("Rss")?, bytes("Private_Clean")? + bytes("Private_Dirty")?))
}

#[cfg(target_os = "linux")]
fn memory_of_statm(statm: &str, page: u64) -> Option<(u64, u64)> {
    let mut fields = statm.split_ascii_whitespace().skip(1);
    let resident: u64 = fields.next()?.parse().ok()?;
    let shared: u64 = fields.next()?.parse().ok()?;
    Some((resident * page, resident.saturating_sub(shared) * page))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_less_of_it_alone() {
        let usage = process_usage(std::process::id()).unwrap();
        assert!(
            usage.resident > 0 && usage.private > 0 && usage.private <= usage.resident,
            "{usage:?}"
        );
    }

    #[test]
    fn a_process_that_is_not_there_is_not_found() {
        assert_eq!(
            process_usage(u32::MAX).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn a_name_with_blanks_and_brackets_moves_no_field() {
        let stat = "7 (a b) c) d) S 1 7 7 0 -1 4194304 10 0 0 0 123 45 0 0 20 0 1 0 99 0 0";
        assert_eq!(cpu_ticks(stat), Some((123, 45)));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn memory_is_read_from_either_file() {
        let rollup = "5000-7000 ---p 0 00:00 0 [rollup]\nRss: 10 kB\nPss: 9 kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: 2 kB\n";
        assert_eq!(memory_of_rollup(rollup), Some((10_240, 3_072)));
        assert_eq!(memory_of_statm("100 20 5 1 0 10 0", 4096), Some((81_920, 61_440)));
    }
}
