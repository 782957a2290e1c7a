//! The `labctl` program.

fn main() -> std::process::ExitCode {
    labctl::cli::main()
}
