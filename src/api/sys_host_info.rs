//! `sys/host-info`: the machine as Linux describes it in `/proc`, in the words of the Vault API.
//!
//! What cannot be read (another system, a container that hides it) is left out.

use std::collections::BTreeMap;
use std::fs;

use daypass_contract::{NoFields, Operation};
use schemars::JsonSchema;
use serde::Serialize;

use super::rfc3339;
use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};

/// The kernel counts processor time in hundredths of a second, on every architecture Linux has.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Serialize, JsonSchema)]
struct HostInfo {
    timestamp: String,
    cpu: Vec<Cpu>,
    cpu_times: Vec<CpuTimes>,
    memory: BTreeMap<&'static str, u64>,
    disk: Vec<Disk>,
    host: Host,
}

#[derive(Serialize, JsonSchema, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    cpu: u32,
    vendor_id: String,
    family: String,
    model: String,
    stepping: u32,
    physical_id: String,
    core_id: String,
    cores: u32,
    model_name: String,
    mhz: f64,
    /// In KiB.
    cache_size: u64,
    flags: Vec<String>,
    microcode: String,
}

/// Seconds since the start of the machine.
#[derive(Serialize, JsonSchema, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
struct CpuTimes {
    cpu: String,
    user: f64,
    nice: f64,
    system: f64,
    idle: f64,
    iowait: f64,
    irq: f64,
    softirq: f64,
    steal: f64,
    guest: f64,
    guest_nice: f64,
}

/// The file system that holds `/`, in bytes.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Disk {
    path: &'static str,
    total: u64,
    free: u64,
    used: u64,
    inodes_total: u64,
    inodes_free: u64,
    inodes_used: u64,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Host {
    hostname: String,
    /// In seconds.
    uptime: u64,
    /// In seconds since 1970.
    boot_time: u64,
    procs: u64,
    os: &'static str,
    platform: String,
    platform_family: String,
    platform_version: String,
    kernel_version: String,
    kernel_arch: String,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    routes.serve::<NoFields, HostInfo, _, _>(
        Operation::Read,
        "sys/host-info",
        "Describes the machine: processors, memory, disk, kernel.",
        host_info,
    );
}

async fn host_info(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let timestamp = rfc3339(call.now);
    let gathered = tokio::task::spawn_blocking(move || gather(timestamp)).await;
    Answer::data(&gathered.map_err(|error| Failure::Internal(format!("host info: {error}")))?)
}

fn gather(timestamp: String) -> HostInfo {
    let stat = read("/proc/stat");
    let release_text = read("/etc/os-release");
    let release = release(&release_text);
    let named = |key: &str| release.get(key).cloned().unwrap_or_default();
    let system = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let processes = fs::read_dir("/proc").map_or(0, |entries| {
        entries
            .filter_map(Result::ok)
            .filter(|entry| {
                let name = entry.file_name();
                name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
            })
            .count() as u64
    });
    HostInfo {
        timestamp,
        cpu: cpus(&read("/proc/cpuinfo")),
        cpu_times: cpu_times(&stat),
        memory: memory(&read("/proc/meminfo")),
        disk: disk().into_iter().collect(),
        host: Host {
            hostname: hostname(),
            uptime: first_number(&read("/proc/uptime")),
            boot_time: stat
                .lines()
                .find_map(|line| line.strip_prefix("btime "))
                .map_or(0, first_number),
            procs: processes,
            os: std::env::consts::OS,
            platform: named("ID"),
            platform_family: release
                .get("ID_LIKE")
                .cloned()
                .unwrap_or_else(|| named("ID")),
            platform_version: named("VERSION_ID"),
            kernel_version: text(system.release()),
            kernel_arch: text(system.machine()),
        },
    }
}

