//! Every row of the case table on the host.

use crate::{
    cases,
    memory::{Bytes, Maps, run},
};

#[test]
fn every_row_of_the_table_holds_on_the_host() {
    let mut failures = Vec::new();
    for case in cases::all() {
        let maps = Maps::new(&case.state);
        for (index, passage) in case.passages.iter().enumerate() {
            let mut packet = Bytes { data: passage.input.clone(), uplink: case.state.facts.uplink_ifindex };
            let verdict = run(passage.hook, &mut packet, &maps);
            let at = format!("{}, passage {}", case.name, index + 1);
            if (verdict.action, verdict.reason) != (passage.action, passage.reason) {
                failures
                    .push(format!("{at}: {verdict:?} instead of {:?} {:?}", passage.action, passage.reason));
                break;
            }
            if let Some(expected) = &passage.output
                && *expected != packet.data
            {
                failures.push(format!(
                    "{at}: the packet\n  is     {}\n  not    {}",
                    hex(&packet.data),
                    hex(expected)
                ));
            }
        }
        let flows = maps.flow_lines();
        if let Some(expected) = &case.flows
            && *expected != flows
        {
            failures.push(format!("{}: flows\n  are {flows:#?}\n  not {expected:#?}", case.name));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
