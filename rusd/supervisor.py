"""What the service manager that started the member is told: sd_notify(3), without its library."""

import os
import socket
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"


def tell(state: str) -> None:
    """Sends `state` to the socket that NOTIFY_SOCKET names: a path, or `@` and an abstract name.

    Nothing without that variable. Raises OSError when nobody hears it there.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)  # a manager that does not read must not hold the member up
        sender.sendto(state.encode(), address)