/// The name of this machine.
pub(super) fn hostname() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The whole part of the number that `text` begins with.
fn first_number(text: &str) -> u64 {
    let digits = text.split(|letter: char| !letter.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn disk() -> Option<Disk> {
    let found = rustix::fs::statvfs("/").ok()?;
    let total = found.f_blocks.saturating_mul(found.f_frsize);
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    Some(Disk {
        path: "/",
        total,
        free,
        used: total.saturating_sub(found.f_bfree.saturating_mul(found.f_frsize)),
        inodes_total: found.f_files,
        inodes_free: found.f_ffree,
        inodes_used: found.f_files.saturating_sub(found.f_ffree),
    })
}

/// `/proc/cpuinfo`: a paragraph for each processor.
fn cpus(text: &str) -> Vec<Cpu> {
    let mut cpus = Vec::new();
    for paragraph in text.split("\n\n") {
        let fields: BTreeMap<&str, &str> = paragraph
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        let Some(cpu) = fields.get("processor").and_then(|text| text.parse().ok()) else {
            continue;
        };
        let text = |name: &str| fields.get(name).copied().unwrap_or_default();
        let number = |name: &str| u32::try_from(first_number(text(name))).unwrap_or(0);
        cpus.push(Cpu {
            cpu,
            vendor_id: text("vendor_id").into(),
            family: text("cpu family").into(),
            model: text("model").into(),
            stepping: number("stepping"),
            physical_id: text("physical id").into(),
            core_id: text("core id").into(),
            cores: number("cpu cores"),
            model_name: text("model name").into(),
            mhz: text("cpu MHz").parse().unwrap_or(0.0),
            cache_size: first_number(text("cache size")),
            flags: text("flags")
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            microcode: text("microcode").into(),
        });
    }
    cpus
}

/// `/proc/stat`: a line for each processor.
fn cpu_times(text: &str) -> Vec<CpuTimes> {
    let processor = |line: &str| {
        let mut words = line.split_whitespace();
        let cpu = words.next()?;
        // The line `cpu` is the sum of the others.
        cpu.strip_prefix("cpu")?.parse::<u32>().ok()?;
        let mut seconds = words.map(|ticks| ticks.parse::<f64>().unwrap_or(0.0) / TICKS_PER_SECOND);
        let mut next = || seconds.next().unwrap_or(0.0);
        Some(CpuTimes {
            cpu: cpu.to_owned(),
            user: next(),
            nice: next(),
            system: next(),
            idle: next(),
            iowait: next(),
            irq: next(),
            softirq: next(),
            steal: next(),
            guest: next(),
            guest_nice: next(),
        })
    };
    text.lines().filter_map(processor).collect()
}

/// `/proc/meminfo`, in bytes.
fn memory(text: &str) -> BTreeMap<&'static str, u64> {
    const NAMES: [(&str, &str); 14] = [
        ("MemTotal", "total"),
        ("MemAvailable", "available"),
        ("MemFree", "free"),
        ("Buffers", "buffers"),
        ("Cached", "cached"),
        ("Active", "active"),
        ("Inactive", "inactive"),
        ("Dirty", "dirty"),
        ("Shmem", "shared"),
        ("Slab", "slab"),
        ("SwapTotal", "swaptotal"),
        ("SwapFree", "swapfree"),
        ("SwapCached", "swapcached"),
        ("Mapped", "mapped"),
    ];
    let mut memory: BTreeMap<&'static str, u64> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(name, value)| {
            let (_, ours) = NAMES.iter().find(|(theirs, _)| *theirs == name)?;
            Some((*ours, first_number(value.trim()).saturating_mul(1024)))
        })
        .collect();
    if let (Some(total), Some(available)) = (memory.get("total"), memory.get("available")) {
        memory.insert("used", total.saturating_sub(*available));
    }
    memory
}

/// `/etc/os-release`: names and values, which may be quoted.
fn release(text: &str) -> BTreeMap<&str, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name, value.trim_matches(['"', '\'']).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says_is_read() {
        let cpus = cpus(
            "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Xeon: a\n\
             stepping\t: 7\nmicrocode\t: 0x1\ncpu MHz\t\t: 2500.5\ncache size\t: 36608 KB\nphysical id\t: 0\n\
             core id\t\t: 3\ncpu cores\t: 2\nflags\t\t: fpu vme\n\nprocessor\t: 1\n\nHardware\t: none\n",
        );
        assert_eq!(cpus.len(), 2);
        let first = Cpu {
            cpu: 0,
            vendor_id: "GenuineIntel".into(),
            family: "6".into(),
            model: "85".into(),
            stepping: 7,
            physical_id: "0".into(),
            core_id: "3".into(),
            cores: 2,
            model_name: "Xeon: a".into(),
            mhz: 2500.5,
            cache_size: 36608,
            flags: vec!["fpu".into(), "vme".into()],
            microcode: "0x1".into(),
        };
        assert_eq!(cpus[0], first);
        assert_eq!(
            cpus[1],
            Cpu {
                cpu: 1,
                ..Cpu::default()
            }
        );

        let times =
            cpu_times("cpu  10 0 0\ncpu0 150 20 30 400 5 0 6 7 0 0\ncpu1 1\nintr 5 6\nbtime 9\n");
        assert_eq!(times.len(), 2);
        assert_eq!(
            (times[0].cpu.as_str(), times[0].user, times[0].steal),
            ("cpu0", 1.5, 0.07)
        );

        let memory =
            memory("MemTotal:  100 kB\nMemAvailable:   40 kB\nHugePages_Total:  3\nOdd line\n");
        assert_eq!(
            memory,
            BTreeMap::from([("total", 102_400), ("available", 40_960), ("used", 61_440)])
        );

        let release = release("ID=debian\nVERSION_ID=\"12\"\n# comment\n");
        assert_eq!(
            (release["ID"].as_str(), release["VERSION_ID"].as_str()),
            ("debian", "12")
        );
        assert_eq!((first_number("12.5 3"), first_number("x")), (12, 0));
    }

    #[test]
    fn nothing_to_read_is_nothing_said() {
        assert_eq!(cpus(""), []);
        assert_eq!(cpu_times(""), []);
        assert!(memory("").is_empty() && release("").is_empty());
    }
}
