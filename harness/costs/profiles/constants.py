"""What no data sheet says about a step: one set of constants for all devices, models and cases, each with its origin.

`PLAIN` holds none of them: the closed forms of textbooks. `PUBLISHED` is what published measurements imply; a cluster
of catalogue devices carries it. What is measured on one's own machine belongs into a `Runtime` instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

FitGroup = Literal["replicas", "pipelines", "transformers", "protocols"]
"""Rows that a constant is fitted on: data parallelism and servers, pipelines, transformer steps, single all-reduces."""


@dataclass(frozen=True)
class Constants:
    """Shares are 0..1 unless said otherwise; times are seconds.

    Attributes:
        step_fraction: what taking part in synchronous training adds to computing: hooks, buckets, the wrapper's copies.
        spread_fraction: standard deviation of a tenth of a second of a device's computing where it reads its samples;
            longer ones vary less, in proportion. A synchronous step waits for the slowest.
        bucket_s: what one bucket's all-reduce costs the host, beyond the network's latency.
        slowdown_fraction: how much longer computing takes while an exchange runs beside it.
        shared_host_fraction: how much longer threads of one processor compute while all are busy: its clock falls.
        shared_board_fraction: how much longer dies of one board compute while both are busy: they share its power.
        server_exposed_fraction: share of a server exchange that computing could hide and does not.
        host_add_bytes_per_s: rate at which one host sums gradients of parameter servers.
        server_passes: bytes that a server process of one core moves through its memory for a byte of gradients: to
            take it in, add it, and send weights back.
        action_s: what every further pass costs that a pipeline's schedule cuts the two passes of a micro-batch into.
        imbalance_fraction: how much longer the slowest stage takes than the mean, for each doubling of the stages,
            where stages were cut by hand and nobody knows what their layers take.
        weightless_hidden: hidden size of a transformer at which arithmetic without weights (attention, normalisation)
            takes as long as arithmetic with them: only the latter has gradients of weights.
        unsplit_hidden: hidden size of a transformer at which what tensor parallelism does not divide (normalisation,
            residuals) takes as long as what it divides; arithmetic grows with the square of it, the rest in proportion.
        pass_bytes: what a backward pass through a transformer's layer moves for each parameter beside its arithmetic,
            however few its samples: gradients that are added to those of earlier micro-batches, weights that are read.
        layer_launch_s: least time of one transformer layer's forward pass, where nothing is measured.
        short_factor: how many times longer a byte takes in an all-reduce's protocol for short messages.
        short_latency_s: of a short message beyond its bytes.
        ring_hop_s: latency of a ring's hop that a library reckons with when it chooses the protocol.
        filling: links fill slowly: S bytes at B bytes/s take filling * sqrt(S * B) seconds longer.
    """

    step_fraction: float = 0.0
    spread_fraction: float = 0.0
    bucket_s: float = 0.0
    slowdown_fraction: float = 0.0
    shared_board_fraction: float = 0.0
    shared_host_fraction: float = 0.0
    server_exposed_fraction: float = 0.0
    host_add_bytes_per_s: float = float("inf")
    server_passes: float = 0.0
    action_s: float = 0.0
    imbalance_fraction: float = 0.0
    weightless_hidden: float = 0.0
    unsplit_hidden: float = 0.0
    pass_bytes: float = 0.0
    layer_launch_s: float = 0.0
    short_factor: float = 1.0
    short_latency_s: float = 0.0
    ring_hop_s: float = 0.0
    filling: float = 0.0

    def with_values(self, values: Mapping[str, float]) -> Constants:
        """Return the constants with some of them replaced."""
        return replace(self, **values)


PLAIN = Constants()
"""No effect at all: what closed forms assume."""


class Fitted(NamedTuple):
    """How a constant was found: by least squares on published tables, between bounds that physics allows.

    Attributes:
        value: of the fit on all cases.
        prior: what one would take without any table; chosen.
        low, high: what it can be at all.
        reason: why it is there, and which cases say so.
    """

    group: FitGroup
    value: float
    prior: float
    low: float
    high: float
    reason: str


FITTED: dict[str, Fitted] = {
    "step_fraction": Fitted("replicas", 0.0207, 0.02, 0.0, 0.1, "one process with the wrapper loses 3 to 5 % (P4)"),
    "spread_fraction": Fitted(
        "replicas", 0.0264, 0.01, 0.0, 0.05, "losses grow with devices where links do not (P5, P15)"
    ),
    "slowdown_fraction": Fitted(
        "replicas", 0.298, 0.1, 0.0, 1.0, "exchanges take multiprocessors and memory (P6, P15)"
    ),
    "bucket_s": Fitted("replicas", 1.13e-4, 3e-5, 0.0, 2e-4, "buckets of 1 MB against 25 MB (P4)"),
    "server_exposed_fraction": Fitted("replicas", 0.175, 0.5, 0.0, 1.0, "weights come back between steps (P2)"),
    "host_add_bytes_per_s": Fitted("replicas", 1.9e10, 3e10, 5e9, 1e11, "losses grow with all workers' bytes (P2)"),
    "server_passes": Fitted(
        "replicas", 58, 13, 5, 100, "losses at small batches (P14); 13 where a socket's bytes are parsed once"
    ),
    "shared_board_fraction": Fitted(
        "replicas", 0.055, 0.02, 0.0, 0.1, "two dies of a K80 lose 5 % with any model (P2)"
    ),
    "shared_host_fraction": Fitted(
        "replicas", 0.223, 0.2, 0.0, 0.35, "losses at large batches (P14); data sheets: clocks fall by 1.1 to 1.3"
    ),
    "action_s": Fitted("pipelines", 0.65e-3, 0.3e-3, 0.0, 2e-3, "interleaving gains less than its bubble says (P10)"),
    "imbalance_fraction": Fitted("pipelines", 0.17, 0.1, 0.0, 0.5, "hand-cut stages of unknown layers (P9)"),
    "weightless_hidden": Fitted("pipelines", 1850, 1000, 0, 4000, "zero-bubble schedules keep a bubble (P10)"),
    "unsplit_hidden": Fitted("transformers", 97, 100, 0, 400, "what tensor parallelism leaves whole (P7, P8)"),
    "pass_bytes": Fitted("transformers", 30, 18, 0, 60, "small micro-batches take longer a sample (P8)"),
    "layer_launch_s": Fitted("transformers", 0.75e-3, 0.5e-3, 0.0, 2e-3, "time does not fall below (P7, P8)"),
    "short_factor": Fitted("protocols", 1.54, 1.5, 1.1, 4.0, "slope of short messages (K1); NCCL tunes with 1.09 to 4"),
    "short_latency_s": Fitted("protocols", 37e-6, 20e-6, 0.0, 1e-4, "latency of short messages (K1)"),
    "ring_hop_s": Fitted("protocols", 7e-6, 5e-6, 1e-6, 2e-5, "where the protocol changes (K1); NCCL's table: 3.4 us"),
    "filling": Fitted("protocols", 9.5e-15, 5e-15, 0.0, 3e-14, "rates still rise at 500 MB (K1)"),
}
"""Fitted on the published tables by rounds of Gauss and Newton from the priors, each over at most 0.15 of a constant's
range; `harness validate` refits them without each case to say what they are worth."""


class Stated(NamedTuple):
    """How far a part of a step is off, as a share of it; one standard deviation.

    Attributes:
        value: of what `reason` begins with.
        reason: which rows say so.
    """

    value: float
    reason: str


STATED_ERRORS: dict[str, Stated] = {
    "given": Stated(0.035, "computing, where one measurement says how fast: rows that hardly exchange (P2, P5, P13)"),
    "by layer": Stated(0.012, "computing, where layers' times add up to a step that was measured (P7)"),
    "exchanged": Stated(0.2, "exposed communication: what computing does not hide is a small rest (P6, P8)"),
    "waited": Stated(0.03, "waiting for stages and for the slowest device (P7, P10)"),
    "replicated": Stated(0.018, "a step, by each doubling of replicas that read samples (P1, P3, P6, P15)"),
    "divided": Stated(0.022, "a step, by the square of doublings of the devices that share its layers (P7, P8)"),
    "cut by hand": Stated(0.05, "a step, by each doubling of stages of layers that nobody knows (P9)"),
    "crowded": Stated(0.1, "a step of devices that are threads of one processor (P14)"),
}
"""Chosen on published rows that were predicted with constants fitted without their source, such that two thirds and 19
of 20 come to lie inside where sources count alike; `harness validate` prints the shares. What is measured on this
machine states what its measurements scatter by instead."""

PUBLISHED = Constants(**{name: fitted.value for name, fitted in FITTED.items()})
"""What published measurements imply for accelerators in data centres."""
