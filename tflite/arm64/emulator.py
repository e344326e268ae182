"""How a program for ARM64 is called here: qemu's user mode, a root for it, and the CPUs that it can be."""

import os
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
DIRECTORY = REPOSITORY / "build" / "arm64"
QEMU = "qemu-aarch64"

_V8_0 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_V8_2 = f"{_V8_0} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
_V9_0 = f"{_V8_2} jscvt fcma sha3 sha512 sve asimdfhm sve2 i8mm bf16"


class Cpu(NamedTuple):
    """What qemu calls it, and what its /proc/cpuinfo says."""

    qemu: str
    implementer: int
    part: int
    features: str

    def cpuinfo(self):
        """The text of /proc/cpuinfo on such a machine with one core."""
        fields = {
            "processor": "0",
            "BogoMIPS": "50.00",
            "Features": self.features,
            "CPU implementer": f"0x{self.implementer:02x}",
            "CPU architecture": "8",
            "CPU variant": "0x0",
            "CPU part": f"0x{self.part:03x}",
            "CPU revision": "0",
        }
        return "".join(f"{key}\t: {value}\n" for key, value in fields.items())


CPUS = {
    "cortex-a53": Cpu("cortex-a53", 0x41, 0xD03, _V8_0),
    # That of a Raspberry Pi 4.
    "cortex-a72": Cpu("cortex-a72", 0x41, 0xD08, _V8_0),
    "cortex-a76": Cpu("cortex-a76", 0x41, 0xD0B, _V8_2),
    "cortex-a710": Cpu("cortex-a710", 0x41, 0xD47, _V9_0),
    # Without SME, with which qemu 7 computes wrongly; under another core's name, as LiteRT crashes on an unknown one.
    "max": Cpu("max,sme=off", 0x41, 0xD0B, _V9_0),
}
DEFAULT_CPU = "cortex-a76"


def environment(sysroot, cpu=DEFAULT_CPU):
    """The variables of an emulated program: none of the machine's own, which lead to its own libraries."""
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
    return {**kept, "QEMU_CPU": CPUS[cpu].qemu, "PYTHONPATH": str(sysroot / "site"), "LC_ALL": "C.UTF-8"}


def command(sysroot, program, cpu=DEFAULT_CPU):
    """The start of a command line that runs a program for ARM64 with that environment and no other."""
    variables = [f"{name}={value}" for name, value in environment(sysroot, cpu).items()]
    root = str(sysroot / "cpus" / cpu)
    return ["env", "-i", f"PATH={os.environ['PATH']}", *variables, QEMU, "-L", root, str(program)]


def python_command(sysroot, cpu=DEFAULT_CPU):
    """The start of a command line that runs the ARM64 Python on a script; -S, for Debian's site needs more packages."""
    (python,) = (sysroot / "usr" / "bin").glob("python3.*")
    return [*command(sysroot, python, cpu), "-S"]
