//! Tells Cargo to compile again when a file that `src/assets.rs` embeds is added, changed or removed, and to keep the
//! program small where the machine's loader allows it.
fn main() {
    for folder in ["assets", "charts", "labs"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    #[expect(clippy::disallowed_methods, reason = "a build script has no `config`")]
    let [target, host] = ["TARGET", "HOST"].map(|name| std::env::var(name).unwrap_or_default());
    println!("cargo:rustc-env=LABCTL_TARGET={target}");
    // The dictionary of `labctl prose` is full of pointers, each of which has an entry of 24 bytes in the program, 7 MB
    // in all, and the program is the dashboard's image too. The packed form (DT_RELR) has a bit for each. glibc loads it
    // from 2.36 on (https://sourceware.org/glibc/wiki/Release/2.36); the program runs where it is built, and in an image
    // that has this machine's glibc.
    if host == target && target.ends_with("linux-gnu") && glibc().is_some_and(|version| version >= (2, 36)) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Returns the version of this machine's glibc; nothing where there is none.
fn glibc() -> Option<(u32, u32)> {
    #[expect(clippy::disallowed_methods, reason = "a build script has no `drive`")]
    let output = std::process::Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
