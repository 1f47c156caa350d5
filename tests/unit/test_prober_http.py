"""The prober's HTTP parser against h11 as the oracle: whatever the bytes and however they are split, both say the same."""

import itertools
from typing import Any, NamedTuple

import h11
import pytest
from blackstart.drills.measure.prober import MAX_BODY, MAX_HEADER, AnswerParser, Malformed, joined, request_to
from hypothesis import given, settings
from hypothesis import strategies as st


class Reading(NamedTuple):
    """What a parser makes of an answer after which the peer closes."""

    verdict: str  # complete, incomplete, malformed
    status: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    keep_alive: bool = False


def ours(pieces: list[bytes]) -> Reading:
    parser = AnswerParser()
    try:
        for piece in pieces:
            parser.feed(piece)
    except Malformed:
        return Reading("malformed")
    if not parser.eof():
        return Reading("incomplete")
    keep = parser.keep_alive and parser.done
    return Reading("complete", parser.status, tuple(sorted(parser.headers.items())), bytes(parser.body), keep)


def merged(headers: Any) -> tuple[tuple[bytes, bytes], ...]:
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        found[name] = found[name] + b"," + value if name in found else value
    return tuple(sorted(found.items()))


def oracle(pieces: list[bytes]) -> Reading:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    response: h11.Response | None = None
    body = b""
    try:
        for piece in [*pieces, b""]:
            if connection.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED):
                break
            if not piece and response is None:
                return Reading("incomplete")
            connection.receive_data(piece)
            while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Response):
                    response = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    assert response is not None
                    keep = connection.their_state is h11.DONE and piece != b""
                    return Reading("complete", response.status_code, merged(response.headers), body, keep)
    except h11.RemoteProtocolError as error:
        cut = "without sending complete" in str(error) or "unexpectedly closed" in str(error)
        return Reading("incomplete" if cut else "malformed")
    return Reading("incomplete")


EOL = st.sampled_from([b"\r\n", b"\r\n", b"\n"])
TOKEN = st.sampled_from(
    [b"x-backend", b"X-Served-By", b"content-type", b"Connection", b"Content-Length", b"Transfer-Encoding", b"a!"]
)
VALUE = st.sampled_from([b"close", b"keep-alive", b"chunked", b"3", b"3, 3", b"4", b"", b"a \t b", b"\xff", b"gzip", b"x,Close"])
HEADER = st.tuples(TOKEN, st.sampled_from([b":", b": ", b":\t"]), VALUE, st.sampled_from([b"", b" "]))
BODY = st.binary(max_size=40)


@st.composite
def heads(draw: Any, framing: bytes) -> bytes:
    eol = draw(EOL)
    status = draw(st.sampled_from([b"200 OK", b"200", b"503 Service Unavailable", b"204 No Content", b"304 X", b"429 "]))
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]))
    lines = [version + b" " + status, framing]
    lines += [b"".join(header) for header in draw(st.lists(HEADER, max_size=2))]
    lines += draw(st.sampled_from([[], [], [b" folded"]]))
    return eol.join(line for line in lines if line) + eol + eol


@st.composite
def answers(draw: Any) -> bytes:
    interim = draw(st.sampled_from([b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"]))
    kind = draw(st.sampled_from(["counted", "chunked", "until the end"]))
    body = draw(BODY)
    if kind == "counted":
        return interim + draw(heads(b"Content-Length: %d" % len(body))) + body
    if kind == "until the end":
        return interim + draw(heads(b"")) + body
    chunks = b""
    for piece in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4)):
        extension = draw(st.sampled_from([b"", b"", b";a=b", b" "]))
        chunks += b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
    trailer = draw(st.sampled_from([b"", b"x-end: 1\r\n"]))
    return interim + draw(heads(b"Transfer-Encoding: chunked")) + chunks + b"0\r\n" + trailer + b"\r\n"


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


CUTS = st.lists(st.integers(min_value=0, max_value=400), max_size=6)


@given(answers(), CUTS, st.sampled_from([b"", b"", b"surplus"]))
@settings(max_examples=250, deadline=None)
def test_reads_answers_as_h11_does(data: bytes, cuts: list[int], surplus: bytes) -> None:
    pieces = split(data + surplus, cuts)
    assert ours(pieces) == oracle(pieces)


@given(answers(), CUTS, st.data())
@settings(max_examples=500, deadline=None)
def test_agrees_with_h11_on_damaged_answers(data: bytes, cuts: list[int], draw: st.DataObject) -> None:
    place = draw.draw(st.integers(0, max(0, len(data) - 1)))
    patch = draw.draw(st.one_of(st.binary(max_size=3), st.sampled_from([b"\r\n", b"\n", b" ", b"\x00", b":", b"0"])))
    removed = draw.draw(st.integers(0, 3))
    damaged = data[:place] + patch + data[place + removed :]
    pieces = split(damaged, cuts)
    assert ours(pieces) == oracle(pieces)


@given(answers(), st.integers(min_value=0))
@settings(max_examples=150, deadline=None)
def test_agrees_with_h11_on_answers_cut_short(data: bytes, cut: int) -> None:
    pieces = [data[: cut % (len(data) + 1)]]
    assert ours(pieces) == oracle(pieces)


@given(st.binary(max_size=200), CUTS)
@settings(max_examples=150, deadline=None)
def test_agrees_with_h11_on_noise(data: bytes, cuts: list[int]) -> None:
    pieces = split(data, cuts)
    assert ours(pieces) == oracle(pieces)


@pytest.mark.parametrize(
    "flood",
    [
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (MAX_HEADER // 6),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * (MAX_HEADER + 1),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY + 1),
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY + 1) + b"x" * (MAX_BODY + 1),
    ],
    ids=["headers", "chunk-header", "body", "counted-body"],
)
def test_a_flood_is_refused(flood: bytes) -> None:
    parser = AnswerParser()
    with pytest.raises(Malformed, match="of more than"):
        parser.feed(flood)


def test_a_request_is_read_by_h11_as_it_was_meant() -> None:
    data = request_to("http://user:secret@example.org:81/a?b=c", "POST", {"id": "1"}, keep=True).data
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    request, body = server.next_event(), server.next_event()
    assert isinstance(request, h11.Request)
    assert isinstance(body, h11.Data)
    assert (request.method, request.target) == (b"POST", b"/a?b=c")
    assert dict(request.headers)[b"host"] == b"example.org:81"
    assert bytes(body.data) == b'{"id": "1"}'


def test_a_base_with_v1_shares_it() -> None:
    assert joined("http://h:1/v1/", "/v1/models") == "http://h:1/v1/models"
    assert joined("http://h:1/team", "/v1/models") == "http://h:1/team/v1/models"
