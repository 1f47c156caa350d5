"""init and doctor on services that are really there: what is found, what is warned of, what is refused."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blackstart.drills.discovery import SCENARIO
from blackstart.drills.loading import load_scenario, load_service
from blackstart.injectors import registry
from blackstart.scenarios.demo import Demo
from blackstart.tests.command import Blackstart, until
from blackstart.tests.ports import free_port


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999", "http://[::1", "http://127.0.0.1:x", "ftp://127.0.0.1", "http://a b", "x"]
)
def test_an_address_that_is_none_is_refused(blackstart: Blackstart, url: str) -> None:
    done = blackstart("init", "drills", "--from-url", url)
    assert done.code == 2
    assert f"{url} is not a URL of a service" in done.err
    assert not (blackstart.folder / "drills").exists()


def test_what_does_not_speak_http_is_refused(blackstart: Blackstart) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with closing(server.accept()[0]) as connection:
                connection.recv(1000)
                connection.sendall(b"-ERR unknown command\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = blackstart("init", "drills", "--from-url", f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert done.code == 2
    assert "the answer is not HTTP" in done.err


def components(demo: Demo) -> set[tuple[str, int]]:
    return {("gateway", demo.ports["gateway"]), ("replica", demo.ports["r0"]), ("replica", demo.ports["r1"])}


def test_a_link_proxy_is_no_component_and_replicas_are_found(blackstart: Blackstart, demo: Demo) -> None:
    """The demo's URL is a link proxy in front of the gateway."""
    links = demo.ports["links"]
    done = blackstart("init", "drills", "--from-url", f"http://127.0.0.1:{links['client-gw']}")
    assert (done.code, "warning" in done.err) == (0, False), done.err
    service = load_service(blackstart.folder / "drills" / "service.yaml")
    assert service.process is not None
    assert {(component.role, component.port) for component in service.process.components} == components(demo)
    assert {(link.name, link.listen) for link in service.process.links} == {
        (name, links[name]) for name in ("client-gw", "gw-r0", "gw-r1")
    }
    planned = blackstart("plan", "drills/scenario.yaml", "--service", "drills/service.yaml", "--json")
    assert planned.code == 0, planned.err
    (fault,) = json.loads(planned.out)["faults"]
    assert "proxy.py" not in json.dumps(fault["targets"])


def test_a_link_proxy_that_is_named_as_a_component_is_refused(blackstart: Blackstart, demo: Demo) -> None:
    profile = json.loads(demo.service_file.read_text())
    profile["process"] = {"port": demo.ports["links"]["client-gw"]}
    path = blackstart.folder / "service.yaml"
    path.write_text(json.dumps(profile), encoding="utf-8")
    done = blackstart("plan", "engine-hang-zombie", "--service", path)
    assert done.code == 2
    assert "is one of blackstart's own programs" in done.err


def test_the_first_drill_can_fail(tmp_path: Path) -> None:
    """A hang that ends by itself within the RTO would be passed by every service."""
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    scenario = load_scenario(path)
    (fault,) = scenario.faults
    assert scenario.objectives.rto is not None
    assert fault.for_ is None or fault.for_ > scenario.objectives.rto
    assert scenario.observe > scenario.objectives.rto


def test_the_address_of_one_replica_says_who_stands_in_front(blackstart: Blackstart, demo: Demo) -> None:
    done = blackstart("init", "drills", "--from-url", f"http://127.0.0.1:{demo.ports['r0']}")
    assert done.code == 0
    assert f"port {demo.ports['gateway']} " in done.err
    assert "stands in front" in done.err
    service = load_service(blackstart.folder / "drills" / "service.yaml")
    assert [component.port for component in service.process.components] == [demo.ports["r0"]]  # type: ignore[union-attr]


