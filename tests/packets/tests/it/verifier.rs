//! Every program of the ABI is in the object and passes this kernel's verifier.

use proxy_abi::{MAPS, PROGRAMS, prog};
use skerry_packet_cases::Object;

#[test]
fn every_map_has_the_layout_that_the_abi_says() {
    let object = Object::load().unwrap();
    for spec in MAPS {
        let (key_size, value_size) = object.layout(spec.name).unwrap();
        assert_eq!((key_size, value_size), (spec.key_size, spec.value_size), "{}", spec.name);
    }
}

#[test]
fn the_kernel_accepts_every_program() {
    let mut object = Object::load().unwrap();
    let mut refused = Vec::new();
    for name in PROGRAMS.iter().chain([&prog::UPLINK_XDP, &prog::LB_XDP]) {
        let start = std::time::Instant::now();
        let info = if name.starts_with("sock_") {
            object.sock_addr(name).map(|program| program.info())
        } else if name.ends_with("_xdp") {
            object.xdp(name).map(|program| program.info())
        } else {
            object.classifier(name).map(|program| program.info())
        };
        let info = match info {
            Ok(info) => info.unwrap(),
            Err(error) => {
                refused.push(format!("{error}: {:?}", std::error::Error::source(&error)));
                continue;
            }
        };
        println!(
            "{name}: {} ms, {} bytes translated, {} instructions walked by the verifier",
            start.elapsed().as_millis(),
            info.size_translated().unwrap_or(0),
            info.verified_instruction_count().unwrap_or(0)
        );
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
