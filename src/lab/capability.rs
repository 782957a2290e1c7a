//! Linux capabilities: what the bounding set of this machine allows, and specs cut down to it.

use anyhow::{Context, Result};
use serde_json::Value;

/// The name under which labctl is an OCI runtime (`cli::runtime`): that of its copy, and that in the engine's config.
pub const RUNTIME: &str = "labctl-runtime";

/// The names of capabilities by number, from `include/uapi/linux/capability.h` of the Linux kernel.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A set of capabilities, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set(pub u64);

impl Set {
    fn has(self, number: usize) -> bool {
        self.0 >> number & 1 == 1
    }

    /// Returns the capabilities up to the kernel's last one that are not in the set.
    pub fn missing(self, last: usize) -> Vec<&'static str> {
        (0..=last.min(NAMES.len() - 1))
            .filter(|&number| !self.has(number))
            .map(|number| NAMES[number])
            .collect()
    }
}

/// Reads the bounding set of this process.
///
/// # Errors
/// `/proc` is not there: not Linux, or not mounted.
pub fn bounding_set() -> Result<Set> {
    let status = std::fs::read_to_string("/proc/self/status").context("read `/proc/self/status`")?;
    parse_bounding_set(&status).context("`/proc/self/status` has no line CapBnd")
}

fn parse_bounding_set(status: &str) -> Option<Set> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok().map(Set)
}

/// Reads the number of the last capability this kernel knows.
///
/// # Errors
/// `/proc` is not there.
pub fn last() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").context("read `cap_last_cap`")?;
    text.trim().parse().context("`cap_last_cap` is not a number")
}

/// Returns the capabilities that this machine withholds; empty on an ordinary machine, and where there is no `/proc`.
pub fn withheld() -> Vec<&'static str> {
    match (bounding_set(), last()) {
        (Ok(set), Ok(last)) => set.missing(last),
        _ => Vec::new(),
    }
}

/// Takes the capabilities that are not in `bounding` out of an OCI spec or an OCI process, and returns the new text;
/// nothing where there is nothing to take out.
///
/// # Errors
/// The text is not JSON.
pub fn without_missing(text: &str, bounding: Set) -> Result<Option<String>> {
    let mut value: Value = serde_json::from_str(text).context("the spec is not JSON")?;
    let place = if value.get("process").is_some() {
        value.pointer_mut("/process/capabilities")
    } else {
        value.get_mut("capabilities")
    };
    let Some(sets) = place.and_then(Value::as_object_mut) else {
        return Ok(None);
    };
    let mut changed = false;
    for (_, set) in sets.iter_mut() {
        let Some(list) = set.as_array_mut() else { continue };
        let before = list.len();
        list.retain(|name| {
            let number = name
                .as_str()
                .and_then(|name| NAMES.iter().position(|known| *known == name));
            // What this table does not know is newer than it, and the runtime's to judge.
            number.is_none_or(|number| bounding.has(number))
        });
        changed |= list.len() != before;
    }
    Ok(changed.then(|| value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHOUT_SYS_RESOURCE: Set = Set(0x1ff_feff_ffff);

    #[test]
    fn the_missing_capability_is_named() {
        assert_eq!(WITHOUT_SYS_RESOURCE.missing(40), ["CAP_SYS_RESOURCE"]);
        assert_eq!(
            parse_bounding_set("CapEff:\t0\nCapBnd:\t000001fffeffffff\n"),
            Some(WITHOUT_SYS_RESOURCE)
        );
    }

    #[test]
    fn only_what_is_missing_is_taken_out() {
        let spec = r#"{"process":{"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE","CAP_FROM_THE_FUTURE"],
            "effective":["CAP_SYS_RESOURCE"]},"rlimits":[{"hard":18446744073709551615}]}}"#;
        let changed = without_missing(spec, WITHOUT_SYS_RESOURCE)
            .expect("JSON")
            .expect("a change");
        let value: Value = serde_json::from_str(&changed).expect("JSON");
        assert_eq!(
            value["process"]["capabilities"]["bounding"],
            serde_json::json!(["CAP_CHOWN", "CAP_FROM_THE_FUTURE"])
        );
        assert_eq!(value["process"]["capabilities"]["effective"], serde_json::json!([]));
        assert_eq!(value["process"]["rlimits"][0]["hard"].as_u64(), Some(u64::MAX));
    }

    #[test]
    fn an_exec_process_has_them_at_the_top() {
        let process = r#"{"args":["sh"],"capabilities":{"bounding":["CAP_SYS_RESOURCE"]}}"#;
        let changed = without_missing(process, WITHOUT_SYS_RESOURCE)
            .expect("JSON")
            .expect("a change");
        assert!(!changed.contains("CAP_SYS_RESOURCE"));
        assert_eq!(
            without_missing(r#"{"args":["sh"]}"#, WITHOUT_SYS_RESOURCE).expect("JSON"),
            None
        );
        assert_eq!(without_missing(process, Set(u64::MAX)).expect("JSON"), None);
    }
}
