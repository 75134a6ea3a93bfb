// SPDX-License-Identifier: MIT OR Apache-2.0

//! QEMU: its command line, its process, and its monitor.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{bail, Context, Result};
use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{json, Value};

use crate::init::P9_OPTIONS;
use crate::options::Size;
use crate::process::Process;
use crate::proto::{PORT_NAME, ROOT_TAG, SHARE_TAG};

/// How the guest's instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// By QEMU's translator, one host thread for each processor.
    Tcg,
}

/// Everything about the machine that its user can choose.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The QEMU program.
    pub qemu: OsString,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Directory that becomes the guest's root file system.
    pub root: PathBuf,
    /// Init, as a path inside of `root`.
    pub init: PathBuf,
    /// Directory that the guest may write to.
    pub share: Option<PathBuf>,
    /// How instructions are executed.
    pub accel: Accel,
    /// RAM.
    pub memory: Size,
    /// Number of processors.
    pub cpus: u32,
    /// Sockets of the attached virtual GPUs.
    pub gpus: Vec<PathBuf>,
    /// Kernel arguments besides those needed to boot.
    pub append: Vec<String>,
    /// Address that QEMU's gdb server listens at; the machine starts stopped.
    pub gdb: Option<String>,
    /// Plugin of QEMU's translator: its file, and its arguments behind commas.
    pub plugin: Option<String>,
}

/// Processor for TCG: everything, except what makes it slow. 5-level page
/// tables lengthen every walk; the `rep` string features turn `memset` and
/// `memcpy` of the kernel into instructions that are emulated byte by byte.
const TCG_CPU: &str = "max,la57=off,-erms,-fsrm,-fzrm,-fsrs,-fsrc";

/// What the kernel must not conclude from the speed of TCG. On a busy machine
/// its check of the timer finds none and panics, and what looks like a lockup
/// is a processor that waits for its turn. The comparison of the processors'
/// TSCs, which are the host's and equal, waits for another processor with a
/// time limit; while the clock is still `jiffies` and the one who waits is the
/// one who counts them, that limit is never reached. TCG makes the moment long
/// in which an interrupt leads to it: `smp_call_function_many()` has queued
/// its call and not yet sent the interrupt.
const TCG_PATIENCE: [&str; 4] = [
    "no_timer_check",
    "tsc=nowatchdog",
    "watchdog_thresh=30",
    "rcupdate.rcu_cpu_stall_timeout=60",
];

/// How QEMU is connected to this program.
struct Channels<'a> {
    /// File that the serial console is written to. Anything that can block
    /// makes QEMU drop characters.
    log: &'a Path,
    /// FIFO with the input of the serial console.
    keys: &'a Path,
    /// Descriptor of a socket for the frames.
    port: i32,
    /// Descriptor of a socket for the monitor.
    monitor: i32,
}

impl Machine {
    fn arguments(&self, channels: &Channels) -> Result<Vec<OsString>> {
        let mut args = Arguments::default();
        let (accel, cpu) = match self.accel {
            Accel::Kvm => ("kvm", "host"),
            Accel::Tcg => ("tcg,thread=multi", TCG_CPU),
        };
        args.flag("-nodefaults")
            .flag("-no-user-config")
            .flag("-no-reboot");
        args.option("-machine", "q35,memory-backend=ram");
        args.option("-accel", accel).option("-cpu", cpu);
        args.option("-smp", self.cpus.to_string());
        // The devices reach the guest's RAM through a shared file only.
        args.option("-m", self.memory.to_string()).option(
            "-object",
            format!("memory-backend-memfd,id=ram,size={},share=on", self.memory),
        );
        args.option("-display", "none");
        args.option(
            "-chardev",
            format!(
                "file,id=console,path={},input-path={}",
                value(channels.log)?,
                value(channels.keys)?
            ),
        );
        args.option("-serial", "chardev:console");
        args.option(
            "-chardev",
            format!("socket,id=monitor,fd={}", channels.monitor),
        );
        args.option("-qmp", "chardev:monitor");
        args.option("-chardev", format!("socket,id=port,fd={}", channels.port));
        args.option("-device", "virtio-serial-pci");
        args.option(
            "-device",
            format!("virtserialport,chardev=port,name={PORT_NAME}"),
        );
        args.export("root", ROOT_TAG, &self.root, true)?;
        if let Some(share) = &self.share {
            args.export("share", SHARE_TAG, share, false)?;
        }
        for (index, socket) in self.gpus.iter().enumerate() {
            let device = json!({
                "driver": "vfio-user-pci",
                "id": format!("gpu{index}"),
                "socket": { "type": "unix", "path": utf8(socket)? },
            });
            args.option("-device", device.to_string());
        }
        if let Some(address) = &self.gdb {
            args.option("-gdb", address).flag("-S");
        }
        if let Some(plugin) = &self.plugin {
            args.option("-plugin", plugin);
        }
        args.option("-kernel", &self.kernel);
        args.option("-append", self.command_line()?);
        Ok(args.0)
    }

