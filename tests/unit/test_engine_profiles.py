"""Profiles of serving engines: every one that ships is whole, told apart from the others, and completes a service file."""

import re
from pathlib import Path

import pytest
from blackstart.drills.engine_profile import ENGINE_NAMES, FOLDER, profile_file
from blackstart.drills.first_files import Answers
from blackstart.drills.loading import InvalidFiles, dump_service, engine_profile, explain, load_files, load_service
from blackstart.drills.recognition import Recognised, engine_pattern, recognised

PROCESS = "platform: process\nprocess: {components: [{name: r0, role: replica, port: 8000}]%s}\n"
KUBERNETES = "platform: kubernetes\nkubernetes: {namespace: models, workload: deployment/llm}\n"
# Command lines as they are seen in /proc, each with the engine that it belongs to, and whether it is one that computes.
COMMANDS = {
    "vllm serve /models/tiny --port 8000": ("vllm", False),
    "python3 -m vllm.entrypoints.openai.api_server --model /models/tiny": ("vllm", False),
    "VLLM::EngineCore": ("vllm", True),
    "VLLM::EngineCore_DP1": ("vllm", True),
    "VLLM::Worker_TP0": ("vllm", False),
    "python3 -m sglang.launch_server --model-path /models/tiny": ("sglang", False),
    "sglang::scheduler_TP0": ("sglang", True),
    "sglang::detokenizer": ("sglang", False),
    "text-generation-launcher --json-output": ("tgi", False),
    "/opt/conda/bin/python3.10 /opt/conda/bin/text-generation-server serve google/flan-t5-small --uds-path /tmp/x": ("tgi", True),
    "/opt/tritonserver/bin/tritonserver --model-repository=/models": ("triton", False),
    "/opt/tritonserver/backends/python/triton_python_backend_stub /models/p/1/model.py triton_python_backend_shm_region_1": (
        None,
        True,
    ),
    "/venv/bin/python /venv/bin/mlserver start /models": ("mlserver", False),
    "/venv/bin/python -B -c from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=17)": (None, True),
    "/venv/bin/python -B -c from multiprocessing.resource_tracker import main;main(16)": (None, False),
    "/prod_venv/bin/python -m sklearnserver --model_name=iris --model_dir=/mnt/models": ("kserve", False),
    "/app/llama-server -m /models/tiny.gguf --port 8080": ("llama-cpp", False),
    "/usr/local/bin/ollama serve": ("ollama", False),
    "/usr/local/bin/ollama runner --ollama-engine --port 41231": ("ollama", True),
    "ray::ServeReplica:app:LLMServer.handle_request": ("ray-serve", True),
    "ray::ProxyActor": ("ray-serve", False),
    "python3 /pkg/scenarios/demo/service.py replica --name r0": ("demo", False),
    "python3 /pkg/scenarios/demo/service.py engine --folder x": ("demo", True),
    "python3 /pkg/scenarios/demo/service.py decode --name d0": ("demo", False),
    "nginx: worker process": (None, False),
    "python3 train.py": (None, False),
}


def written(folder: Path, text: str) -> Path:
    path = folder / "service.yaml"
    path.write_text(f"apiVersion: blackstart/v1\nkind: Service\nname: llm\n{text}", encoding="utf-8")
    return path


def test_every_name_has_its_file_and_every_file_its_name():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(ENGINE_NAMES)
    assert {engine_profile(name).name for name in ENGINE_NAMES} == set(ENGINE_NAMES)


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_a_profile_tells_what_is_not_checked_and_where_that_is_from(name):
    (profile,) = load_files([profile_file(name)])
    assert profile.health
    for each in profile.health:
        assert min(len(each.checks), len(each.misses)) > 10
    facts = [profile.recognised, profile.metrics, profile.drain, profile.model, *profile.health, *profile.behaviour]
    assert set(profile.halves) in (set(), {"prefill", "decode"})
    for fact in [*facts, *profile.roles.values(), *profile.halves.values()]:
        assert re.search(r"seen |https://|\.(py|go|rs|cc|cpp|h|md|yaml)\b|--help|no source|no such", fact.source), fact


def test_metrics_are_told_as_they_are_exposed():
    """A counter's name gets `_total` from Prometheus' client, and Ray takes any free port unless it is given one."""
    assert {"vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"} < set(engine_profile("vllm").metrics.cache)
    ray = engine_profile("ray-serve").metrics
    assert (ray.port, "--metrics-export-port" in ray.needs) == (None, True)


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_what_a_profile_says_of_blackstart_is_there(name):
    """A test or a file that a source names must exist."""
    text = profile_file(name).read_text(encoding="utf-8")
    for path in re.findall(r"\b((?:tests|scenarios)/[\w/.]+\.py)\b", text):
        assert (FOLDER.parents[1] / path).is_file(), path


