"""Records what right answers are, before the drill."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..service import Golden, Service
from . import prober
from .lanes import ProbingError, asking, golden_config, light_url, service_url

ASK_S = 60.0  # a golden question before the drill: the model may still be loading
PATIENCE_S = 5.0  # with one question: servers exist that never answer what they were asked while they started
AGAIN_S = 0.2  # between two questions that were not answered right
RECORD_S = 5.0  # for one right answer to be recorded, whatever goes wrong on the way

Fetch = Callable[[prober.Request, float], bytes]  # gets an answer within so many seconds; raises OSError, prober.Malformed


def record_golden(service: Service, fetch: Fetch = prober.fetched) -> Service:
    """The service with an expected answer to each golden question: one that has none is asked three times, from where it is probed.

    The three answers must be equal, and right by every part of the success rule. Raises ProbingError. Protocol http is left
    as it is: a question without `json` is judged by its status.
    """
    if service.endpoint.protocol == "http":
        return service
    return replace(service, golden=tuple(_with_answer(service, entry, fetch) for entry in service.golden))


def await_right(service: Service, replicas: Sequence[str], limit_s: float) -> bool:
    """Ask a service that was just started, and each replica (base URL), until all is answered right once; False: not in time."""
    light = light_url(service)
    waiting = [prober.Question(prober.request_to(light), prober.judge_status)]
    for url in (service_url(service), *replicas):
        waiting += prober.questions({**asking(service), "url": url})
    end_s = time.monotonic() + limit_s
    while waiting and (left_s := end_s - time.monotonic()) > 0:
        try:
            _ask(waiting[0], prober.fetched, min(left_s, PATIENCE_S))
        except ProbingError:
            time.sleep(AGAIN_S)
        else:
            waiting.pop(0)
    return not waiting


def _with_answer(service: Service, entry: Golden, fetch: Fetch) -> Golden:
    if entry.text is not None or entry.outputs:
        return entry
    lane = {**asking(service), "golden": [golden_config(entry)], "url": service_url(service)}
    question = prober.questions(lane)[0]
    answers = [_asked_patiently(question, fetch) for _ in range(3)]
    if service.endpoint.protocol == "kserve-v2":
        outputs = [tuple({"name": o["name"], "data": o["data"]} for o in json.loads(a.body)["outputs"]) for a in answers]
        again = {"outputs": list(outputs[0]), "tolerance": entry.tolerance}
        if any(prober.judge_inference(answer, "", again) is not prober.OK for answer in answers):
            raise ProbingError(f"{_named(entry)}: three answers differ by more than tolerance {entry.tolerance}")
        return replace(entry, outputs=outputs[0])
    texts = [prober.completion_in(json.loads(answer.body))[0] for answer in answers]
    if len(set(texts)) > 1:
        raise ProbingError(f"{_named(entry)}: three answers differ, so none can be called right: {texts}")
    return replace(entry, text=texts[0])


def _asked_patiently(question: prober.Question, fetch: Fetch) -> prober.AnswerParser:
    """One right answer. A single failure is no unsteadiness yet: the baseline, which follows, decides about that."""
    end_s = time.monotonic() + RECORD_S
    while True:
        try:
            return _ask(question, fetch)
        except ProbingError:
            if time.monotonic() >= end_s:
                raise
        time.sleep(AGAIN_S)


def _named(entry: Golden) -> str:
    return f"golden question {entry.prompt or entry.request or entry.inputs!r}"


def _ask(question: prober.Question, fetch: Fetch, limit_s: float = ASK_S) -> prober.AnswerParser:
    """One right answer, by the same code that judges probes."""
    target, answer = question.request.target, prober.AnswerParser()
    try:
        answer.feed(fetch(question.request, limit_s))
    except (OSError, prober.Malformed) as error:
        raise ProbingError(f"{target.host}:{target.port} did not answer a golden question: {error}") from error
    if not answer.eof():
        raise ProbingError(f"{target.host}:{target.port} ended its answer to a golden question before it was complete")
    verdict = question.judge(answer)
    if verdict is not prober.OK:
        hint = "; a part of the success rule that this server never fulfils can be switched off under `success:`"
        raise ProbingError(f"a golden question was not answered right: {verdict.outcome}: {verdict.detail}{hint}")
    return answer
