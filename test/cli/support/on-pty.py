"""Runs a command on a terminal of its own and reports what it does to the terminal.

Standard input is typed at the terminal, its output goes to standard output. Reports, one JSON object a line, go to
file descriptor 3: {"pid": n} at the start, {"raw": bool} whenever the mode changes, {"status": n, "restored": bool}
at the end, where the status is the shell's and restored tells whether all modes are what they were at the start.
File descriptor 4 takes sizes for the terminal, "COLUMNS ROWS" a line.
"""
import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios

LFLAG = 3


def report(**fields):
    os.write(3, (json.dumps(fields) + "\n").encode())


def modes(fd):
    return termios.tcgetattr(fd)


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data):]


master, slave = pty.openpty()
before = modes(slave)
pid = os.fork()
if pid == 0:
    os.setsid()
    os.close(master)
    os.close(3)
    os.close(4)
    os.dup2(slave, 0)
    os.dup2(slave, 1)
    os.dup2(slave, 2)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    if slave > 2:
        os.close(slave)
    os.execvp(sys.argv[1], sys.argv[1:])

report(pid=pid)
raw = False
sources = [0, master, 4]
sizes = b""
while True:
    ready, _, _ = select.select(sources, [], [], 0.02)
    if 0 in ready:
        typed = os.read(0, 4096)
        if typed:
            write_all(master, typed)
        else:
            sources.remove(0)
    if 4 in ready:
        read = os.read(4, 4096)
        if not read:
            sources.remove(4)
        *lines, sizes = (sizes + read).split(b"\n")
        for line in lines:
            columns, rows = map(int, line.split())
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    if master in ready:
        write_all(1, os.read(master, 65536))
    now = not modes(slave)[LFLAG] & termios.ICANON
    if now != raw:
        raw = now
        report(raw=raw)
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        break
while select.select([master], [], [], 0)[0]:
    write_all(1, os.read(master, 65536))
code = os.waitstatus_to_exitcode(status)
report(status=code if code >= 0 else 128 - code, restored=modes(slave) == before)