def doctor(blackstart: Blackstart, profile: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Subject -> yes, no or ?, and the words after it."""
    path = blackstart.folder / "service.yaml"
    path.write_text(json.dumps(profile), encoding="utf-8")
    lines = [line.split(maxsplit=2) for line in blackstart("doctor", "--service", path).out.splitlines()]
    return {subject: (word, text) for word, subject, text in lines}


def test_doctor_asks_every_fault_with_an_example(blackstart: Blackstart, demo: Demo) -> None:
    looked = doctor(blackstart, json.loads(demo.service_file.read_text()))
    assert looked["network-delay"] == ("yes", "with privilege api, e.g. on r0, delay: 100ms")
    assert looked["model-corrupt"][0] == "yes"
    assert {subject for subject, (word, _) in looked.items() if word == "?"} == {
        "cache-wipe",
        "command",
        "credential-expire",
        "disk-fill",
    }
    assert "depends on `path`" in looked["disk-fill"][1]


def test_doctor_says_no_where_something_is_missing(blackstart: Blackstart, demo: Demo) -> None:
    profile = json.loads(demo.service_file.read_text())
    profile["process"]["links"] = []
    del profile["model"]
    looked = doctor(blackstart, profile)
    assert looked["network-delay"][0] == "no"
    assert "no link proxy stands between" in looked["network-delay"][1]
    assert looked["model-corrupt"][0] == "no"
    assert "which file is the model" in looked["model-corrupt"][1]


def test_doctor_says_yes_to_nothing_that_is_not_running(blackstart: Blackstart, demo: Demo) -> None:
    profile = json.loads(demo.service_file.read_text())
    profile["process"] = {"port": free_port()}
    looked = doctor(blackstart, profile)
    assert {looked[kind][0] for kind in registry()} == {"no"}


@pytest.fixture
def plain_server(tmp_path: Path) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        line = until("the server to say its port", process.stdout.readline)
        yield f"http://127.0.0.1:{line.split(' port ')[1].split()[0]}"
        process.terminate()


def test_what_is_no_model_server_is_told(blackstart: Blackstart, plain_server: str) -> None:
    done = blackstart("init", "drills", "--from-url", plain_server)
    assert done.code == 0
    assert "warning: neither /v1/models nor /v2 tells of a model" in done.err
    assert "engine:" not in (blackstart.folder / "drills" / "service.yaml").read_text(encoding="utf-8")


AGREEING = """\
import http.server
class Agreeing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'"hello"')
    do_POST = do_GET
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agreeing)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_what_answers_200_to_any_path_has_no_health_endpoint(blackstart: Blackstart) -> None:
    """An application that catches all paths speaks no protocol by that, and has no health endpoint."""
    command = [sys.executable, "-c", AGREEING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        port = until("the server to say its port", process.stdout.readline).strip()
        done = blackstart("init", "drills", "--from-url", f"http://127.0.0.1:{port}")
        process.terminate()
    assert done.code == 0, done.err
    service = load_service(blackstart.folder / "drills" / "service.yaml")
    assert (service.endpoint.protocol, service.health, service.engine) == ("http", (), None)


def test_init_and_doctor_know_the_demo(blackstart: Blackstart, demo: Demo) -> None:
    url = f"http://127.0.0.1:{demo.ports['gateway']}"
    assert blackstart("init", "drills", "--from-url", url).code == 0
    service = load_service(blackstart.folder / "drills" / "service.yaml")
    assert (service.engine, service.endpoint.protocol) == ("demo", "openai")
    assert service.process is not None
    assert service.process.inside == {"engine": r"service\.py engine "}
    looked = doctor(blackstart, {**json.loads(demo.service_file.read_text()), "engine": None})
    assert looked["engine"][0] == "yes"
    assert "known by its answer to /v1/models; `engine: demo` supplies what is known of it" in looked["engine"][1]
    planned = blackstart("plan", "engine-hang-zombie", "--service", "drills/service.yaml", "--json")
    assert planned.code == 0, planned.err
    (fault,) = json.loads(planned.out)["faults"]
    assert "service.py engine" in json.dumps(fault)


VLLM = """\
import http.server, json, sys
ANSWERS = {"/v1/models": b'{"data": [{"id": "tiny", "owned_by": "vllm"}]}', "/health": b"", **json.loads(sys.argv[1], object_hook=lambda found: {
    key: value.encode() for key, value in found.items()})}
class Vllm(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path in ANSWERS else 404)
        self.end_headers()
        self.wfile.write(ANSWERS.get(self.path, b""))
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Vllm)
print(server.server_port, flush=True)
server.serve_forever()
"""
RUNNING = '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name="tiny"} 0.0\n'


@pytest.mark.parametrize(
    ("answers", "word", "said"),
    [
        ({}, "no", "/metrics answers 404 ("),
        ({"/metrics": "python_info 1\nx_vllm:num_requests_running 1\n"}, "no", "/metrics tells none of them ("),
        ({"/metrics": RUNNING}, "yes", "/metrics tells vllm:num_requests_running, and not vllm:num_requests_waiting, "),
    ],
)
def test_doctor_asks_for_the_metrics(blackstart: Blackstart, answers: dict[str, str], word: str, said: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-c", VLLM, json.dumps(answers)], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        port = int(until("the server to say its port", process.stdout.readline))
        service = {"apiVersion": "blackstart/v1", "kind": "Service", "name": "llm", "engine": "vllm", "platform": "process"}
        looked = doctor(
            blackstart, {**service, "process": {"port": port}, "endpoint": {"url": f"http://127.0.0.1:{port}", "model": "tiny"}}
        )
        process.terminate()
    assert looked["engine"][1].startswith("vLLM, as of "), looked
    assert looked["metrics"][0] == word
    assert said in looked["metrics"][1]


def test_doctor_knows_nothing_of_metrics_that_it_cannot_ask_for(blackstart: Blackstart, demo: Demo) -> None:
    profile = json.loads(demo.service_file.read_text())
    profile["engine"] = "triton"
    profile["process"]["components"] = [each for each in profile["process"]["components"] if each["role"] != "replica"]
    profile["process"]["links"] = []
    looked = doctor(blackstart, profile)
    assert looked["metrics"][0] == "?"
    assert "no replica is known that could be asked" in looked["metrics"][1]
