//! What connections occupy inside a system.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::machine;
use super::measure::Bench;
use super::system;

/// What a system occupies.
#[derive(Debug, Default)]
pub struct Occupied {
    /// Memory of its processes, in bytes.
    rss: u64,
    /// Kernel memory for sockets, of all namespaces.
    sockets: u64,
    /// How many sockets are its own.
    own_sockets: u64,
    /// Memory of its BPF maps.
    maps: u64,
    descriptors: u64,
}

impl Occupied {
    /// By a system, now.
    pub fn by(bench: &Bench<'_>) -> Result<Self> {
        let mut occupied = Self {
            sockets: machine::socket_memory()?,
            ..Self::default()
        };
        // Without a router there is no process.
        if !bench.has_process() {
            return Ok(occupied);
        }
        let mut maps = BTreeMap::new();
        let mut mapped = 0;
        for pid in system::processes(&bench.place.lab)? {
            let process = Path::new("/proc").join(pid.to_string());
            occupied.rss += rss(&fs::read_to_string(process.join("status"))?);
            let sockstat = fs::read_to_string(process.join("net/sockstat"))?;
            occupied.own_sockets = number_after(&sockstat, "TCP: inuse");
            mapped += mapped_arrays(&fs::read_to_string(process.join("maps"))?);
            for info in fs::read_dir(process.join("fdinfo"))?.flatten() {
                occupied.descriptors += 1;
                // A descriptor may be closed meanwhile.
                let info = fs::read_to_string(info.path()).unwrap_or_default();
                maps.extend(map(&info));
            }
        }
        occupied.maps = all_maps(maps.into_values(), mapped);
        Ok(occupied)
    }

    /// The same once its processes have given back what they needed to start: 150 MB for a second, where
    /// the kernel's own types are read. Memory that changes for ever is taken as it is in the end.
    pub fn at_rest(bench: &Bench<'_>) -> Result<Self> {
        let mut before = Self::by(bench)?;
        for _ in 0..MOST_LOOKS {
            thread::sleep(BETWEEN_LOOKS);
            let now = Self::by(bench)?;
            if now.rss == before.rss {
                return Ok(now);
            }
            before = now;
        }
        Ok(before)
    }

    /// Differences by connection. Client and endpoint have a socket each, which count as much as
    /// each of the system's.
    pub fn per_connection(&self, before: &Self, count: f64) -> BTreeMap<String, f64> {
        let each = |before: u64, during: u64| (during as f64 - before as f64) / count;
        let rss = each(before.rss, self.rss);
        let maps = each(before.maps, self.maps);
        let own = each(before.own_sockets, self.own_sockets);
        let sockets = each(before.sockets, self.sockets) * own / (own + 2.0);
        let results = [
            ("bytes_per_conn", rss + sockets + maps),
            ("rss_bytes_per_conn", rss),
            ("socket_bytes_per_conn", sockets),
            ("bpf_bytes_per_conn", maps),
            ("rss_bytes", self.rss as f64),
            ("bpf_bytes", self.maps as f64),
            ("fds_per_conn", each(before.descriptors, self.descriptors)),
        ];
        results.map(|(key, value)| (key.to_owned(), value)).into()
    }
}

/// A system that is at rest does not change for so long.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);
const MOST_LOOKS: u32 = 10;

/// `VmRSS: 1234 kB` in /proc/PID/status.
fn rss(status: &str) -> u64 {
    number_after(status, "VmRSS:") * 1024
}

/// A BPF map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Map {
    bytes: u64,
    /// Whether it can be mapped into a process, which may then close the descriptor.
    can_be_mapped: bool,
}

/// The number of a BPF map and what it is, if this fdinfo is of one: `map_id: 5`, `memlock: 4096`
/// (kernel: bpf_map_show_fdinfo in kernel/bpf/syscall.c).
fn map(info: &str) -> Option<(u64, Map)> {
    let is_map = info.lines().any(|line| line.starts_with("map_id:"));
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("map_flags:"));
    let flags =
        flags.and_then(|flags| u64::from_str_radix(flags.trim().trim_start_matches("0x"), 16).ok());
    let map = Map {
        bytes: number_after(info, "memlock:"),
        can_be_mapped: flags.unwrap_or(0) & BPF_F_MMAPABLE != 0,
    };
    is_map.then(|| (number_after(info, "map_id:"), map))
}

