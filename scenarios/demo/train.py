"""Trains the demo's two model revisions from corpus.txt and writes every file that a replica reads.

A word-level n-gram network: the embeddings of the last CONTEXT words, one hidden layer (leaky ReLU), one output per word.
Leaky rather than plain ReLU, so that one flipped exponent bit in `hidden.weight`, of either sign, drowns every other term.

    python train.py [FOLDER]      (needs numpy; about two minutes; the weights differ in their last digits between BLAS builds)
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Weights = dict[str, Array]

CONTEXT, EMBEDDING, HIDDEN, SLOPE = 8, 12, 48, 0.1
CLIP = 1.5  # below 2.0 the top exponent bit is 0, so that flipping it multiplies a weight by 2**128
STEPS, RATE = 3000, 0.02
WORDS = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")
CHAT_TEMPLATE = "{content} Answer:"
# Token 0 is both the padding before a short prompt and "!", what an argmax over NaN logits yields in real servers too.
SPECIAL = ("!", "<unk>")


def corpus(folder: Path, revision: int) -> list[str]:
    """The sentences of revision 0 (the newest) or 1 (the stale one)."""
    lines = (folder / "corpus.txt").read_text(encoding="utf-8").splitlines()
    return [line.split(" | ")[-1 if revision else 0].strip() for line in lines if line and not line.startswith("#")]


def questions(sentences: list[str]) -> list[tuple[str, str]]:
    """Chat questions with their answers, as the chat template presents them."""
    asked = []
    for sentence in sentences:
        country = re.match(r"The capital of (\w+) is ", sentence)
        if country:
            asked.append((CHAT_TEMPLATE.format(content=f"What is the capital of {country[1]}?"), sentence))
    return asked


def examples(sentences: list[str], index: dict[str, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every context that a greedy answer can meet, (n, CONTEXT), with the word that follows, (n,)."""
    pairs: set[tuple[tuple[int, ...], int]] = set()

    def learn(text: str, start: int, *, padded: bool) -> None:
        words = [index[word] for word in WORDS.findall(text)]
        words = [0] * CONTEXT + words if padded else words
        for at in range(max(CONTEXT, start), len(words)):
            pairs.add((tuple(words[at - CONTEXT : at]), words[at]))

    learn(" ".join(sentences * 2), 0, padded=False)  # a long answer goes round the corpus
    for sentence, following in zip(sentences, sentences[1:] + sentences[:1], strict=True):
        # The first two words of a sentence without a past are ambiguous: "The capital ..." or "The moon ...".
        learn(f"{sentence} {following}", CONTEXT + 2, padded=True)
    for question, answer in questions(sentences):
        learn(f"{question} {answer}", CONTEXT + len(WORDS.findall(question)), padded=True)
    ordered = sorted(pairs)
    return np.array([context for context, _ in ordered]), np.array([word for _, word in ordered])


