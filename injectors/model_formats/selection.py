"""Which tensors a mutation hits: those where one flip destroys a model, since it is masked nearly everywhere else
(FlipGuard, EMNLP 2025 main.528; BitFlipScope, arXiv 2512.22174).
"""

import difflib
import random
import re
from collections import defaultdict
from collections.abc import Sequence

from .layout import Tensor, Unreadable

STRONG = re.compile(r"mlp|ffn|feed_?forward|hidden|intermediate|c_fc|fc\d|(up|down|gate)_proj", re.IGNORECASE)
NORM = re.compile(r"norm|(^|[._/])ln", re.IGNORECASE)
Rank = tuple[bool, bool, bool, int]


def rank(tensor: Tensor) -> Rank:
    """An MLP weight, else a norm's, else the largest matrix, else the largest there is. Embeddings come last among their like."""
    words = f"{tensor.name} {tensor.hint}"
    matrix = len(tensor.shape) == 2 and "embed" not in words.lower()
    norm = bool(NORM.search(words)) and not tensor.name.endswith("bias")
    return matrix and bool(STRONG.search(words)), norm, matrix, tensor.size


def rank_of_name(name: str) -> tuple[bool, bool]:
    """As far as a name tells, for an index that lists nothing else."""
    strong = bool(STRONG.search(name)) and "embed" not in name.lower() and not name.endswith("bias")
    return strong, bool(NORM.search(name)) and not name.endswith("bias")


def choose(tensors: Sequence[Tensor], wanted: str) -> Tensor:
    """The named tensor of floating-point numbers; without a name the strongest. Raises Unreadable."""
    usable = [each for each in tensors if each.number and each.size >= each.number.stride]
    if wanted:
        for tensor in usable:
            if tensor.name == wanted:
                return tensor
        raise Unreadable(f"no floating-point tensor is named {wanted}{nearest(wanted, [tensor.name for tensor in usable])}")
    if not usable:
        kinds = ", ".join(sorted({tensor.dtype for tensor in tensors}))
        raise Unreadable(f"no tensor holds floating-point numbers or scales that are known here; there are {kinds}")
    return max(usable, key=rank)


def nearest(wanted: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted, names, 1, 0.0)
    return f"; the nearest is {near[0]}" if near else ""


def pair(tensors: Sequence[Tensor], seed: int) -> tuple[Tensor, Tensor]:
    """Two tensors of one file, of the same type and shape, that do not overlap: as when layers are mixed up. Raises Unreadable."""
    alike = defaultdict[tuple[str, str, tuple[int, ...], int], dict[int, Tensor]](dict)
    for tensor in tensors:
        if tensor.size and (tensor.checksum is None or tensor.size == tensor.checksum.size):
            alike[tensor.file, tensor.dtype, tensor.shape, tensor.size].setdefault(tensor.offset, tensor)
    groups = [group for group in alike.values() if len(group) > 1]
    for group in sorted(groups, key=lambda group: max(map(rank, group.values())), reverse=True):
        order = sorted(group.values(), key=lambda tensor: tensor.offset)
        random.Random(seed).shuffle(order)  # noqa: S311 - repeatable, not secret
        first, second = sorted(order[:2], key=lambda tensor: tensor.offset)
        if first.offset + first.size <= second.offset:
            return first, second
    raise Unreadable("no two tensors have the same type and shape, so none could be taken for the other")
