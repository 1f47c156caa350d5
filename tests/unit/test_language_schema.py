"""The JSON Schemas accept what the loader accepts; `explain` knows every field."""

import json
import runpy
from pathlib import Path

import pytest
from blackstart.drills.language.faults import plain
from blackstart.drills.language.problems import Report
from blackstart.drills.language.reading import tree
from blackstart.drills.loading import InvalidFiles, explain, json_schema, load_files
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

FILES = Path(__file__).parent / "files"
GOOD = sorted((FILES / "good").iterdir())
KINDS = runpy.run_path(str(FILES / "kinds.py"))["KINDS"]
SCHEMAS = {which: Draft202012Validator(json_schema(which, KINDS)) for which in ("scenario", "service")}


def value_of(path):
    return plain(tree(path.read_bytes(), Report(str(path))))


def errors(value):
    return [error.message for error in SCHEMAS[value["kind"].lower()].iter_errors(value)]


@pytest.mark.parametrize("which", ["scenario", "service"])
def test_a_schema_is_one_of_its_draft_and_plain_json(which):
    schema = json_schema(which, KINDS)

    Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_files_are_accepted(path):
    assert errors(value_of(path)) == []


@pytest.mark.parametrize(
    "name",
    [
        "rollbacks",
        "misspelt-key",
        "no-objectives",
        "empty-objectives",
        "no-faults",
        "empty-faults",
        "fault-not-in-list",
        "kind-synonyms",
        "bare-numbers",
        "wrong-units",
        "out-of-range",
        "wrong-types",
        "wrong-choice",
        "missing-parameter",
        "comparisons",
        "wrong-version",
        "bad-name",
        "fault-key-synonyms",
        "service-types",
        "service-unknown-keys",
        "service-kubernetes",
    ],
)
def test_what_a_schema_can_see_is_refused_by_it_as_well(name):
    assert errors(value_of(FILES / "bad" / f"{name}.yaml"))


def test_each_kind_has_its_own_parameters():
    file = value_of(FILES / "good" / "scenario.yaml")
    file["faults"] = [{"kind": "replica-kill", "delay": "1s"}]

    assert errors(file) == ["Additional properties are not allowed ('delay' was unexpected)"]
    file["faults"] = [{"kind": "network-delay"}]
    assert errors(file) == ["'delay' is a required property"]


