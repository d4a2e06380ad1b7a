//! A real DNS server that changes its answers while clients come and go.

mod support;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rustix::process::Signal;
use support::programs::{Program, directory_of, own_address, server, write_into};
use support::{Isobar, Launch, at_one_port, wait_until, web};
use tempfile::TempDir;

const USER: &str = "daemon";
const NAME: &str = "app.internal";
const CLIENTS: usize = 4;

/// dnsmasq, which answers from a file of hosts and reads it again on SIGHUP.
struct Dnsmasq {
    address: SocketAddr,
    dir: TempDir,
    program: Program,
}

impl Dnsmasq {
    #[track_caller]
    fn start(addresses: &[u8]) -> Self {
        let (address, dir) = (own_address(), directory_of(USER));
        write_into(&dir, "hosts", USER, hosts(addresses));
        let mut command = server(USER, "TERM", "dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
        ]);
        command.args([
            "--no-hosts",
            "--local=/internal/",
            "--local-ttl=1",
            "--pid-file=",
        ]);
        command.arg("--bind-interfaces");
        command.arg(format!("--listen-address={}", address.ip()));
        command.arg(format!("--port={}", address.port()));
        command.arg(format!(
            "--addn-hosts={}",
            dir.path().join("hosts").display()
        ));
        let program = Program::start_ended_by(Signal::TERM, &mut command);
        support::programs::wait_listening(address);
        Self {
            address,
            dir,
            program,
        }
    }

    /// Answers with these from now on.
    fn change(&self, addresses: &[u8]) {
        write_into(&self.dir, "hosts", USER, hosts(addresses));
        self.program.signal(Signal::HUP);
    }
}

fn hosts(addresses: &[u8]) -> String {
    let lines = addresses.iter().map(|n| format!("127.0.0.{n} {NAME}\n"));
    lines.collect()
}

/// The backends that are in pool `web`, by the last number of their address.
fn present(isobar: &Isobar) -> BTreeSet<String> {
    let stats = isobar.stats();
    let all = stats["pools"]["web"]["backends"].as_object();
    let present = all.expect("a table").values();
    let present = present.filter(|backend| backend["state"] == "up");
    present
        .filter_map(|backend| {
            let address = backend["address"].as_str()?;
            let (ip, _) = address.split_once(':')?;
            ip.rsplit('.').next().map(str::to_owned)
        })
        .collect()
}

#[test]
#[ignore = "needs dnsmasq"]
fn answers_of_a_real_server_change_under_load_and_no_connection_fails() {
    let (_all, port) = at_one_port(4);
    let dnsmasq = Dnsmasq::start(&[2, 3]);
    let settings = "[pool.web.health]\ninterval = \"200ms\"\nfast_interval = \"50ms\"\n";
    let entry = format!("{{ name = \"app\", address = \"{NAME}:{port}\" }}");
    let launch = Launch::new(&web(settings, &[entry]));
    let resolv_conf = launch.dir().join("resolv.conf");
    std::fs::write(&resolv_conf, format!("nameserver {}\n", dnsmasq.address)).expect("a file");
    let path = resolv_conf.to_str().expect("a plain path").to_owned();
    let mut isobar = launch.env("ISOBAR_RESOLV_CONF", &path).start();
    isobar.skip_byte_check();
    isobar.expect_removal();
    wait_until("the name was resolved", || present(&isobar).len() == 2);
    let (done, visits) = (AtomicBool::new(false), Mutex::new(HashMap::new()));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        let name = isobar.visit("web");
                        *visits.lock().expect("visits").entry(name).or_insert(0) += 1;
                    }
                })
            })
            .collect();
        for addresses in [&[3, 4][..], &[5], &[5, 2], &[2, 3, 4, 5], &[4, 2], &[3]] {
            dnsmasq.change(addresses);
            let expected: BTreeSet<_> = addresses.iter().map(u8::to_string).collect();
            wait_until(&format!("{expected:?} were in the pool"), || {
                present(&isobar) == expected || clients.iter().any(|c| c.is_finished())
            });
        }
        done.store(true, SeqCst);
    });
    let visits = visits.into_inner().expect("visits");
    assert_eq!(visits.len(), 4, "{visits:?}");
    let total: u64 = visits.values().sum();
    assert_eq!(isobar.ended("web", "client_closed"), total);
    assert_eq!(isobar.count("/listeners/web/connections/total"), total);
}