/// The bytes of all maps. An array that is mapped may be without a descriptor, or not.
fn all_maps(maps: impl Iterator<Item = Map>, mapped: u64) -> u64 {
    let (mut others, mut arrays) = (0, 0);
    for map in maps {
        *match map.can_be_mapped {
            true => &mut arrays,
            false => &mut others,
        } += map.bytes;
    }
    others + arrays.max(mapped)
}

/// The bytes of BPF arrays in the memory of a process, by /proc/PID/maps:
/// `7f0000000000-7f0000800000 rw-s 00000000 00:0f 1057 anon_inode:bpf-map`.
///
/// Of ring buffers, which have a descriptor, the first page is mapped alone, and the rest from
/// there on.
fn mapped_arrays(maps: &str) -> u64 {
    let bytes = |line: &str| {
        let mut fields = line.split_whitespace();
        let (begin, end) = fields.next()?.split_once('-')?;
        let is_array = line.ends_with("anon_inode:bpf-map") && fields.nth(1)? == "00000000";
        let address = |text| u64::from_str_radix(text, 16).ok();
        let len = address(end)?.checked_sub(address(begin)?)?;
        (is_array && len > rustix::param::page_size() as u64).then_some(len)
    };
    maps.lines().filter_map(bytes).sum()
}

/// The number behind a word at the start of a line.
pub fn number_after(text: &str, key: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(key));
    let number = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

// include/uapi/linux/bpf.h
const BPF_F_MMAPABLE: u64 = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_sockets_is_shared_by_those_that_have_them() {
        let before = Occupied::default();
        let during = Occupied {
            rss: 5_000,
            sockets: 400_000,
            own_sockets: 20,
            maps: 10_000,
            descriptors: 20,
        };
        let results = during.per_connection(&before, 10.0);
        // Two of four sockets are the system's.
        assert_eq!(results["socket_bytes_per_conn"], 20_000.0);
        assert_eq!(results["bytes_per_conn"], 500.0 + 20_000.0 + 1_000.0);
        assert_eq!(results["fds_per_conn"], 2.0);
    }

    #[test]
    fn maps_are_told_from_other_descriptors() {
        let info = "pos:\t0\nmap_type:\t1\nmap_flags:\t0x1\nmemlock:\t4096\nmap_id:\t5\n";
        let hash = Map {
            bytes: 4096,
            can_be_mapped: false,
        };
        assert_eq!(map(info), Some((5, hash)));
        let array = map(&info.replace("0x1", "0x400")).map(|(_, map)| map.can_be_mapped);
        assert_eq!(array, Some(true));
        assert_eq!(
            map("pos:\t0\nprog_type:\t1\nmemlock:\t4096\nprog_id:\t5\n"),
            None
        );
        assert_eq!(rss("Name:\tx\nVmRSS:\t  12 kB\n"), 12_288);
    }

    #[test]
    fn arrays_count_once_when_they_are_mapped_with_or_without_a_descriptor() {
        let maps = "7f0000000000-7f0000800000 rw-s 00000000 00:0f 1057 anon_inode:bpf-map\n\
                    7f0001000000-7f0001001000 rw-s 00000000 00:0f 1057 anon_inode:bpf-map\n\
                    7f0002000000-7f0002081000 r--s 00001000 00:0f 1057 anon_inode:bpf-map\n\
                    7f0003000000-7f0004000000 rw-p 00000000 00:00 0\n";
        let array = 8 * 1024 * 1024;
        assert_eq!(mapped_arrays(maps), array);
        let of = |bytes, can_be_mapped| Map {
            bytes,
            can_be_mapped,
        };
        assert_eq!(all_maps([of(100, false)].into_iter(), array), array + 100);
        let both = [of(100, false), of(array + 64, true)];
        assert_eq!(all_maps(both.into_iter(), array), array + 164);
    }
}
