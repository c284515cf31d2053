//! What is kept of a hello once it was read.

use std::cell::RefCell;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::RandomState;
use sni_router_core::hello::{Hello, Ja4};

/// What the record keeps of a hello: little, since it lives as long as the connection, and a client
/// can offer thousands of protocols.
#[derive(PartialEq, Eq, Hash)]
pub struct HelloFacts {
    /// Whether TLS 1.3 was offered.
    pub tls13: bool,
    /// Whether the name is the outer one of an encrypted hello.
    pub ech: bool,
    /// The client's fingerprint, if there is an access log.
    pub ja4: Option<Ja4>,
    /// `h2,http/1.1`, cut short.
    pub alpn: Box<str>,
    /// `1.3,1.2`, cut short.
    pub versions: Box<str>,
}

impl HelloFacts {
    /// Keeps what is needed; once for all hellos that say the same, as those of one kind of client do, if
    /// not too many others came in between.
    pub fn of(hello: &Hello) -> Arc<Self> {
        let facts = Self {
            alpn: listed(hello.alpn_names()),
            versions: listed(hello.versions.iter().map(|version| version_name(*version))),
            tls13: hello.versions.contains(&TLS_1_3),
            ech: hello.ech,
            ja4: hello.ja4,
        };
        KNOWN.with_borrow_mut(|known| {
            let hash = known.hasher.hash_one(&facts);
            let place = &mut known.facts[hash as usize % PLACES];
            match place {
                Some(same) if **same == facts => Arc::clone(same),
                _ => Arc::clone(place.insert(Arc::new(facts))),
            }
        })
    }
}

/// What hellos have said to this thread lately. Each has one place where it can be, so that a client that
/// says ever new things costs no memory.
#[derive(Default)]
struct Known {
    /// By chance, so that nobody can choose what meets in one place.
    hasher: RandomState,
    facts: [Option<Arc<HelloFacts>>; PLACES],
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// The first names of a list, with commas between; `…` where there were more.
fn listed(names: impl Iterator<Item = String>) -> Box<str> {
    let mut list = String::new();
    for name in names {
        if list.len() + name.len() > LISTED_BYTES {
            list.push('…');
            break;
        }
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&name);
    }
    list.into()
}

fn version_name(version: u16) -> String {
    match version {
        TLS_1_3 => "1.3".to_owned(),
        0x0303 => "1.2".to_owned(),
        0x0302 => "1.1".to_owned(),
        0x0301 => "1.0".to_owned(),
        0x0300 => "ssl3".to_owned(),
        other => format!("{other:#06x}"),
    }
}

const TLS_1_3: u16 = 0x0304;

/// Room for the protocols and versions of every common client.
const LISTED_BYTES: usize = 64;

/// Far more than there are kinds of clients at a time. No more than 32, as arrays have a default.
const PLACES: usize = 32;

#[cfg(test)]
mod tests {
    use sni_router_core::hello::{DEFAULT_MAX_SIZE, HelloReader, Progress};

    use super::*;

    fn hello(bytes: &[u8]) -> Hello {
        match HelloReader::new(DEFAULT_MAX_SIZE).advance(bytes) {
            Progress::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hellos_that_say_the_same_are_kept_once() {
        let curl = hello(include_bytes!("../../../fuzz/corpus/hello/curl.bin"));
        let first = HelloFacts::of(&curl);
        assert!(Arc::ptr_eq(&first, &HelloFacts::of(&curl)));
        let mut other = curl.clone();
        other.ech = !curl.ech;
        let other = HelloFacts::of(&other);
        assert_ne!(other.ech, first.ech);
        assert_eq!(other.alpn, first.alpn);
    }

    #[test]
    fn ever_new_hellos_are_forgotten() {
        let mut curl = hello(include_bytes!("../../../fuzz/corpus/hello/curl.bin"));
        let facts = (0..4096).map(|version| {
            curl.versions = vec![version];
            Arc::downgrade(&HelloFacts::of(&curl))
        });
        let all: Vec<_> = facts.collect();
        let kept = all.iter().filter(|it| it.strong_count() > 0).count();
        assert!((1..=PLACES).contains(&kept), "{kept}");
    }
}
