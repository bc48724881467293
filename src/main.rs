//! The one binary: its command line, run.

/// Wipes every block of memory when it is freed, so that copies made by HTTP, JSON and TLS code go too.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> std::process::ExitCode {
    daypass::cli::run()
}
