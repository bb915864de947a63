//! The agent on nodes of namespaces, one module a behaviour. Starts itself as a client, a server or an agent
//! in other namespaces and cgroups, so it has a `main` of its own.

mod changes;
mod claims;
mod killed;
mod lost;
mod node;
mod outside;
mod scale;
mod support;
mod traffic;
mod wishes;

use libtest_mimic::{Arguments, Trial};
use support::roles::{ROLE, play};

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return play(&role);
    }
    let modules = [
        ("changes", changes::trials()),
        ("claims", claims::trials()),
        ("killed", killed::trials()),
        ("lost", lost::trials()),
        ("node", node::trials()),
        ("outside", outside::trials()),
        ("scale", scale::trials()),
        ("traffic", traffic::trials()),
        ("wishes", wishes::trials()),
    ];
    let trials = modules.into_iter().flat_map(|(module, cases)| {
        cases.into_iter().map(move |(name, test)| {
            Trial::test(format!("{module}::{name}"), move || {
                test();
                Ok(())
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
