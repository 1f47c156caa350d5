"""JSON Schema of result.json, for scripts in any language. Keys are only ever added, so unknown ones are allowed."""

from typing import Any

from ..drills.measure.anatomy import ORDER
from ..drills.measure.digest_values import HAS, SERVES
from ..drills.verdict import ExitCode, Verdict
from ..injectors.platforms.base import STEPS

SCHEMA_NAME = "blackstart.result/v1"

_Schema = dict[str, Any]
_NUMBER: _Schema = {"type": ["number", "null"]}
_SECONDS: _Schema = {"type": ["number", "null"], "description": "seconds"}
_COUNT: _Schema = {"type": "integer", "minimum": 0}
_SHARE: _Schema = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_TEXT: _Schema = {"type": "string"}
_VERDICT: _Schema = {"enum": [str(verdict) for verdict in Verdict]}
_CLASSES: _Schema = {"type": "object", "additionalProperties": _COUNT, "description": "answers by error class"}


def _object(required: _Schema, optional: _Schema | None = None, description: str = "") -> _Schema:
    schema: _Schema = {"type": "object", "required": list(required), "properties": required | (optional or {})}
    return schema | ({"description": description} if description else {})


def _list(items: _Schema) -> _Schema:
    return {"type": "array", "items": items}


def _or_null(schema: _Schema) -> _Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _pair_of_moments() -> _Schema:
    return _or_null({"type": "array", "items": _SECONDS, "minItems": 2, "maxItems": 2})


_INTERVAL = _object(
    {"lo_s": _SECONDS, "hi_s": _SECONDS}, description="the true value lies within; null above: only a lower bound is known"
)
_BY_SOURCE: _Schema = {"type": "object", "additionalProperties": _or_null(_INTERVAL)}
_EVIDENCE = _object({"source": _TEXT, "detail": _TEXT}, {"facts": {"type": "object"}})


def _objectives() -> _Schema:
    seconds: _Schema = {"properties": {"unit": {"const": "s"}}, "required": ["target_s", "lo_s", "hi_s"]}
    plain: _Schema = {"properties": {"unit": {"enum": ["count", "share"]}}, "required": ["target", "value"]}
    shape = _object(
        {
            "name": _TEXT,
            "relation": {"enum": ["<", "<=", ">", ">="]},
            "unit": {"enum": ["s", "count", "share"]},
            "measured": _TEXT,
            "censored": {"type": "boolean"},
            "verdict": _VERDICT,
            "text": _TEXT,
        },
        {
            "target_s": {"type": "number"},
            "target": {"type": "number"},
            "lo_s": _SECONDS,
            "hi_s": _SECONDS,
            "value": _NUMBER,  # null where it is not known exactly: then `lo` and `hi` bound it
            "lo": _COUNT,
            "hi": _COUNT,
        },
    )
    return _list(shape | {"oneOf": [seconds, plain]})


def _measurements() -> _Schema:
    clock: _Schema = {"clock": {"const": "impact"}, "masked": {"type": "boolean"}, "censored": {"type": "boolean"}}
    recovery = _object({"lo_s": _SECONDS, "hi_s": _SECONDS, **clock})
    counts = dict.fromkeys(("acknowledged", "lost", "duplicated", "corrupt", "indeterminate", "unread"), _COUNT)
    lost = {"oldest_lost": _or_null(_INTERVAL), "newest_survivor": _or_null(_INTERVAL), "lost_ids": _list(_TEXT)}
    quality = _object(
        {"wrong_answers": _COUNT, "checked": _COUNT}, {"first_s": _SECONDS, "last_s": _SECONDS, "backends": _list(_TEXT)}
    )
    availability = _object({"time": _SHARE, "requests": _SHARE, "users": _SHARE}, {"requests_total": _COUNT})
    streams = _object(
        dict.fromkeys(("opened", "completed", "cut", "tokens_lost"), _COUNT),
        {"longest_gap_s": _SECONDS, "at_stake": _or_null(_COUNT)},
    )
    return _object(
        {
            "recovery_time": _or_null(recovery),
            "recovery_time_from_fault": _or_null(_INTERVAL),
            "time_to_redundancy": _or_null(_INTERVAL),
            "time_to_detect": _BY_SOURCE,
            "data_loss": _or_null(_object(counts | {"oldest_lost_s": _SECONDS}, lost)),
            "quality_loss": _or_null(quality),
            "availability": _or_null(availability),
            "streams": _or_null(streams),
            "health_honesty_gap": _BY_SOURCE,
        },
        _digest_figures(),
    )


def _digest_figures() -> _Schema:
    """Only where the lane was on. Open above where replicas still differed when watching ended, or when the fault was undone."""
    single = _object({"lo_s": _SECONDS, "hi_s": _SECONDS, "censored": {"type": "boolean"}})
    mixed = _object({"answers": _COUNT, "lo": _COUNT, "hi": _COUNT})
    return {"time_to_single_digest": _or_null(single), "mixed_answers": _or_null(mixed)}


def _digests() -> _Schema:
    """What each replica had, look by look, and which deviated."""
    kind: _Schema = {"enum": [HAS, SERVES]}
    stretch = _object({"state": {"enum": ["good", "bad", "unknown"]}, "digest": _TEXT, "start_s": _SECONDS, "end_s": _SECONDS})
    row = _object(
        {
            "kind": kind,
            "replica": _TEXT,
            "looks": _COUNT,
            "unknown": _COUNT,
            "longest_gap_s": _SECONDS,
            "stretches": _list(stretch),
        }
    )
    deviation = _object({"kind": kind, "replica": _TEXT, "digest": _TEXT, "since_s": _pair_of_moments(), "differs": _list(_TEXT)})
    skew = _object({"start_s": _pair_of_moments(), "end_s": _pair_of_moments()})
    reference: _Schema = {"type": "object", "additionalProperties": _TEXT, "description": "what every replica should have"}
    seen: _Schema = {"type": "object", "additionalProperties": _COUNT, "description": "how many different ones there were"}
    return _object(
        {"reference": reference, "seen": seen, "skew": _or_null(skew), "replicas": _list(row), "deviations": _list(deviation)}
    )


