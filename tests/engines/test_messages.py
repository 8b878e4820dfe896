"""Messages between processes of one host: never waiting for the receiver, intact, fair, and leaving nothing behind."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy

from harness import Codec
from harness.core.errors import PluginError
from harness.engines.processes.slots import make_slot_file

torch = lazy("torch")
messages = lazy("harness.engines.real.messages")
flat = lazy("harness.engines.shared.flat")
encoding = lazy("harness.engines.shared.encoded")


def make_posts(
    addresses: list[int], parameters: int = 3, buffers: int = 0, dtype: str = "float32"
) -> dict[int, messages.Post]:
    """Connect every pair of addresses, as the supervisor does."""
    kind = getattr(torch, dtype)
    num_bytes = (parameters + buffers) * kind.itemsize
    posts = {a: messages.Post({}, (parameters, buffers), kind) for a in addresses}
    for i, a in enumerate(addresses):
        for b in addresses[i + 1 :]:
            at_a, at_b = Pipe()
            there, back = make_slot_file(), make_slot_file()
            posts[a].peers[b] = messages.NearPeer(
                b, at_a, messages.Slots(there, num_bytes), messages.Slots(back, num_bytes)
            )
            posts[b].peers[a] = messages.NearPeer(
                a, at_b, messages.Slots(os.dup(back), num_bytes), messages.Slots(os.dup(there), num_bytes)
            )
    return posts


@pytest.fixture
def posts():
    """Return a function that connects addresses; pipes are closed at the end."""
    made: list[messages.Post] = []

    def make(addresses: list[int], **shape: object) -> dict[int, messages.Post]:
        group = make_posts(addresses, **shape)
        made.extend(group.values())
        return group

    yield make
    for post in made:
        for peer in post.peers.values():
            peer.connection.close()
            os.close(peer.outgoing._descriptor)
            os.close(peer.incoming._descriptor)


def send(post: messages.Post, to: int, value: object, stop: bool = False) -> int:
    return post.send(to, value, time.monotonic(), stop)


def take(post: messages.Post, source: int | None = None, leavers: bool = False):
    """Receive without ever blocking: what is not here after a pump of everything will not come."""
    while post.pump(0):
        pass
    over, parcel = post.match(source, leavers)
    assert over, "nothing has arrived"
    return parcel


def value_of(*numbers: float, **fields: object) -> flat.Flat:
    return flat.Flat([torch.tensor(numbers)], **fields)


# -- sending never waits -----------------------------------------------------------------------------------------------


class Tenths(Codec):
    """Whole tenths in one byte each, and how many there are."""

    def __init__(self, unit: float) -> None:
        self.unit = unit

    def encode(self, layer, name):
        return (layer / self.unit).round().to(torch.int8), torch.tensor(layer.numel())

    def decode(self, parts, shape, name):
        return parts[0] * self.unit


def test_an_encoded_value_arrives_with_what_decodes_it(posts):
    group = posts([0, 1], parameters=40, buffers=1)
    value = flat.Flat([torch.linspace(-4, 4, 40)], torch.tensor([7.0]), num_samples=3, version=2, loss=0.5)
    value.origin = (1, 9)
    layers = {"a": value.vector()[:30].view(5, 6), "b": value.vector()[30:]}
    group[1].form = encoding.Form({"a": torch.Size([5, 6]), "b": torch.Size([10])}, torch.empty(0))
    encoded = encoding.encode(value, layers, Tenths(0.1))
    assert send(group[0], 1, encoded) > encoded.num_bytes == 40 + 2 * 8 + 4
    found = take(group[1]).value
    assert found.codec.unit == 0.1
    assert found.tensor().tolist() == encoded.tensor().tolist()
    assert (found.num_samples, found.version, found.loss, found.origin) == (3, 2, 0.5, (1, 9))
    assert found.buffers.tolist() == [7.0]
    assert found.parts["a"][0].dtype == torch.int8


def test_an_encoded_value_that_does_not_fit_is_refused_before_it_takes_a_slot(posts):
    group = posts([0, 1], parameters=1200)
    value = flat.Flat([torch.zeros(1200)])
    layers = {str(k): part for k, part in enumerate(value.vector().split(4))}  # more description than numbers
    with pytest.raises(PluginError, match="more than the 8192 that the value itself may take"):
        send(group[0], 1, encoding.encode(value, layers, Tenths(0.1)))
    assert send(group[0], 1, value) > 4800


def test_send_does_not_wait_for_a_receiver_that_reads_nothing(posts):
    a, b = posts([0, 1]).values()
    for k in range(50):
        send(a, 1, value_of(k, k, k))
    assert [take(b).value.tensor()[0].item() for _ in range(50)] == list(range(50))


def test_slots_are_used_again_once_they_have_been_read(posts):
    a, b = posts([0, 1]).values()
    for k in range(50):
        send(a, 1, value_of(k, k, k))
        assert take(b).value.tensor()[0] == k
    assert len(a.peers[1].outgoing._maps) == 1


def test_unread_values_are_not_overwritten_when_the_sender_changes_its_weights(posts):
    a, b = posts([0, 1]).values()
    weights = torch.ones(3)
    send(a, 1, flat.Flat([weights]))
    weights.zero_()
    assert take(b).value.tensor().tolist() == [1, 1, 1]


def test_a_value_taken_does_not_change_when_its_slot_is_filled_again(posts):
    a, b = posts([0, 1]).values()
    send(a, 1, value_of(1, 1, 1))
    first = take(b).value
    send(a, 1, value_of(2, 2, 2))
    assert take(b).value.tensor().tolist() == [2, 2, 2]
    assert first.tensor().tolist() == [1, 1, 1]


# -- values arrive intact ----------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    parameters=st.integers(1, 5000),
    buffers=st.integers(0, 70),
    pieces=st.integers(1, 4),
    dtype=st.sampled_from(["float32", "float64", "bfloat16"]),
    seed=st.integers(0, 99),
)
def test_values_of_any_size_arrive_bit_for_bit(parameters, buffers, pieces, dtype, seed):
    a, b = make_posts([0, 1], parameters, buffers, dtype).values()
    generator, kind = torch.Generator().manual_seed(seed), getattr(torch, dtype)
    vector = torch.randn(parameters, generator=generator).to(kind)
    held = torch.randn(buffers, generator=generator).to(kind) if buffers else None
    sent = flat.Flat(list(vector.tensor_split(pieces)), held, num_samples=seed, version=7, loss=torch.tensor(0.5))
    sent.origin = (3, 11)
    num_bytes = send(a, 1, sent)
    got = take(b).value
    assert torch.equal(got.tensor(), vector)
    assert (got.buffers is None) if held is None else torch.equal(got.buffers, held)
    assert (got.num_samples, got.version, got.loss, got.origin) == (seed, 7, 0.5, (3, 11))
    assert num_bytes >= (parameters + buffers) * kind.itemsize
    for post in (a, b):
        for peer in post.peers.values():
            peer.connection.close()
            os.close(peer.outgoing._descriptor)
            os.close(peer.incoming._descriptor)


def test_pieces_in_the_shape_of_parameters_arrive_as_one_vector(posts):
    a, b = posts([0, 1], parameters=6).values()
    send(a, 1, flat.Flat([torch.arange(4.0).view(2, 2), torch.tensor([4.0, 5.0])]))
    assert take(b).value.tensor().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", [None, 3, 2.5, "text", [1, 2], {"round": 4}])
def test_plain_values_arrive_as_they_were(posts, value):
    a, b = posts([0, 1]).values()
    send(a, 1, value)
    assert take(b).value == value


def test_a_value_without_a_loss_has_none_at_the_receiver_either(posts):
    """Weights and scaled gradients have no loss; one that is no number would read as divergence at a server."""
    a, b = posts([0, 1]).values()
    send(a, 1, value_of(1, 2, 3))
    send(a, 1, value_of(1, 2, 3, loss=float("nan")))
    assert take(b).value.loss is None
    assert math.isnan(take(b).value.loss)


def test_the_stop_travels_with_a_message(posts):
    a, b = posts([0, 1]).values()
    send(a, 1, None)
    send(a, 1, None, stop=True)
    assert [take(b).stop, take(b).stop] == [False, True]


# -- order and fairness ------------------------------------------------------------------------------------------------


def test_a_fast_sender_does_not_starve_the_others(posts):
    group = posts([-1, 0, 1])
    for k in range(10):
        send(group[0], -1, k)
    send(group[1], -1, "the slow one's only message")
    order = [take(group[-1]).source for _ in range(11)]
    assert order.index(1) <= 1
    assert group[-1].taken == order


def test_messages_of_one_sender_keep_their_order_and_wait_for_the_source_that_is_asked(posts):
    group = posts([-1, 0, 1])
    send(group[0], -1, "first of 0")
    send(group[0], -1, "second of 0")
    send(group[1], -1, "first of 1")
    assert take(group[-1], source=1).value == "first of 1"
    assert [take(group[-1]).value for _ in range(2)] == ["first of 0", "second of 0"]


def test_a_receive_is_not_over_while_somebody_may_still_send(posts):
    group = posts([-1, 0])
    assert not group[-1].pump(0)
    assert group[-1].match(None, False) == (False, None)


def test_poll_takes_all_that_is_here_and_keeps_notices_of_leaving(posts):
    group = posts([-1, 0, 1])
    send(group[0], -1, "a")
    send(group[1], -1, "b")
    group[0].leave()
    assert sorted(p.value for p in group[-1].poll()) == ["a", "b"]
    assert group[-1].poll() == []
    assert group[-1].taken[2:] == [None, None]  # each poll ends with one, which a replay needs
    assert take(group[-1], leavers=True).leaves


# -- leaving -----------------------------------------------------------------------------------------------------------


def test_messages_of_a_leaver_are_taken_before_it_counts_as_gone(posts):
    group = posts([-1, 0])
    send(group[0], -1, "last words")
    group[0].leave()
    assert take(group[-1]).value == "last words"
    assert take(group[-1]) is None
    assert group[-1].gone == {0}


def test_leavers_are_reported_to_who_asks_and_to_nobody_else(posts):
    group = posts([-1, 0, 1])
    group[0].leave()
    parcel = take(group[-1], leavers=True)
    assert (parcel.source, parcel.leaves, parcel.value) == (0, True, None)
    group[1].leave()
    assert take(group[-1]) is None


def test_a_receive_from_one_that_has_left_is_over_while_others_stay(posts):
    group = posts([-1, 0, 1])
    group[0].leave()
    assert take(group[-1], source=0) is None
    assert group[-1].match(None, False) == (False, None)


def test_a_closed_pipe_is_a_leaver_and_sending_to_it_is_no_error(posts):
    group = posts([-1, 0])
    group[0].peers[-1].connection.close()
    assert take(group[-1]) is None
    assert send(group[-1], 0, "too late") == 0
    assert send(group[-1], 0, value_of(1, 2, 3)) == 0
    group[-1].leave()


# -- two processes, and what is left behind ----------------------------------------------------------------------------

CHILD = """
import sys, time
from multiprocessing.connection import Connection
import torch
from harness.engines.real.messages import NearPeer, Post, Slots
from harness.engines.shared.flat import Flat
pipe, out, back, count = map(int, sys.argv[1:])
post = Post({0: NearPeer(0, Connection(pipe), Slots(out, 4000), Slots(back, 4000))}, (1000, 0), torch.float32)
for k in range(50):
    post.send(0, Flat([torch.full((1000,), float(k))], version=k), time.monotonic(), False)
