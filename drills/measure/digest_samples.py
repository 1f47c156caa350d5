"""Reads what the digest lane wrote: a look, or what a digest is made of, a line."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .digest_values import DigestSample
from .samples import raw_lines

DIGESTS = "samples/digests.jsonl"  # in a run's folder


@dataclass(frozen=True)
class DigestSamples:
    """All looks, in order; of each digest that was read, file or FILE:TENSOR -> its own; the sha256 of all that was written."""

    looks: tuple[DigestSample, ...]
    contents: Mapping[str, Mapping[str, str]]
    digest: str


def read_digests(run: Path) -> DigestSamples:
    """None of them where the lane was off."""
    lines, digest = raw_lines(run / DIGESTS)
    looks = tuple(DigestSample(**line) for line in lines if "kind" in line)
    return DigestSamples(looks, {line["digest"]: line["contents"] for line in lines if "contents" in line}, digest)