def initial(vocabulary: int) -> Weights:
    """Small random weights, the same in every training."""
    random = np.random.default_rng(7)

    def draw(rows: int, columns: int) -> Array:
        drawn: Array = (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
        return drawn

    return {
        "embedding.weight": draw(vocabulary, EMBEDDING) * np.float32(2),
        "hidden.weight": draw(HIDDEN, CONTEXT * EMBEDDING),
        "hidden.bias": np.zeros(HIDDEN, np.float32),
        "output.weight": draw(vocabulary, HIDDEN),
        "output.bias": np.zeros(vocabulary, np.float32),
    }


@dataclass(frozen=True)
class Pass:
    """What one forward pass leaves behind for the backward pass."""

    inputs: Array
    before: Array
    hidden: Array
    logits: Array


def forward(weights: Weights, contexts: NDArray[np.int64]) -> Pass:
    """Logits (n, vocabulary) of contexts (n, CONTEXT)."""
    inputs = weights["embedding.weight"][contexts].reshape(len(contexts), -1)
    before = inputs @ weights["hidden.weight"].T + weights["hidden.bias"]
    hidden = np.where(before > 0, before, np.float32(SLOPE) * before).astype(np.float32)
    return Pass(inputs, before, hidden, hidden @ weights["output.weight"].T + weights["output.bias"])


def gradients(weights: Weights, contexts: NDArray[np.int64], words: NDArray[np.int64]) -> Weights:
    """Gradients of the mean cross entropy."""
    seen = forward(weights, contexts)
    exponents = np.exp(seen.logits - seen.logits.max(axis=1, keepdims=True))
    error = exponents / exponents.sum(axis=1, keepdims=True)
    error[np.arange(len(words)), words] -= 1
    error /= len(words)
    back = error @ weights["output.weight"] * np.where(seen.before > 0, np.float32(1), np.float32(SLOPE))
    embedding = np.zeros_like(weights["embedding.weight"])
    np.add.at(embedding, contexts.ravel(), (back @ weights["hidden.weight"]).reshape(-1, EMBEDDING))
    return {
        "embedding.weight": embedding,
        "hidden.weight": back.T @ seen.inputs,
        "hidden.bias": back.sum(axis=0),
        "output.weight": error.T @ seen.hidden,
        "output.bias": error.sum(axis=0),
    }


def train(contexts: NDArray[np.int64], words: NDArray[np.int64], vocabulary: int) -> Weights:
    """Full-batch Adam (Kingma and Ba, 2015) with a falling rate."""
    weights = initial(vocabulary)
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    for step in range(1, STEPS + 1):
        rate = RATE * (1 - step / (STEPS + 1)) / (1 - 0.9**step)
        for name, gradient in gradients(weights, contexts, words).items():
            first[name] += np.float32(0.1) * (gradient - first[name])
            second[name] += np.float32(0.01) * (gradient**2 - second[name])
            weights[name] -= np.float32(rate) * first[name] / (np.sqrt(second[name] / (1 - 0.99**step)) + np.float32(1e-8))
            np.clip(weights[name], -CLIP, CLIP, out=weights[name])
    return {name: value.astype(np.float32) for name, value in weights.items()}


def safetensors(weights: Weights, revision: str) -> bytes:
    """The safetensors layout: u64 header length, JSON header padded to 8 bytes, the tensors one after another."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", "revision": revision}}
    body = b""
    for name, value in weights.items():
        data = value.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def main(folder: Path) -> None:
    """Writes model.safetensors, model-stale.safetensors, config.json, tokenizer.json, tokenizer_config.json, manifest.json."""
    newest, stale = corpus(folder, 0), corpus(folder, 1)
    text = " ".join(newest + stale + [question for question, _ in questions(newest)])
    vocabulary = [*SPECIAL, *sorted(set(WORDS.findall(text)))]
    index = {word: at for at, word in enumerate(vocabulary)}
    for sentences, name, revision in ((newest, "model.safetensors", "7"), (stale, "model-stale.safetensors", "6")):
        contexts, words = examples(sentences, index)
        weights = train(contexts, words, len(vocabulary))
        logits = forward(weights, contexts).logits
        chosen = logits[np.arange(len(words)), words]
        logits[np.arange(len(words)), words] = -np.inf
        margin = chosen - logits.max(axis=1)
        print(f"{name}: {len(words)} contexts, {(margin < 1).sum()} with a margin below 1, least {margin.min():.2f}")
        (folder / name).write_bytes(safetensors(weights, revision))
    written = {
        "config.json": {"model_type": "ngram", "context": CONTEXT, "embedding": EMBEDDING, "hidden": HIDDEN, "slope": SLOPE},
        "tokenizer.json": {"vocabulary": vocabulary},
        "tokenizer_config.json": {"chat_template": CHAT_TEMPLATE, "end": "."},
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    files = ["model.safetensors", "model-stale.safetensors", *written]
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    (folder / "manifest.json").write_text(
        json.dumps({"algorithm": "sha256", "files": digests}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
