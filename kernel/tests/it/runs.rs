//! Programs run over made-up packets.

use skerry_kernel::{Link, Program, XdpMode, ifindex, instruction, program_type, skb_context, xdp_context};
use skerry_lab::Netns;

const PACKET: [u8; 64] = [0x5a; 64];

#[test]
fn a_run_gives_answer_time_and_packet() {
    let shot = [instruction(0xb7, 0, 0, 0, 2), instruction(0x95, 0, 0, 0, 0)];
    let program = Program::load("shot", program_type::SCHED_CLS, 0, &shot).unwrap();
    let ran = program.test_run(&PACKET, &skb_context(1), 100, 64).unwrap();
    assert_eq!((ran.answer, ran.output.as_slice()), (2, &PACKET[..]));
    let ran = program.test_run(&PACKET, &[], 1, 0).unwrap();
    assert!(ran.output.is_empty());
    let xdp = Program::load("drop", program_type::XDP, 0, &shot).unwrap();
    assert_eq!(xdp.test_run(&PACKET, &xdp_context(1, PACKET.len()), 1, 0).unwrap().answer, 2);
}

#[test]
fn frames_go_where_the_program_says() {
    let (a, b) = (Netns::unique("frames-a").unwrap(), Netns::unique("frames-b").unwrap());
    // Its own solicitations would be counted, too.
    a.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1").unwrap();
    a.ip(&format!("link add v0 type veth peer name v1 netns {}", b.name())).unwrap();
    a.ip("link set v0 up").unwrap();
    b.ip("link set v1 up").unwrap();
    let answer = |name, answer| {
        let code = [instruction(0xb7, 0, 0, 0, answer), instruction(0x95, 0, 0, 0, 0)];
        Program::load(name, program_type::XDP, 0, &code).unwrap()
    };
    let (drops, sends) = (answer("drop", 1), answer("tx", 3));
    let attach = || Link::attach_xdp(drops.fd(), ifindex("v1").unwrap(), XdpMode::Native).unwrap();
    let _link = b.run(attach).unwrap();
    a.run(|| sends.live_frames(&PACKET, ifindex("v0").unwrap(), 1_000, 64).unwrap()).unwrap();
    let seen = b.sh("ethtool -S v1").unwrap();
    let dropped = seen.lines().find_map(|line| line.trim().strip_prefix("rx_queue_0_xdp_drops: ")).unwrap();
    assert_eq!(dropped.parse::<u32>().unwrap(), 1_000);
}
