//! Tells Cargo to compile again when a file that `src/assets.rs` embeds is added, changed or removed.
fn main() {
    for folder in ["assets", "charts", "labs"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    #[expect(clippy::disallowed_methods, reason = "a build script has no `config`")]
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo:rustc-env=LABCTL_TARGET={target}");
}
