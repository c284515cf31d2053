//! Sockets of other programs on the addresses of listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::facts::Facts;
use super::finding::{Finding, Level, Outcome, list};
use super::host::{AS_ROOT, Host};
use crate::tcp_table::{LISTEN, TcpSocket};

/// `vip-ports`: that nobody else listens where the router will.
pub(super) fn vip_ports(facts: &Facts) -> Outcome {
    let Some(site) = facts.site() else {
        return Ok(Vec::new());
    };
    let mut taken: Vec<(SocketAddr, TcpSocket)> = Vec::new();
    let sockets = listening(&facts.host)?;
    for addr in &site.plan.bind {
        let here = sockets.iter().filter(|socket| meets(socket.local, *addr));
        taken.extend(here.map(|socket| (*addr, *socket)));
    }
    // Only where there is something to ask for: it takes looking at every process.
    let owners = match taken.is_empty() {
        true => BTreeMap::new(),
        false => owners(&facts.host),
    };
    taken.retain(|(_, socket)| {
        let owner = owners.get(&socket.inode);
        !owner.is_some_and(|pid| facts.host.is_router(*pid))
    });
    let mut found: BTreeMap<(Level, String, String), BTreeSet<SocketAddr>> = BTreeMap::new();
    for (addr, socket) in &taken {
        let who = who(facts, owners.get(&socket.inode).copied());
        let is_same = socket.local == *addr;
        let by = if is_same {
            String::new()
        } else {
            format!(", by {}", socket.local)
        };
        let level = facts.of_taken(is_same || addr.ip().is_unspecified());
        found.entry((level, who, by)).or_default().insert(*addr);
    }
    if found.is_empty() {
        let what = format!("free: {}", list(&site.plan.bind));
        return Ok(vec![Finding::ok(what)]);
    }
    let findings = found.into_iter().map(|((level, who, by), addrs)| {
        let what = format!("{who} listens on {} too{by}", list(addrs));
        finding(level, what)
    });
    Ok(findings.collect())
}

fn finding(level: Level, what: String) -> Finding {
    let found = Finding::at(level, what);
    match level {
        Level::Unknown => found
            .costs("one of the two gets no connection there")
            .mend(AS_ROOT),
        Level::Error => found
            .costs("the router cannot listen there: its clients meet the other program")
            .mend("stop it, or let it listen on other addresses"),
        Level::Note => found.costs("it gets no connections to these any more, only to its others"),
        _ => found
            .costs("it gets no connections there any more: the router takes them all")
            .mend("stop it, or let it listen elsewhere"),
    }
}

impl Facts {
    /// How bad it is that an address is taken: the kernel program steers before sockets are looked
    /// for; a router without it has to bind them itself. `wholly`: nothing is left for the other
    /// program.
    fn of_taken(&self, wholly: bool) -> Level {
        match (self.is_steered(), wholly) {
            (None, _) => Level::Unknown,
            (Some(false), _) => Level::Error,
            (Some(true), true) => Level::Warning,
            (Some(true), false) => Level::Note,
        }
    }
}

/// Sockets that listen, of both families.
fn listening(host: &Host) -> Result<Vec<TcpSocket>, Finding> {
    let v4 = host.need("proc/self/net/tcp")?;
    // A host without IPv6.
    let v6 = host.read("proc/self/net/tcp6").unwrap_or_default();
    let sockets = v4.lines().chain(v6.lines()).filter_map(TcpSocket::parse);
    Ok(sockets.filter(|socket| socket.state == LISTEN).collect())
}

/// Whether a socket that listens there gets connections to this address.
fn meets(listening: SocketAddr, addr: SocketAddr) -> bool {
    let (one, other) = (listening.ip(), addr.ip());
    // One of IPv6 for all addresses takes IPv4 too, unless it was told otherwise, which cannot be seen.
    let covers = one.is_unspecified() && (one.is_ipv6() || other.is_ipv4());
    let is_covered = other.is_unspecified() && one.is_ipv4() == other.is_ipv4();
    listening.port() == addr.port() && (one == other || covers || is_covered)
}

