"""Ports for the servers that tests start themselves."""

import random
import socket

# Below the range from which connections, and whoever asks for any port, get theirs, and below a cluster's node ports.
LOWEST, HIGHEST = 20000, 30000
_claims: list[
    socket.socket
] = []  # UDP ports of the same numbers: as long as this process lives they keep others that run tests off


def free_port() -> int:
    """One on which nobody listens, and which no other test takes while its server does not yet, or not just now."""
    for port in random.sample(range(LOWEST, HIGHEST), HIGHEST - LOWEST):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.socket() as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise AssertionError(f"no free port from {LOWEST} to {HIGHEST - 1}")
