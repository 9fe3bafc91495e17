//! What a data folder promises.

use std::os::unix::net::UnixListener;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A data folder that lives as long as the first of the pair.
fn made() -> (tempfile::TempDir, DataFolder) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = DataFolder::create(&temporary.path().join("state/comet"), &mut Vec::new()).unwrap();
    (temporary, folder)
}

#[test]
fn a_new_folder_can_be_walked_through_and_not_listed() {
    let (_temporary, folder) = made();
    assert_eq!(mode(folder.path()), 0o711);
    assert_eq!(mode(&folder.path().join("public")), 0o711);
    let mut lock = folder.lock(Path::new("/s")).unwrap();
    lock.write_pid().unwrap();
    assert_eq!(mode(&folder.path().join("comet.lock")), 0o600);
    assert_eq!(mode(&folder.path().join("comet.pid")), 0o644);
}

#[test]
fn what_is_too_open_is_told_and_left_as_it_is() {
    let (_temporary, folder) = made();
    drop(folder.lock(Path::new("/s")).unwrap());
    let lock = folder.path().join("comet.lock");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&lock, Permissions::from_mode(0o666)).unwrap();
    let mut warnings = Vec::new();
    DataFolder::create(folder.path(), &mut warnings).unwrap();
    assert_eq!(
        warnings,
        [
            format!(
                "{} is too open (mode 0777): chmod 0711 it",
                folder.path().display()
            ),
            format!("{} is too open (mode 0666): chmod 0600 it", lock.display()),
        ]
    );
    assert_eq!(mode(folder.path()), 0o777);
}

#[test]
fn a_folder_that_cannot_be_made_is_named_with_the_way_out() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("file");
    fs::write(&file, "").unwrap();
    let error = DataFolder::create(&file.join("comet"), &mut Vec::new())
        .unwrap_err()
        .to_string();
    let expected = format!(
        "data folder {}/comet: File exists (os error 17): make it, or name another with COMETSERVER_DATA_DIR",
        file.display()
    );
    assert_eq!(error, expected);
}

#[test]
fn the_second_to_lock_is_told_who_holds_it_and_the_next_gets_it() {
    let (_temporary, folder) = made();
    let first = folder.lock(Path::new("/run/a.sock")).unwrap();
    let error = folder.lock(Path::new("/run/b.sock")).unwrap_err();
    let expected = format!(
        "already running: pid {} on {} holds {}: stop it with comet stop, or name another folder with COMETSERVER_DATA_DIR",
        std::process::id(),
        platform::host_name(),
        folder.path().join("comet.lock").display()
    );
    assert_eq!(error.to_string(), expected);
    let DataFolderError::Locked {
        holder: Some(holder), ..
    } = error
    else {
        panic!("expected a holder")
    };
    assert_eq!(holder.socket, Path::new("/run/a.sock"));
    assert_eq!(holder.version, env!("CARGO_PKG_VERSION"));

    drop(first);
    folder.lock(Path::new("/run/b.sock")).unwrap();
    assert_eq!(holder_of(&folder), None);
}

fn holder_of(folder: &DataFolder) -> Option<Option<Holder>> {
    holder(folder.path()).unwrap()
}

#[test]
fn a_lock_file_that_nobody_holds_stops_nobody_whatever_it_says() {
    let (_temporary, folder) = made();
    fs::write(
        folder.path().join("comet.lock"),
        "not what we wrote, and longer than what will be written".repeat(9),
    )
    .unwrap();
    let _lock = folder.lock(Path::new("/s")).unwrap();
    assert_eq!(holder_of(&folder).flatten().unwrap().pid, std::process::id());
}

#[test]
fn somebody_who_only_looks_does_not_stop_a_start() {
    let (_temporary, folder) = made();
    drop(folder.lock(Path::new("/s")).unwrap());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = holder(folder.path());
            }
        });
        let failed = (0..1000).find_map(|_| folder.lock(Path::new("/s")).err());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(failed.is_none(), "{failed:?}");
    });
}

#[test]
fn a_lock_that_is_let_go_is_free_even_if_a_forked_child_still_shares_its_file() {
    let (_temporary, folder) = made();
    let lock = folder.lock(Path::new("/s")).unwrap();
    let _child = lock.file.try_clone().unwrap();
    drop(lock);
    assert_eq!(holder_of(&folder), None);
    folder.lock(Path::new("/s")).unwrap();
}

#[test]
fn the_pid_file_holds_the_number_alone_and_goes_with_the_lock() {
    let (_temporary, folder) = made();
    let path = folder.path().join("comet.pid");
    let mut lock = folder.lock(Path::new("/s")).unwrap();
    lock.write_pid().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), std::process::id().to_string());
    drop(lock);
    assert!(!path.exists());
}