/// Which process has a socket, by the socket's number. Only root sees those of others.
fn owners(host: &Host) -> BTreeMap<u64, u32> {
    let mut owners = BTreeMap::new();
    for pid in host
        .names("proc")
        .iter()
        .filter_map(|name| name.parse::<u32>().ok())
    {
        let dir = format!("proc/{pid}/fd");
        for name in host.names(&dir) {
            let socket = host.link(&format!("{dir}/{name}")).and_then(|target| {
                let number = target.strip_prefix("socket:[")?.strip_suffix(']')?;
                number.parse().ok()
            });
            if let Some(socket) = socket {
                owners.insert(socket, pid);
            }
        }
    }
    owners
}

fn who(facts: &Facts, pid: Option<u32>) -> String {
    let name = |pid| facts.host.read(&format!("proc/{pid}/comm"));
    match pid.map(|pid| (pid, name(pid))) {
        // A program chooses its name, and this goes to a terminal of root.
        Some((pid, Ok(name))) => format!("{} (process {pid})", name.escape_debug()),
        _ => "another program".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Sample;
    use super::*;
    use crate::datapath::bpf::LoadError;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn listens(sample: &Sample, local: &str, inode: u64) {
        let line = format!(
            "   0: {local} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"
        );
        sample.write("proc/self/net/tcp", &format!("{HEAD}{line}"));
    }

    #[test]
    fn program_on_the_vips_port_is_named_and_as_bad_as_the_datapath_makes_it() {
        let mut sample = Sample::new();
        assert_eq!(sample.worst(vip_ports).level, Level::Ok);
        // 192.0.2.1:443, as the sample's VIP.
        listens(&sample, "010200C0:01BB", 4711);
        sample.write("proc/12/comm", "nginx");
        sample.link("proc/12/fd/3", "socket:[4711]");
        let found = sample.worst(vip_ports);
        assert_eq!(found.level, Level::Warning);
        assert!(
            found
                .what
                .contains("nginx (process 12) listens on 192.0.2.1:443"),
            "{found:?}"
        );
        sample.write("proc/12/comm", "\x1b]0;x");
        let found = sample.worst(vip_ports);
        assert!(
            found.what.starts_with("\\u{1b}]0;x (process 12)"),
            "{found:?}"
        );
        sample.write("proc/12/comm", "nginx");
        listens(&sample, "00000000:01BB", 4711);
        let found = sample.worst(vip_ports);
        assert_eq!(found.level, Level::Note);
        assert!(found.what.ends_with("too, by 0.0.0.0:443"), "{found:?}");
        // --datapath userspace.
        sample.facts.programs = None;
        assert_eq!(sample.worst(vip_ports).level, Level::Error);
        sample.facts.programs = Some(Err(LoadError::Capability("CAP_BPF")));
        assert_eq!(sample.worst(vip_ports).level, Level::Unknown);
        sample.facts.programs = Some(Err(LoadError::NotBuilt));
        assert_eq!(sample.worst(vip_ports).level, Level::Error);
        // A router that runs, which the next one follows.
        sample.write("proc/self/comm", "nginx");
        sample.write("proc/12/cmdline", "nginx\0run\0");
        assert_eq!(sample.worst(vip_ports).level, Level::Ok);
        listens(&sample, "00000000:01BC", 4711);
        assert_eq!(sample.worst(vip_ports).level, Level::Ok);
    }

    #[test]
    fn sockets_meet_addresses_that_they_take_connections_to() {
        for (listening, addr, expected) in [
            ("192.0.2.1:443", "192.0.2.1:443", true),
            ("192.0.2.1:443", "192.0.2.2:443", false),
            ("192.0.2.1:444", "192.0.2.1:443", false),
            ("0.0.0.0:443", "192.0.2.1:443", true),
            ("0.0.0.0:443", "[2001:db8::1]:443", false),
            ("[::]:443", "192.0.2.1:443", true),
            ("[::]:443", "[2001:db8::1]:443", true),
            ("192.0.2.1:443", "0.0.0.0:443", true),
            ("[2001:db8::1]:443", "0.0.0.0:443", false),
            ("[2001:db8::1]:443", "[::]:443", true),
        ] {
            let found = meets(listening.parse().unwrap(), addr.parse().unwrap());
            assert_eq!(found, expected, "{listening} {addr}");
        }
    }
}