def test_what_was_seen_of_a_real_vllm_is_told():
    """Each by what somebody who drills one has to know beforehand."""
    profile = engine_profile("vllm")
    told = {each.when: each for each in profile.behaviour}
    killed = told["an engine process is killed (SIGKILL) under load"]
    assert "exit code 0" in killed.does
    assert "NVIDIA H200" in killed.source
    assert "/health stays 200" in told["an engine process is stopped for 8 s"].does
    assert "orphan" in told["the API process is killed (SIGKILL)"].does
    assert "request_memory" in told["it starts while the GPU's memory is taken"].source
    assert "the API process hangs" in profile.drain.does


def test_the_server_that_the_tests_install_is_the_version_that_its_profile_names():
    makefile = (FOLDER.parents[1] / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"\bmlserver(?:==([\d.]+))? 'uvloop", makefile) == [engine_profile("mlserver").version]


@pytest.mark.parametrize(("command", "expected"), COMMANDS.items(), ids=lambda value: str(value)[:40])
def test_an_engine_is_told_from_others_by_command_lines(command, expected):
    engine, computes = expected
    found = recognised(None, [command])
    assert (found.profile.name if found else None) == engine
    assert (engine_pattern([command], found.profile if found else None) is not None) == computes


HALVES = {
    "python3 -m sglang.launch_server --model-path /models/tiny --disaggregation-mode prefill": ("sglang", "prefill"),
    "sglang serve --model-path /models/tiny --disaggregation-mode=decode": ("sglang", "decode"),
    "python3 -m sglang.launch_server --model-path /models/prefill --disaggregation-mode null": ("sglang", None),
    """vllm serve tiny --kv-transfer-config {"kv_connector":"NixlConnector","kv_role":"kv_producer"}""": ("vllm", "prefill"),
    """vllm serve tiny --kv-transfer-config {"kv_connector": "NixlConnector", "kv_role": "kv_consumer"}""": ("vllm", "decode"),
    """vllm serve tiny --kv-transfer-config {"kv_connector":"NixlConnector","kv_role":"kv_both"}""": ("vllm", None),
    "python3 service.py decode --name d0": ("demo", "decode"),
    "python3 service.py prefill --name p0": ("demo", "prefill"),
    "python3 service.py replica --name r0": ("demo", None),
}


@pytest.mark.parametrize(("command", "expected"), HALVES.items(), ids=lambda value: str(value)[-40:])
def test_workers_that_do_one_half_of_an_answer_are_told_by_command_lines(command, expected):
    engine, half = expected
    assert [role for role, each in engine_profile(engine).halves.items() if re.search(each.command_line, command)] == (
        [half] if half else []
    )


def test_no_more_of_a_command_line_is_told_than_what_gave_the_engine_away():
    found = recognised(None, ["vllm serve /models/tiny --api-key hunter2"])
    assert found is not None
    assert found.by == "by `vllm serve` in a command line"


def test_what_a_server_says_of_its_model_cannot_leave_the_comment(tmp_path):
    """Names and types come from somebody else's server."""
    tensors = ({"name": "x\nprotect: {}", "shape": [1, "\n"], "datatype": "FP32\nmodel: {}"}, {"name": "y"}, 5)
    lines = Answers("kserve-v2", "tiny", (), tensors).lines(["service: llm", "port: 80"])
    assert all("\n" not in line for line in lines)
    load_service(written(tmp_path, KUBERNETES + "\n".join(lines) + "\n"))


def test_the_first_process_decides_when_engines_run_in_each_other():
    found = recognised(None, ["ray::ServeReplica:app:LLMServer", "VLLM::EngineCore"])
    assert found is not None
    assert found.profile.name == "ray-serve"


def test_a_profile_supplies_what_is_left_out(tmp_path):
    file = written(
        tmp_path, f"engine: mlserver\n{KUBERNETES}endpoint: {{service: llm, port: 80, model: tiny}}\nmodel: {{path: /m}}\n"
    )
    service = load_service(file)
    assert service.endpoint.protocol == "kserve-v2"
    assert service.health == ("/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready")
    assert service.roles["engine"].command_line == r"multiprocessing\.spawn"
    assert service.model.load == "at-start"
    assert (
        load_service(written(tmp_path, file.read_text().partition("name: llm\n")[2].replace("mlserver", "llama-cpp"))).model.load
        == "mmap"
    )