    fn command_line(&self) -> Result<String> {
        let mut words = vec![
            "console=ttyS0".to_string(),
            // All but debug messages, for a complaint may have any level.
            "loglevel=7".to_string(),
            // With -no-reboot a panic ends QEMU.
            "panic=-1".to_string(),
            // How a guest that does not listen says where it is: from the
            // first moment on, and for all processors.
            "unknown_nmi_panic".to_string(),
            "panic_sys_info=all_bt".to_string(),
            format!("root={ROOT_TAG}"),
            "rootfstype=9p".to_string(),
            format!("rootflags={P9_OPTIONS},cache=loose"),
            "ro".to_string(),
            format!("init={}", utf8(&self.init)?),
        ];
        if self.accel != Accel::Kvm {
            words.extend(TCG_PATIENCE.map(String::from));
        }
        if self.gdb.is_some() {
            words.push("nokaslr".to_string());
        }
        words.extend(self.append.iter().cloned());
        Ok(words.join(" "))
    }
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.into());
        self
    }

    fn option(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.0.push(name.into());
        self.0.push(value.as_ref().into());
        self
    }

    /// Exports a directory over 9p.
    fn export(&mut self, id: &str, tag: &str, path: &Path, readonly: bool) -> Result<()> {
        let path = value(path)?;
        let readonly = if readonly { ",readonly=on" } else { "" };
        self.option(
            "-fsdev",
            format!("local,id={id},path={path},security_model=none,multidevs=remap{readonly}"),
        );
        self.option(
            "-device",
            format!("virtio-9p-pci,fsdev={id},mount_tag={tag}"),
        );
        Ok(())
    }
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("the path {} is not UTF-8", path.display()))
}

/// `path` as a value in one of QEMU's options, which a comma ends; two commas
/// stand for one.
fn value(path: &Path) -> Result<String> {
    Ok(utf8(path)?.replace(',', ",,"))
}

/// A running QEMU and the host's ends of its channels.
#[derive(Debug)]
pub struct Qemu {
    /// The process.
    pub process: Process,
    /// The port of the frames, see [`crate::proto`]; ends when QEMU does.
    pub port: UnixStream,
    monitor: UnixStream,
    keys: File,
}

