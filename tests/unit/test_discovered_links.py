"""What `init` writes of link proxies, of which each is in one path."""

import pytest
from blackstart.drills.discovery import Found, Place, _process, shared_links
from blackstart.drills.surroundings import Proxy, Server

GATEWAY = Found("gateway", "gateway", 8000, Server(8000, 1, "gw --backend d0=127.0.0.1:9001"))
LINKS = tuple(Proxy(name, listen, "127.0.0.1", to) for name, listen, to in (("gw-d0", 9001, 8002), ("kv", 9002, 8001)))


def decode(number: int, port: int) -> Found:
    return Found(
        f"d{number}", "decode", 8002 + number, Server(8002 + number, 3 + number, f"decode --prefill-worker 127.0.0.1:{port}")
    )


@pytest.mark.parametrize("shared", [False, True])
def test_a_link_proxy_that_two_components_share_is_left_out_and_told(shared: bool) -> None:
    """A fault on d0 there would hit d1 as well."""
    components = [
        GATEWAY,
        Found("p0", "prefill", 8001, Server(8001, 2, "prefill")),
        decode(0, 9002),
        decode(1, 9002 if shared else 8001),
    ]
    place = Place(8000, GATEWAY.server, tuple(each.server for each in components[1:] if each.server), links=LINKS)
    links = [line.strip() for line in _process(place, components) if "listen" in line]
    own = ['- {name: "gw-d0", from: gateway, to: d0, listen: 9001}']
    assert links == own + ([] if shared else ['- {name: "kv", from: d0, to: p0, listen: 9002}'])
    told = shared_links(place, components)
    assert [each.partition(": ")[2] for each in told] == (
        ["d0, d1 share it, so a fault on one of them would hit all; give each a link proxy of its own"] if shared else []
    )
