//! `cdrlake`: arguments in, exit status out. Everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cdrlake::cli::Arguments::parse();
    // Before any request: reqwest panics without a provider, even for plain http.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        unreachable!("nobody installed a provider before main");
    }
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
    runtime.block_on(arguments.execute()).into()
}
