"""Who a message goes to, and what that one is called."""

from __future__ import annotations

Address = int
"""Who a message goes to: workers are 0, 1, 2, ...; servers are -1, -2, ..."""


def name_of(address: Address) -> str:
    """Return "worker 2", "server" or "server 1"."""
    if address >= 0:
        return f"worker {address}"
    return "server" if address == -1 else f"server {-1 - address}"
