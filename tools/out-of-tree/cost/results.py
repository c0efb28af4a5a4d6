# SPDX-License-Identifier: GPL-2.0
"""The tables that "report" here and in ../server make and read: a line is a
kind and its fields, with tabs between them; "#" lines name the fields"""

import subprocess


def output(*args):
    return subprocess.run(args, check=True, text=True,
                          capture_output=True).stdout


def row(*fields):
    print("\t".join(str(f) for f in fields))


def lines(path, kind):
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            fields = line.rstrip("\n").split("\t")
            if fields[0] == kind:
                yield fields[1:]


def made(command, kernel):
    """What a table begins with; kernel is where it was built"""
    with open(kernel + "/include/config/kernel.release",
              encoding="ascii") as f:
        release = f.read().strip()
    qemu = output("qemu-system-x86_64", "--version").splitlines()[0]
    gcc = output("gcc", "--version").splitlines()[0]
    print("# " + command)
    row("made", f"Linux {release}", qemu.replace("emulator version ", ""), gcc)
