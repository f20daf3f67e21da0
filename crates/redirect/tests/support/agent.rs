//! Programs that try to get out.

use std::process::{Child, Command, Stdio};

use super::{Pod, output};

pub const PYTHON: &str = "/usr/bin/python3";

/// What every script may use; each function prints one word about what happened.
pub const PRELUDE: &str = r#"
import errno, os, socket, struct, sys
def family(host):
    return socket.AF_INET6 if ':' in host else socket.AF_INET
def attempt(action):
    try:
        print(action())
    except OSError as e:
        print(errno.errorcode.get(e.errno, type(e).__name__))
def tcp(host, port):
    def go():
        with socket.socket(family(host), socket.SOCK_STREAM) as s:
            s.settimeout(5)
            s.connect((host, port))
            return s.recv(300).decode()
    attempt(go)
def udp(host, port, source=0, want_reply=False):
    def go():
        with socket.socket(family(host), socket.SOCK_DGRAM) as s:
            s.settimeout(5)
            s.bind(('', source))
            s.connect((host, port))
            s.send(b'secret')
            return s.recv(300).decode() if want_reply else 'sent'
    attempt(go)
def ping(host):
    def go():
        six = ':' in host
        protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
        with socket.socket(family(host), socket.SOCK_DGRAM, protocol) as s:
            s.sendto(bytes([128 if six else 8, 0, 0, 0, 0, 1, 0, 1]) + b'secret', (host, 0))
            return 'sent'
    attempt(go)
def raw(host, protocol, payload):
    def go():
        with socket.socket(family(host), socket.SOCK_RAW, protocol) as s:
            s.sendto(payload, (host, 0))
            return 'sent'
    attempt(go)
def segment(source, port, flags):
    return struct.pack('!HHIIBBHHH', source, port, 1, 0, 0x50, flags, 1024, 0, 0) + b'secret'
"#;

/// How a container's process is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// As admission demands: no capability, no new privileges.
    Admitted,
    /// Worse than that: it may open raw sockets.
    WithNetRaw,
    /// Worse than that: setuid files take effect.
    NewPrivileges,
    /// Root with every capability but those which admission drops.
    Root,
}

impl Confinement {
    fn arguments(self) -> Vec<&'static str> {
        match self {
            Self::Admitted => vec![
                "--reuid=1000",
                "--regid=1000",
                "--clear-groups",
                "--no-new-privs",
                "--inh-caps=-all",
                "--bounding-set=-all",
            ],
            Self::WithNetRaw => vec![
                "--reuid=1000",
                "--regid=1000",
                "--clear-groups",
                "--no-new-privs",
                "--inh-caps=-all,+net_raw",
                "--ambient-caps=-all,+net_raw",
                "--bounding-set=-all,+net_raw",
            ],
            Self::NewPrivileges => vec!["--reuid=1000", "--regid=1000", "--clear-groups"],
            Self::Root => vec![
                "--no-new-privs",
                "--inh-caps=-setuid,-setgid,-net_admin,-net_raw,-sys_ptrace",
                "--bounding-set=-setuid,-setgid,-net_admin,-net_raw,-sys_ptrace",
            ],
        }
    }
}

impl Pod {
    /// What an admitted agent prints when it runs `script`.
    pub fn agent(&self, script: &str) -> String {
        self.agent_as(Confinement::Admitted, PYTHON, script)
    }

    /// What an agent prints when it runs `script` in the interpreter `program`.
    pub fn agent_as(&self, confinement: Confinement, program: &str, script: &str) -> String {
        let output = self
            .pod
            .enter(|| output(&mut command(confinement, program, script)));
        assert!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// An admitted agent that runs while the test goes on, with its standard input and output.
    pub fn start_agent(&self, script: &str) -> Child {
        let mut command = command(Confinement::Admitted, PYTHON, script);
        self.pod.enter(|| {
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
    }
}

fn command(confinement: Confinement, program: &str, script: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(confinement.arguments())
        .args([program, "-I", "-S", "-c"])
        .arg(format!("{PRELUDE}{script}"));
    command
}
