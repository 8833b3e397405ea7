"""Where a page is served."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import ipaddress
import socket
from dataclasses import dataclass, field


@dataclass
class PageArguments:
    """Where the page is."""

    _argument_group_name = "page"

    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on; any but the default opens the page to other machines."},
    )
    port: int = field(default=7860, metadata={"help": "Port to listen on."})

    def __post_init__(self):
        if not 1 <= self.port <= 65535:
            raise ValueError(f"--port {self.port}: must be from 1 to 65535")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the page."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> list[str]:
        """Names under which it may be called: a page elsewhere that makes its own name point here would otherwise be let in."""
        return ["127.0.0.1", "localhost", self.host] if self.local else ["*"]

    def check_free(self) -> None:
        """Raise ValueError when nothing can listen there."""
        try:
            family, kind, _, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            raise ValueError(
                f"--host {self.host} --port {self.port}: can't listen there ({error}); choose another port"
            ) from None
