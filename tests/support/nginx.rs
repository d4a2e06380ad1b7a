//! nginx, as a web server or, with its stream module, as a way to another server.

use std::net::SocketAddr;
use std::path::Path;

use rustix::process::Signal;
use tempfile::TempDir;

use super::deadline::wait_until;
use super::programs::{
    Program, directory_of, own_address, server, wait_listening, wait_refusing, write_into,
};

/// The user that Debian's package has it run as.
const USER: &str = "www-data";

/// One nginx, which can be killed and started again at the same address.
pub struct Nginx {
    address: SocketAddr,
    dir: TempDir,
    program: Program,
}

impl Nginx {
    /// A web server with these files, which says `name` at `/name`. `server` are further
    /// lines of its `server` block, `ssl` those of its `listen`.
    #[track_caller]
    pub fn web(name: &str, ssl: &str, server: &str, files: &[(&str, &[u8])]) -> Self {
        let text = format!(
            "worker_processes 2;\npid $DIR/nginx.pid;\nerror_log stderr notice;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n\
             access_log off;\nsendfile on;\ndefault_type text/plain;\n\
             keepalive_requests 1000000;\n\
             client_body_temp_path $DIR/body;\nproxy_temp_path $DIR/proxy;\n\
             fastcgi_temp_path $DIR/fastcgi;\nuwsgi_temp_path $DIR/uwsgi;\n\
             scgi_temp_path $DIR/scgi;\n\
             server {{\nlisten $ADDRESS backlog=4096 {ssl};\nroot $DIR;\n{server}\n\
             location = /name {{ return 200 \"{name}\\n\"; }}\n\
             location = /health {{ return 204; }}\n}}\n}}\n"
        );
        Self::start(&text, files)
    }

    /// A way to `target` for any TCP: one process, so that a kill leaves nothing behind.
    #[track_caller]
    pub fn way_to(target: SocketAddr) -> Self {
        let text = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
             master_process off;\npid $DIR/nginx.pid;\nerror_log stderr notice;\n\
             events {{ worker_connections 1024; }}\n\
             stream {{ server {{ listen $ADDRESS backlog=4096; tcp_nodelay on; \
             proxy_pass {target}; }} }}\n"
        );
        Self::start(&text, &[])
    }

    #[track_caller]
    fn start(text: &str, files: &[(&str, &[u8])]) -> Self {
        let address = own_address();
        let dir = directory_of(USER);
        for (name, content) in files {
            write_into(&dir, name, USER, content);
        }
        let path = dir.path().to_str().expect("a plain path");
        let text = text.replace("$DIR", path);
        let text = text.replace("$ADDRESS", &address.to_string());
        write_into(&dir, "nginx.conf", USER, text);
        let program = launch(dir.path());
        wait_listening(address);
        Self {
            address,
            dir,
            program,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its table for the `backends` of a pool.
    pub fn entry(&self, name: &str, keys: &str) -> String {
        let comma = if keys.is_empty() { "" } else { ", " };
        let address = self.address;
        format!("{{ name = \"{name}\", address = \"{address}\"{comma}{keys} }}")
    }

    /// Kills it: nobody listens at its address afterwards.
    #[track_caller]
    pub fn kill(&mut self) {
        self.program.kill();
        wait_refusing(self.address);
    }

    /// Starts it again, after a kill.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(!self.program.process().is_alive(), "it runs still");
        self.program = launch(self.dir.path());
        wait_listening(self.address);
    }

    /// Has it read its configuration again, and waits until new workers have replaced the old.
    #[track_caller]
    pub fn reload(&mut self) {
        let log = self.program.stderr();
        let started = || log.text().matches("start worker process ").count();
        let ended = || log.text().matches("gracefully shutting down").count();
        let (before, gone) = (started(), ended());
        self.program.signal(Signal::HUP);
        wait_until("nginx has replaced its workers", || {
            started() >= before + 2 && ended() >= gone + 2
        });
    }
}

fn launch(dir: &Path) -> Program {
    let mut command = server(USER, "TERM", "nginx");
    let conf = dir.join("nginx.conf");
    command.arg("-p").arg(dir).arg("-c").arg(conf);
    command.args(["-e", "stderr", "-g", "daemon off;"]);
    Program::start_ended_by(Signal::TERM, &mut command)
}
