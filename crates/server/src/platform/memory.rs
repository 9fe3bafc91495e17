//! How much memory there is: of the machine, or of the control group that the process runs in.

use std::fs;
use std::path::Path;

/// Memory that this process may use, in bytes, where the system tells: the machine's, or less if a control group allows less.
pub fn available_memory() -> Option<u64> {
    available_under(Path::new("/"))
}

fn available_under(root: &Path) -> Option<u64> {
    let machine = total(&fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default());
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| group_limit(root, line));
    machine.into_iter().chain(limits).min()
}

/// The total of `/proc/meminfo`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// The least limit of a group and those that it lies in, by its line in `/proc/self/cgroup`: version 2 has one line that begins
/// with `0::`, version 1 one for each controller. Inside a container the group's own folder may be the root of what is seen.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (base, file) = if controllers.is_empty() {
        (root.join("sys/fs/cgroup"), "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes")
    } else {
        return None;
    };
    let own = base.join(path.trim_start_matches('/'));
    let folders = own.ancestors().take_while(|folder| folder.starts_with(&base));
    let limits = folders.filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok());
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        available_under(root.path())
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemFree: 1 kB\nMemTotal:        8192 kB\n");

    #[test]
    fn the_least_of_machine_and_group_counts_whichever_version_tells_it() {
        let v1 = "3:cpu,cpuacct:/a\n2:memory:/a/b\n";
        assert_eq!(written(&[]), None);
        assert_eq!(written(&[MACHINE]), Some(8 << 20));
        let two = |own: &str, parent: &str| {
            written(&[
                MACHINE,
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/memory.max", own),
                ("sys/fs/cgroup/a/memory.max", parent),
            ])
        };
        assert_eq!(two("max\n", "max\n"), Some(8 << 20));
        assert_eq!(two("4096\n", "max\n"), Some(4096));
        assert_eq!(two("max\n", "8192\n"), Some(8192), "a group that it lies in");
        let one = |limit: &str| {
            written(&[
                MACHINE,
                ("proc/self/cgroup", v1),
                ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", limit),
            ])
        };
        assert_eq!(one("2048\n"), Some(2048));
        assert_eq!(one("9223372036854771712\n"), Some(8 << 20), "no limit");
        let contained = [
            MACHINE,
            ("proc/self/cgroup", "0::/../elsewhere\n"),
            ("sys/fs/cgroup/memory.max", "1024\n"),
        ];
        assert_eq!(written(&contained), Some(1024), "the container's own");
    }
}
