//! How the C library gives memory back.

/// Buffers from this size on are mapped each for itself, and given back to the system when they are freed, in bytes: a large
/// message, an answer. Left alone, the library raises the bound to 32 MiB with the first large buffer that is freed, and what is
/// freed from then on stays with the process wherever something small lies behind it.
const MAPPED_FROM: i32 = 128 << 10;

/// Makes the C library give large buffers back to the system. Called once, before any thread is started.
pub fn give_back_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no pointer is passed; the call changes numbers of the allocator only, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * MAPPED_FROM);
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = MAPPED_FROM;
}