def _faults() -> _Schema:
    shape = {
        "kind": _TEXT,
        "targets": _list(_TEXT),
        "effective": _or_null(_INTERVAL),
        "evidence": _or_null(_EVIDENCE),
        "undone": {"type": "boolean"},
        "undo_verified": {"type": "boolean"},
    }
    more = {
        "identities": _list(_TEXT),
        "injecting_s": _SECONDS,
        "undone_s": _pair_of_moments(),
        "evidence_before_undo": _or_null(_EVIDENCE),
        "undo_evidence": _or_null(_EVIDENCE),
        "problem": {"type": ["string", "null"]},
        "undo_problem": {"type": ["string", "null"]},
    }
    return _list(_object(shape, more))


def _outages() -> _Schema:
    moments = {"start_s": _pair_of_moments(), "end_s": _pair_of_moments()}
    return _list(_object({"lane": _TEXT, "lo_s": _SECONDS, "hi_s": _SECONDS, **moments, "classes": _CLASSES}, {"flaps": _COUNT}))


def _lanes() -> _Schema:
    counts = dict.fromkeys(("good", "slow", "bad", "void", "blips"), _COUNT)
    times = dict.fromkeys(("latency_median_s", "latency_p95_s", "first_token_p95_s", "slow_limit_s"), _SECONDS)
    return _list(_object({"name": _TEXT, "kind": _TEXT, **counts, **times, "classes": _CLASSES}))


def _anatomy() -> _Schema:
    """Of the recovery: its parts from the fault on, and the steps of every replica that was hit."""
    of = {"of": {"type": ["string", "null"], "description": "whose moment that is: a replica, a lane, a health endpoint"}}
    part = _object(
        {
            "until": {"enum": list(ORDER)},
            **of,
            "start_s": _SECONDS,
            "end_s": _SECONDS,
            "lo_s": _SECONDS,
            "hi_s": _SECONDS,
            "share": _SHARE,
        },
        description="`start_s` and `end_s` are the middles of what is known, `lo_s` and `hi_s` bound how long it took",
    )
    step = _object(
        {"what": {"enum": list(STEPS)}, "name": _TEXT, "identity": _TEXT, "at_s": _pair_of_moments()},
        {"service": {"type": ["string", "null"]}},
    )
    return _object({"parts": _list(part), "steps": _list(step)})


def _load() -> _Schema:
    """Where several pods give it: short requests from the baseline on, streams from the first fault on."""
    pod = _object(
        {"pod": _TEXT, "asked": _COUNT, "sent": _COUNT, "good_share": _SHARE, "why_not": {"type": ["string", "null"]}},
        dict.fromkeys(("streams_opened", "streams_cut"), _or_null(_COUNT)),
    )
    counts = dict.fromkeys(("pods", "asked", "sent", "streams_opened", "streams_cut"), _COUNT)
    return _object({**counts, "good_share": _SHARE, "per_pod": _list(pod)})


def _clock() -> _Schema:
    late = {"prober_late_p50_s": _SECONDS, "prober_late_max_s": _SECONDS, "clock_step_s": _SECONDS}
    late |= {"clock_uncertainty_s": _SECONDS, "measured_from": {"enum": ["here", "in-cluster", "in-network"]}}
    trust = {"coverage": _SHARE, "void_share": _SHARE, "trusted": {"type": "boolean"}, "why_not": _list(_TEXT)}
    return _object({"prober_period_s": _SECONDS, "prober_late_p99_s": _SECONDS}, late | trust)


def result_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of `blackstart.result/v1`."""
    digest: _Schema = {"type": "string", "pattern": "^sha256:"}
    required = {
        "schema": {"const": SCHEMA_NAME},
        "run": _TEXT,
        "verdict": _VERDICT,
        "exit_code": {"enum": [int(code) for code in ExitCode if code is not ExitCode.USAGE]},
        "reasons": _list(
            _object({"code": _TEXT, "text": _TEXT}, {"figure": _TEXT}, "`figure` names what is null, where the text says why")
        ),
        "scenario": _object({"name": _TEXT, "digest": digest}, {"title": _TEXT}),
        "service": _object({"name": _TEXT, "platform": {"enum": ["kubernetes", "docker", "process"]}}),
        "hardware": _TEXT,
        "objectives": _objectives(),
        "measurements": _measurements(),
        "faults": _faults(),
        "outages": _outages(),
        "clock": _clock(),
        "environment": {"type": "object", "additionalProperties": _TEXT},
    }
    optional = {
        "started": {"type": "string", "format": "date-time"},
        "ended_s": _SECONDS,
        "anatomy": _anatomy(),
        "lanes": _lanes(),
        "load": _or_null(_load()),
        "digests": _or_null(_digests()),
        "baseline": _object({"start_s": _SECONDS, "end_s": _SECONDS, "steady": {"type": "boolean"}, "why_not": _list(_TEXT)}),
        "journal": _object({"intact": {"type": "boolean"}, "records": _COUNT, "head": {"type": ["string", "null"]}}),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "result.json of a blackstart drill",
        **_object(
            required, optional, "Times in `_s` are seconds on the drill's monotonic clock (0: the drill's start) or durations."
        ),
    }