print("sent", flush=True)
if count:
    post.leave()
else:
    time.sleep(60)
"""


def start_child(leaves: bool) -> tuple[subprocess.Popen[str], messages.Post, list[int]]:
    ours, theirs = Pipe()
    there, back = make_slot_file(), make_slot_file()
    descriptors = [theirs.fileno(), there, back]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, descriptors), str(int(leaves))],
        pass_fds=descriptors,
        stdout=subprocess.PIPE,
        text=True,
    )
    theirs.close()
    post = messages.Post(
        {1: messages.NearPeer(1, ours, messages.Slots(back, 4000), messages.Slots(there, 4000))},
        (1000, 0),
        torch.float32,
    )
    return child, post, [there, back]


def receive(post: messages.Post):
    """Wait as an endpoint does."""
    over, parcel = post.match(None, False)
    while not over:
        post.pump(None)
        over, parcel = post.match(None, False)
    return parcel


@pytest.mark.dist
def test_fifty_values_cross_to_another_process_that_reads_them_late():
    child, post, descriptors = start_child(leaves=True)
    with child:
        assert child.stdout.readline() == "sent\n"  # before a single one was read
        versions = [receive(post).value for _ in range(50)]
        assert [v.version for v in versions] == list(range(50))
        assert all(torch.equal(v.tensor(), torch.full((1000,), float(v.version))) for v in versions)
        assert receive(post) is None
    assert child.returncode == 0
    post.peers[1].connection.close()
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.mark.dist
def test_a_killed_peer_is_noticed_after_its_last_message():
    child, post, descriptors = start_child(leaves=False)
    with child:
        assert child.stdout.readline() == "sent\n"
        child.send_signal(signal.SIGKILL)
        for version in range(50):
            assert receive(post).value.version == version
        assert receive(post) is None
    post.peers[1].connection.close()
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="this system has no shared-memory folder")
def test_slot_files_have_no_name_so_nothing_stays_in_shared_memory(posts):
    a, _ = posts([0, 1]).values()
    send(a, 1, value_of(1, 2, 3))
    link = os.readlink(f"/proc/self/fd/{a.peers[1].outgoing._descriptor}")
    assert link.startswith("/dev/shm/")
    assert link.endswith("(deleted)")
    assert os.fstat(a.peers[1].outgoing._descriptor).st_nlink == 0


def test_send_never_waits_however_many_messages_are_unread_and_none_is_lost(posts):
    """Some 300 headers fill a pipe; the rest is kept and follows as the receiver reads."""
    left, right = posts([0, 1]).values()
    for number in range(2000):
        left.send(1, number, 0.0, stop=False)
    assert left.peers[1].unsent
    got = []
    while len(got) < 2000:
        left.pump(0)  # an endpoint that waits for messages is what moves its own on
        right.pump(0)
        over, parcel = right.match(0, leavers=False)
        if over:
            got.append(parcel.value)
    assert got == list(range(2000))


def test_a_plain_value_too_large_for_a_pipe_is_refused(posts):
    left, _ = posts([0, 1]).values()
    with pytest.raises(PluginError, match="at most 32768"):
        left.send(1, "x" * 40000, 0.0, stop=False)
