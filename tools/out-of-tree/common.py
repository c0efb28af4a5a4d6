# SPDX-License-Identifier: GPL-2.0
"""What common.sh is for the scripts that are Python."""

import atexit
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parents[1]
BUILD = ROOT / "build"

os.environ["LC_ALL"] = "C.UTF-8"
for _name in ("LANGUAGE", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
    os.environ.pop(_name, None)
try:
    SAY_FD = int(os.environ.get("SAY_FD", "none"))
    os.fstat(SAY_FD)
except (ValueError, OSError):
    SAY_FD = os.dup(1)
    os.set_inheritable(SAY_FD, True)
    os.environ["SAY_FD"] = str(SAY_FD)
for _signal in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(_signal, lambda n, frame: sys.exit(128 + n))
TMP = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, TMP, ignore_errors=True)
# The user's git configuration has no say in what is made here.
PLAIN = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
BUILD.mkdir(exist_ok=True)


def die(why):
    sys.exit(why)


def say(what):
    os.write(SAY_FD, f"{what}\n".encode("utf-8", "surrogateescape"))


def text(data):
    return data.decode("utf-8", "surrogateescape")


def read(path):
    return text(Path(path).read_bytes())


def write(path, content):
    Path(path).write_bytes(content.encode("utf-8", "surrogateescape"))


def run(*args, env=None, data="", check=True, **kwargs):
    """Run a program with data on its stdin, and return how it ended."""
    p = subprocess.run(args, input=data.encode("utf-8", "surrogateescape"),
                       capture_output=True, close_fds=False, check=False,
                       env={**os.environ, **(env or {})}, **kwargs)
    p.stdout, p.stderr = text(p.stdout), text(p.stderr)
    if check and p.returncode:
        die(p.stderr.strip() or f"{args[0]} ended with {p.returncode}")
    return p


def lock(path):
    """One holder of path.lock at a time, until this process ends."""
    fd = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another run ({path}.lock)")
        fcntl.flock(fd, fcntl.LOCK_EX)


def lock_build():
    """One at a time in build/, with all that it starts, as kernel.sh has it."""
    if os.path.exists(f"/proc/self/fd/{os.environ.get('BUILD_LOCK')}"):
        return
    fd = os.open(BUILD / "lock", os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        die(f"already running in this directory ({BUILD}/lock)")
    os.set_inheritable(fd, True)
    os.environ["BUILD_LOCK"] = str(fd)


def remove(path):
    shutil.rmtree(path, ignore_errors=True)
