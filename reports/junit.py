"""junit.xml for CI servers, in the shape that Jenkins, GitLab and GitHub actions read (Jenkins' junit-10.xsd).

A missed objective is a `failure`. What could not be judged is an `error`: a drill that shows nothing must not look green.
"""

from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ..drills.finished import FinishedRun, InjectedFault
from ..drills.verdict import Verdict
from . import figures
from .cleaning import printable
from .sentence import sentence

_PROBLEMS = ("failure", "error", "skipped")


@dataclass(frozen=True)
class _Case:
    """One line of a CI server's list. `problem` is an element's name, empty when all is well."""

    name: str
    seconds: float
    problem: str = ""
    kind: str = ""
    text: str = ""


def junit(*runs: FinishedRun) -> str:
    """One test suite per run: steady state, each objective, each fault's evidence, each undo, and the drill itself."""
    root = Element("testsuites", {"name": "blackstart"})
    suites = [_suite(root, run) for run in runs]
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    root.set("time", f"{sum(run.ended_s for run in runs):.3f}")
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _suite(root: Element, run: FinishedRun) -> Element:
    cases = [_steady(run), *_objectives(run)]
    for fault in run.faults:
        cases += [_evidence(fault), _undo(fault)]
    cases.append(_completed(run, cases))
    counts = {f"{problem}s" if problem != "skipped" else problem: _count(cases, problem) for problem in _PROBLEMS}
    numbers = {name: str(number) for name, number in {"tests": len(cases), **counts}.items()}
    suite = SubElement(root, "testsuite", {"name": printable(f"blackstart.{run.scenario.name}"), **numbers})
    suite.set("time", f"{run.ended_s:.3f}")
    suite.set("timestamp", run.started_wall)
    properties = SubElement(suite, "properties")
    for name, value in _properties(run).items():
        SubElement(properties, "property", {"name": name, "value": printable(value)})
    for case in cases:
        _append(suite, run, case)
    SubElement(suite, "system-out").text = printable(sentence(run))
    return suite


def _count(cases: list[_Case], problem: str) -> int:
    return sum(case.problem == problem for case in cases)


def _properties(run: FinishedRun) -> dict[str, str]:
    return {
        "run": run.run,
        "verdict": str(run.judgement.verdict),
        "exit_code": str(int(run.judgement.exit_code)),
        "scenario_digest": run.scenario_digest,
        "service": run.service.name,
        "platform": run.service.platform,
        "hardware": run.hardware,
    }


def _append(suite: Element, run: FinishedRun, case: _Case) -> None:
    classname = printable(f"blackstart.{run.service.name}.{run.scenario.name}")
    element = SubElement(suite, "testcase", {"name": printable(case.name), "classname": classname, "time": f"{case.seconds:.3f}"})
    if case.problem == "skipped":
        SubElement(element, "skipped", {"message": printable(case.text, 300)})
    elif case.problem:
        problem = SubElement(element, case.problem, {"message": printable(case.text, 300), "type": case.kind})
        problem.text = printable(case.text)


def _steady(run: FinishedRun) -> _Case:
    baseline = run.measurement.baseline
    name, seconds = "steady state before the fault", max(0.0, baseline.end_s - baseline.start_s)
    if baseline.steady:
        return _Case(name, seconds)
    return _Case(name, seconds, "error", "not-steady", "; ".join(baseline.why_not) or "the service was not steady")


def _objectives(run: FinishedRun) -> list[_Case]:
    cases = []
    for judged in run.judgement.objectives:
        name = f"{judged.name}: {judged.measured} {figures.demanded(judged)}"
        edges = figures.bounds(judged)
        seconds = edges[0] if edges and judged.unit == "s" else 0.0
        text = f"{judged.text} Measured: {figures.measured(judged)}."
        if judged.verdict is Verdict.PASSED:
            cases.append(_Case(name, seconds))
        elif judged.verdict is Verdict.FAILED:
            cases.append(_Case(name, seconds, "failure", "objective-missed", text))
        else:
            cases.append(_Case(name, seconds, "error", str(judged.verdict), text))
    return cases


def _label(fault: InjectedFault) -> str:
    return f"fault {fault.index + 1} {fault.kind}"


def _evidence(fault: InjectedFault) -> _Case:
    name = f"{_label(fault)}: proven to be in effect"
    if fault.injecting_s is not None and fault.effective is not None and fault.evidence is not None:
        return _Case(name, max(0.0, fault.effective[1] - fault.injecting_s))
    text = fault.problem or (
        "no proof that the fault took effect" if fault.injecting_s is not None else "the fault was never injected"
    )
    return _Case(name, 0.0, "error", "no-evidence", text)


def _undo(fault: InjectedFault) -> _Case:
    name = f"{_label(fault)}: undone and proven"
    if fault.injecting_s is None and not fault.undo_problem:
        return _Case(name, 0.0, "skipped", text="the fault was never injected: there is nothing to undo")
    began = fault.recovering_s if fault.recovering_s is not None else 0.0
    seconds = max(0.0, fault.undone[1] - began) if fault.undone is not None else 0.0
    if fault.undo_verified:
        return _Case(name, seconds)
    return _Case(name, seconds, "error", "undo-not-verified", fault.undo_problem or "it is not proven that the fault was undone")


def _completed(run: FinishedRun, cases: list[_Case]) -> _Case:
    """Whatever is not a pass leaves at least one red case, also where the reason belongs to none of the others."""
    verdict, name = run.judgement.verdict, "the drill ran to a verdict"
    told = any(case.problem in {"failure", "error"} for case in cases)
    if verdict is Verdict.PASSED or (verdict in {Verdict.FAILED, Verdict.INCONCLUSIVE} and told):
        return _Case(name, run.ended_s)
    text = "; ".join(reason.text for reason in run.judgement.reasons) or str(verdict)
    return _Case(name, run.ended_s, "failure" if verdict is Verdict.FAILED else "error", str(verdict), text)
