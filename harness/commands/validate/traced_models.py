"""Models of the tables that the harness can build itself: traced once, and kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache

from harness.commands.validate.case_systems import Unpredictable
from harness.commands.validate.published import Tables
from harness.core.not_known import NotKnown
from harness.costs.cells import kept_or_traced, tracer_key
from harness.costs.profiles import ModelShape
from harness.workloads import harness_models
from harness.workloads.entries import DataShape, Model

KEEPS_SOFTMAX_INPUT = True
"""The published measurements are of 2017 to early 2022, before torch 1.11 stopped keeping it."""

IMAGE_CLASSES = 1000
"""Of ImageNet, which published speeds and sizes of convolutional networks are of."""

TEXT_CLASSES = 2
"""Outputs for a whole text; chosen: a head of this size does not show."""

_SAME_SIZE = 0.01
"""How far a published count of parameters may be from the traced one: heads and grouped layers differ that much; chosen
between AlexNet's two forms (0.2 %) and ResNet-50 for fewer classes (8 %)."""


def traced_model(published: Tables, name: str, precision: str) -> ModelShape:
    """Return the shape of a model of ours that goes by the beginning of the published name.

    Raises:
        Unpredictable: there is none, its input is not stated, or it is another model by its number of parameters.
    """
    figures = published.models.get(name, {})
    shape = _traced(name, str(figures.get("input", "")), precision)
    stated = figures.get("parameters")
    if stated and abs(shape.parameters / stated - 1) > _SAME_SIZE:
        raise Unpredictable(f"{name} has {stated:,} parameters; the model traced here has {shape.parameters:,}")
    return shape


@lru_cache(maxsize=1)
def _ours() -> Mapping[str, Model]:
    # A decoder's size is in its options, not in its name.
    return {model.name: model for model in harness_models() if model.name != "gpt"}


@lru_cache(maxsize=16)
def _traced(name: str, text: str, precision: str) -> ModelShape:
    model = max((m for key, m in _ours().items() if name.startswith(key)), key=lambda m: len(m.name), default=None)
    sample = None if model is None else _sample(model, text)
    if model is None or sample is None:
        raise Unpredictable(f"no model of the harness is called {name}")
    key = tracer_key(model) | {
        "model": model.name,
        "sample": asdict(sample),
        "rules": [precision, "cuda", KEEPS_SOFTMAX_INPUT],
    }
    found = kept_or_traced(key, lambda: _trace(model, sample, precision))
    if isinstance(found, NotKnown):
        raise Unpredictable(found.reason)
    return found


def _sample(model: Model, text: str) -> DataShape | None:
    """Return one sample as the words of a model's input have it."""
    tokens, image = re.search(r"(\d+) tokens", text), re.search(r"(\d+)x(\d+)x(\d+)", text)
    if model.takes == "tokens":
        vocabulary = getattr(model.Options(), "vocabulary", 0)
        return DataShape(1, 1, int(tokens[1]), TEXT_CLASSES, vocabulary) if tokens else None
    return DataShape(int(image[1]), int(image[2]), int(image[3]), IMAGE_CLASSES) if image else None


def _trace(model: Model, sample: DataShape, precision: str) -> ModelShape | NotKnown:
    from harness.costs.tracing import Rules, trace_model

    rules = Rules(precision=precision, device="cuda", keeps_softmax_input=KEEPS_SOFTMAX_INPUT)
    return trace_model(lambda: model.build(model.Options(), sample), sample, rules)