#[test]
fn a_socket_path_that_does_not_fit_is_refused_with_its_length() {
    let most = platform::MAX_SOCKET_PATH;
    assert!(check_socket_path(Path::new(&"a".repeat(most))).is_ok());
    let long = "a".repeat(most + 1);
    let expected = format!(
        "socket {long}: the path is {} bytes long, at most {most} are possible: name a shorter one with COMETSERVER_SOCKET or COMETSERVER_DATA_DIR",
        most + 1
    );
    assert_eq!(
        check_socket_path(Path::new(&long)).unwrap_err().to_string(),
        expected
    );
    assert!(
        matches!(probe(Path::new(&long), Path::new("/")), Probe::Other(error) if error.to_string() == expected)
    );
}

#[test]
fn a_probe_tells_running_starting_and_stopped_apart() {
    let (_temporary, folder) = made();
    let socket = folder.path().join("comet.sock");
    let look = || probe(&socket, folder.path());
    assert!(matches!(look(), Probe::NotRunning));

    let lock = folder.lock(&socket).unwrap();
    let me = std::process::id();
    assert!(matches!(look(), Probe::LockedButSilent { holder: Some(holder) } if holder.pid == me));
    let listener = UnixListener::bind(&socket).unwrap();
    assert!(matches!(look(), Probe::Answers));

    drop(listener);
    assert!(matches!(look(), Probe::LockedButSilent { .. }));
    drop(lock);
    assert!(matches!(look(), Probe::NotRunning));
    assert!(socket.exists(), "looking removes nothing");
}

#[test]
fn a_server_that_is_too_busy_to_accept_still_counts_as_running() {
    let (_temporary, folder) = made();
    let socket = folder.path().join("comet.sock");
    let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    listener.bind(&socket2::SockAddr::unix(&socket).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let waiting = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    assert!(matches!(probe(&socket, folder.path()), Probe::Answers));
    drop(waiting);
}

#[test]
fn a_stale_socket_is_removed_and_nothing_else_is() {
    let (_temporary, folder) = made();
    let socket = folder.path().join("comet.sock");
    let lock = folder.lock(&socket).unwrap();
    lock.remove_stale_socket(&socket).unwrap();

    let listener = UnixListener::bind(&socket).unwrap();
    assert!(matches!(
        lock.remove_stale_socket(&socket),
        Err(DataFolderError::SocketInUse { .. })
    ));
    assert!(socket.exists());
    drop(listener);
    lock.remove_stale_socket(&socket).unwrap();
    assert!(!socket.exists());

    fs::write(&socket, "precious").unwrap();
    assert!(matches!(
        lock.remove_stale_socket(&socket),
        Err(DataFolderError::NotASocket { .. })
    ));
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
}

#[test]
fn a_link_in_the_place_of_the_lock_is_refused_and_one_of_the_pid_file_replaced() {
    let (temporary, folder) = made();
    let target = temporary.path().join("precious");
    fs::write(&target, "precious").unwrap();
    let [lock, pid] = ["comet.lock", "comet.pid"].map(|name| folder.path().join(name));
    let refused = |what: &str| {
        let error = folder.lock(Path::new("/s")).unwrap_err().to_string();
        assert!(
            error.contains("comet.lock: ") && error.contains(what) && error.contains("remove it"),
            "{error}"
        );
        fs::remove_file(&lock).unwrap();
    };
    std::os::unix::fs::symlink(&target, &lock).unwrap();
    assert_eq!(holder_of(&folder), None);
    refused("link");
    // One that leads nowhere makes nothing either.
    let nowhere = temporary.path().join("nowhere");
    std::os::unix::fs::symlink(&nowhere, &lock).unwrap();
    refused("link");
    assert!(!nowhere.exists());
    fs::hard_link(&target, &lock).unwrap();
    refused("hard link");
    let fifo = std::process::Command::new("mkfifo").arg(&lock).status();
    assert!(fifo.unwrap().success());
    assert_eq!(holder_of(&folder), None, "and nobody waits for it");
    refused("no plain file");

    for put in [fs::hard_link, |target: &Path, pid: &Path| {
        std::os::unix::fs::symlink(target, pid)
    }] {
        put(&target, &pid).unwrap();
        let mut held = folder.lock(Path::new("/s")).unwrap();
        held.write_pid().unwrap();
        assert_eq!(fs::read_to_string(&pid).unwrap(), std::process::id().to_string());
        assert_eq!(mode(&pid), 0o644);
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}

#[test]
fn a_server_whose_lock_became_a_link_still_holds_the_folder() {
    let (temporary, folder) = made();
    let mut lock = folder.lock(Path::new("/s")).unwrap();
    let path = folder.path().join("comet.lock");
    let target = temporary.path().join("precious");
    fs::write(&target, "precious").unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    assert!(lock.keep().is_err());
    assert!(holder_of(&folder).is_some());
    fs::remove_file(&path).unwrap();
    assert_eq!(lock.keep().unwrap(), Kept::Restored);
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}

#[test]
fn a_lock_that_a_backup_shares_is_taken_all_the_same() {
    let (temporary, folder) = made();
    drop(folder.lock(Path::new("/s")).unwrap());
    fs::hard_link(folder.path().join("comet.lock"), temporary.path().join("backup")).unwrap();
    folder.lock(Path::new("/s")).unwrap();
}
