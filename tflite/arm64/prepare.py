#!/usr/bin/env python3
"""Builds a folder in which programs for ARM64 Linux run on this machine, by qemu's user mode emulation.

    python prepare.py [DIRECTORY]          (default: build/arm64 of the repository)

Writes DIRECTORY/sysroot, whole or not at all: Debian's C library and Python, NumPy and LiteRT, all for ARM64, and a
root for each CPU that run.py emulates. Nothing is installed: apt and pip only download. Needs a Debian with qemu-user.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import emulator

LITERT = "2.3.0"
# Python 3.X takes three more, named by its version.
PACKAGES = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5")
# Of 17 MB, and for a GPU only.
UNUSED = "libLiteRtWebGpuAccelerator.so"


class PrepareError(Exception):
    """What is missing, and how to get it."""


def called(*command, cwd=None):
    """What a program printed. Raises PrepareError with the last line of its errors if it failed."""
    result = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no message"]
        raise PrepareError(f"{command[0]} must succeed. Received: {lines[-1]}")
    return result.stdout


def check_tools():
    """Raises PrepareError for a tool that is not there."""
    for tool, package in ((emulator.QEMU, "qemu-user"), ("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        if shutil.which(tool) is None:
            raise PrepareError(f"{tool} is missing (apt-get install {package}; the machine must be a Debian).")


def apt_options(state):
    """Options that give apt lists, caches and a package state of its own, so that the machine's stay as they are."""
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::State::Lists": state / "lists",
        "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives",
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",
    }
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]


def python_package(options):
    """The name of Debian's Python for ARM64, such as python3.11."""
    depends = called("apt-cache", *options, "show", "python3-minimal")
    found = re.search(r"(python3\.\d+)-minimal", depends)
    if found is None:
        raise PrepareError("apt's sources must have python3-minimal for arm64. Received: none.")
    return found.group(1)


def unpack_debs(state, sysroot):
    """Downloads the packages of ARM64 and unpacks them; returns the name of their Python."""
    options = apt_options(state)
    called("apt-get", *options, "--quiet", "update")
    python = python_package(options)
    packages = [*PACKAGES, f"lib{python}-minimal", f"lib{python}-stdlib", f"{python}-minimal"]
    debs = Path(tempfile.mkdtemp(dir=state))
    called("apt-get", *options, "download", *packages, cwd=debs)
    for deb in sorted(debs.glob("*.deb")):
        called("dpkg-deb", "--extract", deb, sysroot)
    shutil.rmtree(debs)
    # Newer libraries lie in usr/lib only, but the loader is sought in lib.
    if not (sysroot / "lib").exists():
        (sysroot / "lib").symlink_to("usr/lib")
    return python


def unpack_wheels(downloads, site, python):
    """Downloads LiteRT and NumPy for ARM64, and unpacks them into `site`."""
    version = python.removeprefix("python")
    tags = [part for tag in ("2_27", "2_28", "2_17") for part in ("--platform", f"manylinux_{tag}_aarch64")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", version, *tags, "--dest", downloads]
    shutil.rmtree(downloads, ignore_errors=True)
    called(*command, f"ai-edge-litert=={LITERT}", "numpy>=1.26")
    for wheel in downloads.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site, [name for name in archive.namelist() if not name.endswith(UNUSED)])
    shutil.rmtree(downloads)


def write_roots(sysroot):
    """A root for each CPU: links to the sysroot's folders beside a /proc/cpuinfo that tells of that CPU.

    qemu 7 shows the machine's own otherwise, and LiteRT, which reads it, crashes.
    """
    for name, cpu in emulator.CPUS.items():
        proc = sysroot / "cpus" / name / "proc"
        proc.mkdir(parents=True)
        (proc / "cpuinfo").write_text(cpu.cpuinfo())
        for folder in ("lib", "usr"):
            (proc.parent / folder).symlink_to(f"../../{folder}")


def recipe():
    """What a sysroot was built from: one of another recipe is built anew."""
    scripts = b"".join(Path(script).read_bytes() for script in (__file__, emulator.__file__))
    return f"ai-edge-litert {LITERT}, scripts {hashlib.sha256(scripts).hexdigest()}\n"


def build(directory):
    """Builds the sysroot beside its place, tries it, and moves it there."""
    partial = Path(tempfile.mkdtemp(prefix="sysroot.", dir=directory))
    try:
        python = unpack_debs(directory / "apt", partial)
        unpack_wheels(directory / "wheels", partial / "site", python)
        write_roots(partial)
        # Writes the byte code, too, which makes later starts faster.
        check = "import numpy, ai_edge_litert.interpreter"
        called(*emulator.python_command(partial), "-c", check)
        (partial / "complete").write_text(recipe())
        shutil.rmtree(directory / "sysroot", ignore_errors=True)
        partial.rename(directory / "sysroot")
        shutil.rmtree(directory / "apt")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main():
    """Parses the command line and builds what is not there yet."""
    parser = argparse.ArgumentParser(description="Build the folder in which programs for ARM64 run.")
    parser.add_argument("directory", type=Path, nargs="?", default=emulator.DIRECTORY, metavar="DIRECTORY")
    directory = parser.parse_args().directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    os.environ["LC_ALL"] = "C.UTF-8"
    try:
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            complete = directory / "sysroot" / "complete"
            if not complete.exists() or complete.read_text() != recipe():
                check_tools()
                print(f"Downloading Debian's Python, NumPy and LiteRT for ARM64 into {directory} (once; about 50 MB)")
                build(directory)
    except (PrepareError, OSError, zipfile.BadZipFile) as error:
        print(f"prepare.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
