"""`demo --on docker`, as a person starts it."""

import pytest
from blackstart.injectors.platforms.docker_api import DockerApi
from blackstart.tests.command import Blackstart, kill_quietly, until
from blackstart.tests.docker.engine import IMAGE

SHORT = [word for setting in ("steady_state.hold=3s", "settle=2s", "observe=20s") for word in ("--set", setting)]


def demos(api: DockerApi) -> list[str]:
    """Networks of demos."""
    return [str(each["Name"]) for each in api.get("/networks", filters={"label": ["blackstart-demo.creator"]})]


@pytest.mark.timeout(360)
def test_a_demo_leaves_nothing_and_removes_what_a_killed_one_left(blackstart: Blackstart, api: DockerApi) -> None:
    killed = blackstart.started("demo", "store-loss", "--on", "docker", "--image", IMAGE)
    until("a demo to be there", lambda: demos(api), 60)
    left = demos(api)
    kill_quietly(killed)
    done = blackstart.telling("demo", *SHORT, "--on", "docker", "--image", IMAGE, within_s=120)
    assert done.code == 0, done.out + done.err
    assert left[0] not in demos(api)
    assert demos(api) == []
    assert api.get("/containers/json", all=1) == []
    assert api.get("/volumes")["Volumes"] in (None, [])


@pytest.mark.timeout(120)
def test_an_image_that_cannot_be_had_is_said(blackstart: Blackstart, api: DockerApi) -> None:
    done = blackstart("demo", "--on", "docker", "--image", "registry.invalid/nobody/nothing:1")
    assert done.code == 2, done.out
    assert "registry.invalid/nobody/nothing" in done.err
    assert demos(api) == []