DURATIONS = st.sampled_from(["5s", "0s", "1h30m", "250ms", "1.5s", "2d", "5", 5, "5 s", "-1s", "", None, "99999d", True])
WHOLE = st.sampled_from([0, 1, 3, -1, 1.5, "1", None, True, 2**63])
TEXT = st.sampled_from(["", "x", "a b", 5, None, True, ["x"], "https://example.org"])
BOUND = st.sampled_from([">= 99%", "> 5%", "<= 1s", "<0.5s", "99%", "== 1%", 5, None, "< 20% for 30s", "< 20%"])
FAULT = st.fixed_dictionaries(
    {"kind": st.sampled_from([*sorted(KINDS), "pod-kill"])},
    optional={
        "at": DURATIONS,
        "for": DURATIONS,
        "deadline": DURATIONS,
        "target": st.fixed_dictionaries(
            {}, optional={"role": TEXT, "count": WHOLE, "share": st.sampled_from(["50%", "0%", 0.5, None])}
        ),
        "delay": DURATIONS,
        "size": st.sampled_from(["1GiB", "5B", 5, None, "1.5KB", "0.1B"]),
        "mutation": st.sampled_from(["truncate", "exponent-msb:mlp.0", "exponent-msb:", "truncate:x", "other", None]),
        "inject": st.sampled_from([["sh"], [], "sh", [5]]),
        "facts": TEXT,
        "until": BOUND,
        "when": BOUND,
    },
)
SCENARIO = st.fixed_dictionaries(
    {
        "apiVersion": st.just("blackstart/v1"),
        "kind": st.just("Scenario"),
        "name": st.sampled_from(["x", "a-1", "A", ""]),
        "faults": st.lists(FAULT, max_size=2),
        "objectives": st.fixed_dictionaries({}, optional={"rto": DURATIONS, "quality_loss": WHOLE, "availability": BOUND}),
    },
    optional={
        "title": TEXT,
        "steady_state": st.fixed_dictionaries({}, optional={"hold": DURATIONS, "success": BOUND, "first_token_p95": BOUND}),
        "load": st.fixed_dictionaries({}, optional={"streams": WHOLE, "rate": st.sampled_from(["2/s", "30/m", 2, "2", None])}),
        "abort": st.fixed_dictionaries({}, optional={"success": BOUND}),
        "observe": DURATIONS,
        "rehearses": st.lists(TEXT, max_size=2),
        "other": TEXT,
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SCENARIO)
def test_a_file_that_the_loader_accepts_is_accepted_by_the_schema(tmp_path_factory, value):
    file = tmp_path_factory.getbasetemp() / "property.yaml"
    file.write_text(json.dumps(value), encoding="utf-8")
    try:
        load_files([file], KINDS)
    except InvalidFiles:
        event("refused")
        return
    event("accepted")
    assert errors(value) == []


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries({"kind": st.just("memory-stress")}, optional={"at": st.sampled_from(["0s", "1s", "250ms"])}),
    st.sampled_from([{"rto": "1s"}, {"rpo": "0s", "rto": None}, {"quality_loss": 0}, {"availability": "> 50.5%"}]),
    st.sampled_from([{}, {"load": {"rate": "0.5/s"}}, {"abort": {"success": None}}, {"blast_radius": {"share": "100%"}}]),
)
def test_accepted_files_are_among_those_that_are_tried(tmp_path_factory, fault, objectives, more):
    value = {"apiVersion": "blackstart/v1", "kind": "Scenario", "name": "x", "faults": [fault], "objectives": objectives, **more}
    file = tmp_path_factory.getbasetemp() / "accepted.yaml"
    file.write_text(json.dumps(value), encoding="utf-8")

    load_files([file], KINDS)
    assert errors(value) == []


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("objectives.rto", ["the longest interruption", "a duration (ms, s, m, h, d", "default:  none", "example:  rto: 30s"]),
        ("faults[].at", ["when, from the moment", "a duration", "default:  0s"]),
        ("faults", ["a list", "needed:   yes", "keys:", "kinds:    `command`"]),
        ("observe", ["default:  1m30s"]),
        ("scenario:load.streams", ["a whole number, 0 or more", "default:  0"]),
        ("service:process.components[].port", ["found by the TCP port", "a whole number", "example:  port: 1"]),
        ("endpoint.protocol", ["one of `http`, `kserve-v2`, `openai`", "default:  http"]),
        ("service:roles.engine.command_line", ["a regular expression", "text"]),
        ("replica-kill.target.count", ["how many; by default one", "a whole number, 1 or more"]),
        ("network-delay", ["keys:     `at`, `deadline`, `delay`, `for`, `jitter`"]),
        ("network-delay.delay", ["added to every packet", "needed:   yes"]),
        ("memory-stress.touch", ["true or false", "default:  true"]),
        ("memory-stress.workers", ["a whole number, 1 to 64"]),
        ("model-corrupt.mutation", ["what is damaged", "one of `exponent-msb[:TENSOR]`, `truncate`", "example:  mutation: "]),
        ("abort.success", ['example:  success: "< 20% for 30s"']),
    ],
)
def test_a_field_is_explained_with_type_default_and_example(path, lines):
    text = explain(path, KINDS)

    assert text.startswith(path)
    for line in lines:
        assert line in text


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("objectives.rtoo", "did you mean `rto`"),
        ("faults[].duration", "write `for`"),
        ("network-delay.latency", "write `delay`"),
        ("faults[].delay", "it is a key of one kind of fault: `network-delay.delay`"),
        ("replica-kill.delay", "it is a key of one kind of fault: `network-delay.delay`"),
        ("nowhere", "no `nowhere` here"),
        ("observe.more", "no `more` here"),
    ],
)
def test_a_path_that_does_not_exist_is_refused_with_the_nearest(path, advice):
    with pytest.raises(InvalidFiles) as caught:
        explain(path, KINDS)
    assert advice in str(caught.value)


def paths(schema, node, prefix=""):
    """Every path of a schema, but for the parameters of kinds."""
    node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    for option in node.get("anyOf", ()):
        yield from paths(schema, option, prefix)
    if "items" in node:
        yield from paths(schema, node["items"], f"{prefix}[]")
    for key, inner in node.get("properties", {}).items():
        path = f"{prefix}.{key}" if prefix else key
        yield path
        yield from paths(schema, inner, path)


@pytest.mark.parametrize("which", ["scenario", "service"])
def test_every_field_of_the_schema_is_explained(which):
    schema = json_schema(which, KINDS)
    found = list(paths(schema, schema))

    assert len(found) > 30
    for path in found:
        assert explain(f"{which}:{path}", KINDS)