impl Qemu {
    /// Starts QEMU. The guest's console goes to the file `log`; QEMU's own
    /// messages go to the file `qemu` in `directory`.
    ///
    /// # Errors
    ///
    /// Fails when QEMU cannot be started. What is wrong with its arguments it
    /// says in its messages and ends.
    pub fn start(machine: &Machine, log: &Path, directory: &Path) -> Result<Self> {
        let (port, their_port) = UnixStream::pair()?;
        let (monitor, their_monitor) = UnixStream::pair()?;
        for socket in [&their_port, &their_monitor] {
            // Kept by the next exec, which is QEMU's, and then closed here.
            fcntl(socket.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let fifo = directory.join("keys");
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).context("cannot make a FIFO")?;
        // For reading as well, so that neither side waits for the other.
        let keys = OpenOptions::new().read(true).write(true).open(&fifo)?;
        let channels = Channels {
            log,
            keys: &fifo,
            port: their_port.as_raw_fd(),
            monitor: their_monitor.as_raw_fd(),
        };
        let messages = File::create(directory.join("qemu"))?;
        let process = Process::spawn(
            Command::new(&machine.qemu)
                .args(machine.arguments(&channels)?)
                .stdin(Stdio::null())
                .stdout(messages.try_clone()?)
                .stderr(messages),
        )?;
        Ok(Self {
            process,
            port,
            monitor,
            keys,
        })
    }

    /// Types a SysRq key: behind a serial break. Needs
    /// `CONFIG_MAGIC_SYSRQ_SERIAL` in the guest. The next key has to wait until
    /// this one was obeyed, for breaks overtake keys.
    ///
    /// # Errors
    ///
    /// Fails when QEMU does not answer.
    pub fn sysrq(&mut self, key: u8) -> Result<()> {
        Monitor::connect(&self.monitor)?
            .execute("chardev-send-break", &json!({ "id": "console" }))?;
        Ok(self.keys.write_all(&[key])?)
    }

    /// Interrupts a guest that does not even listen to its console. It panics
    /// then, and that prints the stacks of its processors.
    ///
    /// # Errors
    ///
    /// Fails when QEMU does not answer.
    pub fn inject_nmi(&mut self) -> Result<()> {
        Monitor::connect(&self.monitor)?.execute("inject-nmi", &json!({}))
    }
}

/// QEMU's monitor (QMP): one JSON value a line, in both directions.
struct Monitor {
    replies: BufReader<UnixStream>,
    requests: UnixStream,
}

impl Monitor {
    fn connect(stream: &UnixStream) -> Result<Self> {
        let requests = stream.try_clone()?;
        requests.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut monitor = Self {
            replies: BufReader::new(requests.try_clone()?),
            requests,
        };
        // Ends the negotiation. Done again it is an error that changes
        // nothing, so both are fine.
        let _ = monitor.execute("qmp_capabilities", &json!({}));
        Ok(monitor)
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.requests, "{request}").context("QEMU's monitor is gone")?;
        loop {
            let mut line = String::new();
            let length = self.replies.read_line(&mut line);
            if length.context("QEMU's monitor does not answer")? == 0 {
                bail!("QEMU's monitor is gone");
            }
            let reply: Value = serde_json::from_str(&line).context("QEMU's monitor is damaged")?;
            if let Some(error) = reply.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            if reply.get("return").is_some() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            qemu: "qemu-system-x86_64".into(),
            kernel: "/k/bzImage".into(),
            root: "/".into(),
            init: "/cache/tern-init".into(),
            share: Some("/a,b".into()),
            accel: Accel::Tcg,
            memory: Size::mib(3072),
            cpus: 2,
            gpus: vec!["/run/gpu0.sock".into()],
            append: vec!["a=1".into(), "b".into()],
            gdb: None,
            plugin: None,
        }
    }

    fn arguments(machine: &Machine) -> String {
        let channels = Channels {
            log: Path::new("/b/guest.log"),
            keys: Path::new("/t/keys"),
            port: 11,
            monitor: 12,
        };
        let args = machine.arguments(&channels).unwrap();
        let args: Vec<_> = args.iter().map(|a| a.to_str().unwrap()).collect();
        args.join(" ")
    }

    #[test]
    fn the_root_is_read_only_and_the_share_is_not() {
        let line = arguments(&machine());
        assert!(line.contains("id=root,path=/,security_model=none,multidevs=remap,readonly=on"));
        assert!(line.contains("id=share,path=/a,,b,security_model=none,multidevs=remap -device"));
    }

    #[test]
    fn ram_is_shared_with_the_devices() {
        let line = arguments(&machine());
        assert!(line.contains("-m 3072M -object memory-backend-memfd,id=ram,size=3072M,share=on"));
        assert!(line.contains(r#""driver":"vfio-user-pci""#));
        assert!(line.contains(r#""path":"/run/gpu0.sock""#));
    }

    #[test]
    fn own_kernel_arguments_come_last() {
        let line = arguments(&machine());
        assert!(line.contains("init=/cache/tern-init "), "{line}");
        assert!(line.ends_with(" a=1 b"), "{line}");
    }

    #[test]
    fn a_plugin_is_passed_with_its_arguments() {
        assert!(!arguments(&machine()).contains("-plugin"));
        let line = arguments(&Machine {
            plugin: Some("/t/libcount.so,profile=/b/p".into()),
            ..machine()
        });
        assert!(line.contains("-plugin /t/libcount.so,profile=/b/p "));
    }

    #[test]
    fn only_tcg_needs_patience() {
        assert!(arguments(&machine()).contains(" no_timer_check "));
        let line = arguments(&Machine {
            accel: Accel::Kvm,
            ..machine()
        });
        assert!(!line.contains("no_timer_check"));
        assert!(line.contains("-accel kvm -cpu host"));
    }

    #[test]
    fn the_debugger_finds_the_machine_stopped() {
        let line = arguments(&Machine {
            gdb: Some("tcp:127.0.0.1:1234".into()),
            ..machine()
        });
        assert!(line.contains("-gdb tcp:127.0.0.1:1234 -S"));
        assert!(line.contains("nokaslr"));
    }
}
