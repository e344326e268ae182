#!/usr/bin/env python3
"""Runs a bundle as an ARM64 machine would: the Python or the native runner, emulated by qemu.

    python run.py BUNDLE [--repeat N] [--outputs DIRECTORY] [--cpu CPU] [--runner python|native]

The line of JSON, the exit code and stderr are the emulated runner's (the contract is in ../README.md); 2, too, if it
cannot be emulated. The latencies are the emulation's, and say nothing about a device.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import emulator

CANNOT_RUN = 2
PYTHON_RUNNER = emulator.REPOSITORY / "tflite" / "python" / "run.py"
NATIVE_RUNNER = emulator.REPOSITORY / "build" / "native-arm64" / "run"


def check(options):
    """Raises ValueError for what is not there, with the way to get it."""
    if shutil.which(emulator.QEMU) is None:
        raise ValueError(f"{emulator.QEMU} is missing (apt-get install qemu-user).")
    if not (options.sysroot / "complete").exists():
        raise ValueError(f"The ARM64 libraries must be in {options.sysroot}. Call make arm64.")
    if options.runner == "native" and not NATIVE_RUNNER.exists():
        raise ValueError(f"The native runner must be built. Received: no {NATIVE_RUNNER}. Call make native-arm64.")
    listed = subprocess.run([emulator.QEMU, "-cpu", "help"], capture_output=True, text=True, check=False).stdout.split()
    if options.cpu not in listed:
        known = ", ".join(cpu for cpu in emulator.CPUS if cpu in listed)
        raise ValueError(f"This qemu must know --cpu {options.cpu}. Received: a qemu that knows {known}.")


def runner_command(options):
    """The command line of the emulated runner."""
    if options.runner == "native":
        return emulator.command(options.sysroot, NATIVE_RUNNER, options.cpu)
    return [*emulator.python_command(options.sysroot, options.cpu), str(PYTHON_RUNNER)]


def main():
    """Parses the command line, runs the emulated runner, and returns its exit code."""
    parser = argparse.ArgumentParser(description="Run a bundle as an ARM64 machine would.", allow_abbrev=False)
    parser.add_argument("--cpu", choices=emulator.CPUS, default=emulator.DEFAULT_CPU, help="the CPU that is emulated")
    parser.add_argument("--runner", choices=("python", "native"), default="python", help="default python")
    default = emulator.DIRECTORY / "sysroot"
    parser.add_argument("--sysroot", type=Path, default=default, help="where prepare.py built it")
    options, passed = parser.parse_known_args()
    try:
        check(options)
    except (ValueError, OSError) as error:
        print(f"run.py: cannot emulate: {error}", file=sys.stderr)
        return CANNOT_RUN
    code = subprocess.run([*runner_command(options), *passed], check=False).returncode
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