def test_what_the_file_says_wins(tmp_path):
    text = (
        f"engine: mlserver\n{KUBERNETES}endpoint: {{service: llm, port: 80, protocol: http}}\nmodel: {{path: /m, load: mmap}}\n"
    )
    service = load_service(written(tmp_path, text + 'health: [/live]\nroles: {engine: {command_line: "mine"}}\n'))
    assert (service.endpoint.protocol, service.health, service.model.load) == ("http", ("/live",), "mmap")
    assert {role: each.command_line for role, each in service.roles.items()} == {
        "engine": "mine",
        "worker": r"multiprocessing\.spawn",
    }
    assert load_service(written(tmp_path, text + "health: []\n")).health == ()


def test_a_model_that_is_not_known_has_no_health_endpoint(tmp_path):
    service = load_service(written(tmp_path, f"engine: mlserver\n{KUBERNETES}endpoint: {{service: llm, port: 80}}\n"))
    assert service.health == ("/v2/health/live", "/v2/health/ready")


def test_roles_of_processes_are_inside(tmp_path):
    text = 'engine: vllm\nendpoint: {url: "http://127.0.0.1:8000"}\n'
    service = load_service(written(tmp_path, text + PROCESS % ""))
    assert service.process.inside["engine"] == "VLLM::EngineCore"
    own = load_service(written(tmp_path, text + PROCESS % ", inside: {engine: mine, other: x}"))
    assert own.process.inside == {**service.process.inside, "engine": "mine", "other": "x"}


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_what_a_profile_supplied_is_written_out(name, tmp_path):
    """So that a stored run means the same where a later profile says something else, also where a default was chosen over it."""
    text = f'engine: {name}\n{PROCESS % ""}endpoint: {{url: "http://127.0.0.1:8000", protocol: http}}\nmodel: {{path: m}}\n'
    for more in ("", "health: []\n"):
        service = load_service(written(tmp_path, text + more))
        again = tmp_path / "again.yaml"
        again.write_text(dump_service(service), encoding="utf-8")
        assert load_service(again) == service
        again.write_text(dump_service(service).replace(f"engine: {name}\n", ""), encoding="utf-8")
        assert load_service(again).process == service.process
        assert load_service(again).health == service.health


def test_a_golden_question_is_checked_against_the_supplied_protocol(tmp_path):
    text = f'engine: mlserver\n{KUBERNETES}endpoint: {{service: llm, port: 80}}\ngolden: [{{prompt: "x"}}]\n'
    with pytest.raises(InvalidFiles, match=r"8:10: `inputs` is missing: the protocol is `kserve-v2`"):
        load_service(written(tmp_path, text))


def test_an_engine_that_is_not_known_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(InvalidFiles, match=r"4:9: `engine` cannot be `vlm`; did you mean `vllm`\?"):
        load_service(written(tmp_path, f"engine: vlm\n{KUBERNETES}endpoint: {{service: llm, port: 80}}\n"))


def test_explain_lists_the_engines():
    text = explain("engine")
    assert all(f"`{name}`" in text for name in ENGINE_NAMES)


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_init_writes_what_it_recognised(name, tmp_path):
    """The lines that all three ways of `init` share, as they stand in a file of pods."""
    profile = engine_profile(name)
    commands = [command for command, (engine, computes) in COMMANDS.items() if computes and engine == name]
    answers = Answers(profile.protocol, "tiny", ("/health",), engine=Recognised(profile, "by its answer to /"))
    lines = [*answers.lines(["service: llm", "port: 80"]), answers.roles_line(commands), answers.model_line()]
    service = load_service(written(tmp_path, KUBERNETES + "\n".join(lines) + "\n"))
    assert (service.engine, service.endpoint.protocol, service.endpoint.model) == (name, profile.protocol, "tiny")
    assert {role: each.command_line for role, each in service.roles.items()} == {
        role: each.command_line for role, each in profile.roles.items()
    }
    assert f"{profile.title} {'maps it' if profile.model.load == 'mmap' else 'reads it at start'}" in lines[-1]


def test_every_error_of_a_profile_is_told_at_once(tmp_path):
    path = tmp_path / "profile.yaml"
    text = profile_file("mlserver").read_text(encoding="utf-8")
    for right, wrong in (
        ("title: MLServer\n", ""),
        ("{path: /v2, text:", "{path: v2, txt:"),
        (r"command_line: multiprocessing\.spawn", 'command_line: "("'),
        ("load: at-start", "load: later"),
        ("path: /v2/health/live", "path: v2"),
    ):
        assert right in text
        text = text.replace(right, wrong, 1)
    path.write_text(text + "other: 1\n", encoding="utf-8")
    with pytest.raises(InvalidFiles) as caught:
        load_files([path])
    found = "\n".join(str(problem) for problem in caught.value.problems)
    for expected in (
        "`title` is missing",
        "unknown key `txt`",
        "`v2` is no path",
        "is no regular expression",
        "`load` cannot be `later`",
        "unknown key `other`",
    ):
        assert expected in found
    assert len(caught.value.problems) >= 6
