//! The allocator of a process that lives long and is idle most of the time.

/// The size from which a block is mapped by itself, and so given back when it is freed.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 128 << 10;

/// How many arenas threads share: each keeps what was freed in it, and glibc would make eight a processor.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Makes the allocator give back what is freed rather than keep it for later, mallopt(3).
///
/// It belongs before the first thread. Other C libraries have nothing to set.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS),
        // Setting one of these also ends glibc's habit of raising both with use.
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM),
        (libc::M_TRIM_THRESHOLD, MAPPED_FROM),
    ] {
        // SAFETY: mallopt takes two numbers and changes only the allocator's own settings, under its lock.
        unsafe { libc::mallopt(parameter, value) };
    }
}
