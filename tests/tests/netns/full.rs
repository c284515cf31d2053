//! A flow table without room.

use aya::maps::{HashMap, Map, MapData};
use sni_router_common::flow::{Flow, FlowKey, ports};
use sni_router_common::names;
use sni_router_tests::rig::{Pair, alone};
use sni_router_tests::wait::{SOON, until};

use crate::restart::{Pinned, flow_table};

/// What has ended makes room for what begins; where nothing has, another datapath carries it.
#[test]
fn full_table_gives_up_what_has_ended() {
    let _alone = alone();
    let pinned = Pinned::start();
    let carried = |pair: Pair| {
        let address = pair.address;
        pair.exchange();
        drop(pair);
        let access = pinned.rig.router.log().access_of(address, SOON);
        assert_eq!(access.reason, "done", "{access:?}");
        (access.datapath, access.declined)
    };
    let by_tc = ("tc".to_owned(), String::new());
    assert_eq!(carried(pinned.open_left()), by_tc);
    fill(&pinned);

    assert_eq!(carried(pinned.open_left()), by_tc);
    let living = pinned.open_left();
    let declined = carried(pinned.rig.open());
    assert_eq!(declined, ("userspace".to_owned(), "table_full".to_owned()));
    assert_eq!(carried(living), by_tc);
    until("there is room again", SOON, || {
        carried(pinned.rig.open()) == by_tc
    });
}

/// Fills the table with flows of nobody.
fn fill(pinned: &Pinned) {
    let (_, flow) = flow_table(&pinned.bpffs).pop_first().expect("a flow");
    let pins = pinned.bpffs.pinned();
    let path = pins.iter().find(|path| path.ends_with(names::MAP_FLOWS));
    let data = MapData::from_pin(path.expect("a table")).expect("open the table");
    let mut table = HashMap::try_from(Map::HashMap(data)).expect("a hash");
    // Of this number, the router knows none.
    let nobodys = Flow {
        id: flow.id.wrapping_add(u32::MAX / 2),
        ..flow
    };
    let key = |number: u32| FlowKey {
        src: [0, 0, 0, number],
        dst: [0, 0, 0, 1],
        ports: ports(1, 2),
    };
    let has_room = |number: &u32| table.insert(key(*number), nobodys, 0).is_ok();
    let room = (0..=names::MAX_FLOWS).take_while(has_room).count();
    assert_eq!(room, names::MAX_FLOWS as usize - 2);
}
