"""Machines of a test: network namespaces with addresses of their own, on one switch whose cables can be pulled.

They share the disk, as nodes of a cluster share a folder. Root, iproute2 and a kernel with namespaces are needed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

CLONE_NEWNET = 0x40000000
NETWORK = "10.77.0"
DEVICE = "eth0"  # of each machine


class NoMachinesError(Exception):
    """Namespaces can't be made here; the message says why."""


class Machines:
    """Machines by name, and the switch between them, which is a namespace too: nothing of this machine's own network changes."""

    def __init__(self, names: Sequence[str]):
        self.addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, 1)}
        self._switch = self._space("switch")

    def start(self) -> None:
        """Make them and plug them in. Raises NoMachinesError where that can't be done; nothing is left then."""
        if shutil.which("ip") is None:
            raise NoMachinesError("there is no `ip`")
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "bridge", "up")
            for name, address in self.addresses.items():
                space = self._space(name)
                _ip("netns", "add", space)
                cable = ("type", "veth", "peer", "name", DEVICE, "netns", space)
                _ip("-n", self._switch, "link", "add", name, *cable)
                _ip("-n", self._switch, "link", "set", name, "master", "bridge")
                _ip("-n", space, "address", "add", f"{address}/24", "dev", DEVICE)
                for device in ("lo", DEVICE):
                    _ip("-n", space, "link", "set", device, "up")
                self.plug(name, True)
            with self.inside(name):
                pass
        except (subprocess.CalledProcessError, OSError) as error:
            self.end()
            said = getattr(error, "stderr", None) or str(error)
            raise NoMachinesError(f"no network namespaces: {said.strip()}") from error

    def plug(self, name: str, plugged: bool) -> None:
        """Put the cable of a machine in at the switch, or pull it: packets are lost, nobody is told."""
        _ip("-n", self._switch, "link", "set", name, "up" if plugged else "down")

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread, and processes that it starts, are on that machine."""
        with open("/proc/thread-self/ns/net") as own, open(Path("/run/netns") / self._space(name)) as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(own.fileno())

    def empty(self, name: str) -> None:
        """Kill whatever runs on a machine."""
        running = ["ip", "netns", "pids", self._space(name)]
        for number in subprocess.run(running, capture_output=True, text=True, check=False).stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)

    def end(self) -> None:
        """Take everything away."""
        for name in self.addresses:
            self.empty(name)
        for space in (self._switch, *map(self._space, self.addresses)):
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)

    @staticmethod
    def _space(name: str) -> str:
        return f"test-{os.getpid()}-{name}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


def _enter(space: int) -> None:
    """`setns` of the C library, which Python has from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(space, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
