"""Layouts are read inside a container by look.py as they are read here, and with few questions: each is a process there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from blackstart.injectors import look
from blackstart.injectors.base import Refusal
from blackstart.injectors.model_formats.layout import LocalFiles, Unreadable
from blackstart.injectors.model_formats.mutations import MUTATIONS, Request, jobs
from blackstart.injectors.platforms.base import PlatformError, Target
from blackstart.injectors.platforms.looked_contents import AT_ONCE, LookedContents
from blackstart.injectors.seen_files import seen_by
from blackstart.injectors.values import JSON
from blackstart.tests.unit import models

VICTIM = Target("pid:1@1", "r0", "replica")


class Looking(LookedContents):
    """look.py as a process, as a platform pipes it."""

    name = "elsewhere"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def _look(self, target: Target, verb: str, **request: object) -> JSON:
        assert target is VICTIM
        self.asked.append(verb)
        done = subprocess.run(
            [sys.executable, look.__file__, verb, json.dumps(request)], capture_output=True, text=True, check=True
        )
        answer: JSON = json.loads(done.stdout)
        if "error" in answer:
            raise PlatformError(answer["error"])
        return answer


@pytest.mark.parametrize("kind", ["safetensors", "gguf", "onnx", "external", "pytorch", "sharded"])
def test_the_same_is_found_with_few_questions(tmp_path: Path, kind: str) -> None:
    if kind == "sharded":
        models.write_sharded(tmp_path)
        models.write_tokenizer(tmp_path)
    elif kind in {"onnx", "external"}:
        models.write_onnx(tmp_path / "model.onnx", external=kind == "external")
    else:
        {"safetensors": models.write_safetensors, "gguf": models.write_gguf, "pytorch": models.write_pytorch}[kind](
            tmp_path / {"safetensors": "model.safetensors", "gguf": "model.gguf", "pytorch": "model.pt"}[kind]
        )
    (tmp_path / "folder").mkdir()
    for mutation in set(MUTATIONS) - {"stale-version"}:
        request = Request(mutation, str(tmp_path), 1)
        try:
            expected = jobs(request, LocalFiles())
        except Unreadable:
            continue
        platform = Looking()
        assert jobs(request, seen_by(VICTIM, platform)) == expected, mutation  # type: ignore[arg-type]
        assert platform.asked.count("listing") <= 2
        assert len(platform.asked) <= 6, (mutation, platform.asked)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    files = seen_by(VICTIM, Looking())  # type: ignore[arg-type]
    for path, why in (("no.gguf", "No such file"), ("link", "a link to nothing"), ("no/such", "No such file or directory")):
        with pytest.raises(Unreadable, match=why):
            files.source(str(tmp_path / path))


def test_many_folders_are_listed_in_few_questions(tmp_path: Path) -> None:
    for number in range(AT_ONCE + 1):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file").write_text("four")
    platform, folders = Looking(), [str(tmp_path / str(number)) for number in range(AT_ONCE + 1)]
    assert platform.listings(VICTIM, [*folders, str(tmp_path / "nowhere")]) == [{"file": 4}] * (AT_ONCE + 1) + [None]
    assert platform.asked == ["listings"] * 2


def test_a_platform_that_cannot_look_is_named() -> None:
    class Blind:
        name = "blind"

    with pytest.raises(Refusal, match="platform blind cannot read parts of a file or list a folder"):
        seen_by(VICTIM, Blind())  # type: ignore[arg-type]
