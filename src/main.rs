//! `cdrlake`: arguments in, exit status out. Everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

/// Makes glibc's allocator keep freed memory. By default it has one arena for each thread, and
/// returns large blocks to the system at once, so that every batch faults its pages in again. With
/// these settings, a run over 2.7 million records on two processors took 18,000 page faults and 85
/// MB instead of 57,000 and 115 MB. With one arena instead of two, any thread can reuse the memory
/// of a finished slice: 70 MB, and over a hundred million records 108 MB instead of 187 MB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn tune_allocator() {
    let set = |option, value| {
        #[expect(unsafe_code, reason = "there is no other way to set them from within")]
        // SAFETY: no other thread runs yet, and the function takes numbers only.
        unsafe {
            libc::mallopt(option, value) == 1
        }
    };
    set(libc::M_ARENA_MAX, 1);
    // The largest value that every version accepts. If it is rejected, the trim threshold must not
    // be set: that would end the automatic adaptation of both.
    if set(libc::M_MMAP_THRESHOLD, 32 << 20) {
        set(libc::M_TRIM_THRESHOLD, 64 << 20);
    }
}

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    tune_allocator();
    cdrlake::internals::install_panic_hook();
    let arguments = cdrlake::internals::Arguments::of_process();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            drop(writeln!(
                std::io::stderr(),
                "error: cannot start the asynchronous runtime: {error}"
            ));
            return ExitCode::FAILURE;
        }
    };
    let status = runtime.block_on(arguments.execute());
    // Without waiting for work that cannot be stopped, like a key command that hangs.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    status.into()
}
