//! The one binary: its command line, run.

/// Wipes every block of memory when it is freed, so that copies made by HTTP, JSON and TLS code go too.
/// Beneath it mimalloc, which hands blocks between threads cheaper than the C library does.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<mimalloc::MiMalloc> =
    zeroizing_alloc::ZeroAlloc(mimalloc::MiMalloc);

fn main() -> std::process::ExitCode {
    daypass::cli::run()
}
