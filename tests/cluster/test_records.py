"""Who holds a service: a Lease that is renewed is respected, one that is not is taken, whatever the clocks of two machines say."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from blackstart.injectors.platforms.base import Busy
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_records import LEASE_S, LEASES, RENEW_S, Records, lease_of
from blackstart.tests.command import until

HOUR = timedelta(hours=1)


@pytest.fixture
def namespace(api: KubeApi) -> Iterator[str]:
    name = f"blackstart-test-{secrets.token_hex(2)}"
    api.create(place("namespaces"), {"metadata": {"name": name}})
    yield name
    api.delete(place("namespaces", name=name))


def written(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def leased(api: KubeApi, namespace: str, workload: str, renewed: datetime) -> None:
    spec = {
        "holderIdentity": "theirs",
        "leaseDurationSeconds": LEASE_S,
        "acquireTime": written(renewed),
        "renewTime": written(renewed),
    }
    api.create(place("leases", namespace, "", LEASES), {"metadata": {"name": lease_of(workload)}, "spec": spec})


def test_two_that_want_the_same_are_kept_apart(api: KubeApi, namespace: str) -> None:
    first, second = (Records(api, namespace, ["deployment/a", "deployment/b"]) for _ in range(2))
    first.hold("one", 0.0)
    with pytest.raises(Busy, match=r"deployment/a in namespace .* is being drilled by one"):
        second.hold("two", 0.0)
    first.release()
    second.hold("two", 0.0)
    second.release()
    assert api.items(place("leases", namespace, "", LEASES))[0] == []


def test_what_is_held_in_part_is_let_go(api: KubeApi, namespace: str) -> None:
    """Another machine has the second workload only: the first one is not kept from it."""
    leased(api, namespace, "deployment/b", datetime.now(UTC))
    with pytest.raises(Busy, match="deployment/b"):
        Records(api, namespace, ["deployment/a", "deployment/b"]).hold("ours", 0.0)
    assert [each["metadata"]["name"] for each in api.items(place("leases", namespace, "", LEASES))[0]] == [
        lease_of("deployment/b")
    ]


def test_only_what_is_not_renewed_is_taken_whatever_the_clocks_say(api: KubeApi, namespace: str) -> None:
    """The dead holder's clock was an hour ahead of ours, the living one's is an hour behind."""
    leased(api, namespace, "deployment/dead", datetime.now(UTC) + HOUR)
    leased(api, namespace, "deployment/dead-too", datetime.now(UTC) - HOUR)
    leased(api, namespace, "deployment/alive", datetime.now(UTC) - HOUR)
    alive = place("leases", namespace, lease_of("deployment/alive"), LEASES)
    with pytest.raises(Busy, match="deployment/dead "):
        Records(api, namespace, ["deployment/dead"]).hold("ours", 0.0)
    dead, too, living = (Records(api, namespace, [f"deployment/{name}"]) for name in ("dead", "dead-too", "alive"))
    with ThreadPoolExecutor(3) as pool:
        recovering = pool.submit(dead.hold, "ours", LEASE_S + RENEW_S)
        drilling = pool.submit(too.hold, "ours", 0.0)
        refused = pool.submit(living.hold, "ours", 0.0)
        until("the living one to be seen as it is", lambda: renewed(api, alive) and refused.done())
        assert isinstance(refused.exception(), Busy)
        assert not recovering.done()
        assert not drilling.done()
        recovering.result(LEASE_S + RENEW_S)
        drilling.result(LEASE_S + RENEW_S)
    for each in (dead, too):
        each.release()
    assert [each["metadata"]["name"] for each in api.items(place("leases", namespace, "", LEASES))[0]] == [
        lease_of("deployment/alive")
    ]


def renewed(api: KubeApi, path: str) -> bool:
    found = api.get(path)
    found["spec"]["renewTime"] = written(datetime.now(UTC) - HOUR)
    api.replace(path, found)
    return True
