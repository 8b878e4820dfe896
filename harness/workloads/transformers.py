"""Transformers. Each is a `nn.Sequential` of an embedding, equal blocks and a head, so that a pipeline can cut it.

Blocks say in `tensor_plan` how tensor parallelism divides them. Weights start as torch starts them, but for embeddings,
which start at a standard deviation of 0.02 (Radford et al. 2018, section 4.1): at torch's own 1 they drown the rest.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from harness.workloads.entries import AttentionName, BertLargeOptions, DataShape, GptOptions
from harness.workloads.text_shapes import check_bert_large, check_gpt

EMBEDDING_SD = 0.02


class Attention(nn.Module):
    """Attention with several heads: (n, tokens, hidden) to the same shape.

    Rows of `qkv` belong to one head after another (query, key and value of each), so that a part of the rows is a
    number of whole heads: how many there are follows from the width that `qkv` answers with, never from the options.

    Source: Vaswani et al. 2017, section 3.2; the order of the rows: Shoeybi et al. 2019, section 3.
    """

    def __init__(self, hidden: int, heads: int, dropout: float, causal: bool, kind: AttentionName) -> None:
        """Make the layers; `causal`: no token sees those after it."""
        super().__init__()
        self.head_width = hidden // heads
        self.causal, self.kind = causal, kind
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return what each token gathers from the others."""
        samples, tokens, _ = values.shape
        mixed = self.qkv(values).view(samples, tokens, -1, 3, self.head_width)
        query, key, value = (part.transpose(1, 2) for part in mixed.unbind(3))
        gathered = self._fused(query, key, value) if self.kind == "fused" else self._eager(query, key, value)
        answer: torch.Tensor = self.out(gathered.transpose(1, 2).reshape(samples, tokens, -1))
        return answer

    def _fused(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        chance = self.dropout.p if self.training else 0.0
        return functional.scaled_dot_product_attention(query, key, value, dropout_p=chance, is_causal=self.causal)

    def _eager(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        scores = torch.matmul(query, key.transpose(2, 3)) / self.head_width**0.5
        # In the type of the weights, as published models have it: under autocast the sum is in single precision.
        hidden = torch.zeros(scores.shape[-2:], dtype=self.qkv.weight.dtype, device=scores.device)
        if self.causal:
            hidden = hidden.fill_(float("-inf")).triu_(1)
        probabilities = torch.softmax(scores + hidden, dim=-1)
        return torch.matmul(self.dropout(probabilities), value)


class Mlp(nn.Module):
    """Two linear layers with GELU between, four times as wide inside: (n, tokens, hidden) to the same shape.

    Source: Vaswani et al. 2017, section 3.3; GELU, the exact one: Hendrycks and Gimpel 2016.
    """

    def __init__(self, hidden: int) -> None:
        """Make the layers."""
        super().__init__()
        self.up = nn.Linear(hidden, 4 * hidden)
        self.gelu = nn.GELU()
        self.down = nn.Linear(4 * hidden, hidden)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return each token's own function."""
        answer: torch.Tensor = self.down(self.gelu(self.up(values)))
        return answer


class Block(nn.Module):
    """Attention and mlp, each added to its input: (n, tokens, hidden) to the same shape.

    Attributes:
        tensor_plan: "colwise" layers are cut by their outputs, "rowwise" ones by their inputs (Shoeybi et al. 2019,
            section 3); everything else is whole on every device.
        tensor_parts: the most parts that it can be cut into: its heads.
    """

    tensor_plan: ClassVar[dict[str, str]] = {
        "attn.qkv": "colwise",
        "attn.out": "rowwise",
        "mlp.up": "colwise",
        "mlp.down": "rowwise",
    }

    def __init__(self, hidden: int, heads: int, dropout: float, causal: bool, kind: AttentionName) -> None:
        """Make the layers."""
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden)
        self.attn = Attention(hidden, heads, dropout, causal, kind)
        self.norm2 = nn.LayerNorm(hidden)
        self.mlp = Mlp(hidden)
        self.tensor_parts = heads
        self.dropout = nn.Dropout(dropout)


class PreNormBlock(Block):
    """Normalise, then compute, then add.

    Source: Radford et al. 2019, section 2.3.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values with attention and mlp added."""
        values = values + self.dropout(self.attn(self.norm1(values)))
        return values + self.dropout(self.mlp(self.norm2(values)))


class PostNormBlock(Block):
    """Compute, add, then normalise.

    Source: Devlin et al. 2019, after Vaswani et al. 2017, section 3.1.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values with attention and mlp added, normalised."""
        values = self.norm1(self.dropout(self.attn(values)) + values)
        answer: torch.Tensor = self.norm2(self.dropout(self.mlp(values)) + values)
        return answer


class Embedding(nn.Module):
    """Tokens (n, tokens) to vectors (n, tokens, hidden): one for the token and one for its position, added.

    Args:
        kinds: kinds of segments, all tokens being of the first; 0: no such vector.
        normalised: normalise the sum.
    """

    def __init__(
        self, vocabulary: int, positions: int, hidden: int, dropout: float, kinds: int = 0, normalised: bool = False
    ) -> None:
        super().__init__()
        self.tokens = _embedding(vocabulary, hidden)
        self.positions = _embedding(positions, hidden)
        self.kinds = _embedding(kinds, hidden) if kinds else None
        self.norm = nn.LayerNorm(hidden) if normalised else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the vectors."""
        places = torch.arange(numbers.shape[1], device=numbers.device)
        values = self.tokens(numbers)
        if self.kinds is not None:
            values = values + self.kinds(torch.zeros_like(numbers))
        answer: torch.Tensor = self.dropout(self.norm(values + self.positions(places)))
        return answer


def _embedding(rows: int, hidden: int) -> nn.Embedding:
    made = nn.Embedding(rows, hidden)
    nn.init.normal_(made.weight, std=EMBEDDING_SD)
    return made


class FirstToken(nn.Module):
    """Keep each sample's first token: (n, tokens, hidden) becomes (n, hidden)."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the first token's vector."""
        return values[:, 0]


def gpt(shape: DataShape, options: GptOptions) -> nn.Sequential:
    """Return a decoder: logits (n, tokens, vocabulary) for each token's successor.

    A tied head's weights are those of the tokens' embedding: one tensor under two names.

    Raises:
        InputError: the data has no label for each token, more tokens than positions, or a larger vocabulary.

    Source: Radford et al. 2019, section 2.3; ties: Press and Wolf 2017, "Using the Output Embedding to Improve
    Language Models", section 3.
    """
    check_gpt(options, shape)
    vocabulary, positions = options.vocabulary or shape.vocabulary, options.sequence or shape.width
    size = options.dimensions
    embedding = Embedding(vocabulary, positions, size.hidden, options.dropout)
    layers: OrderedDict[str, nn.Module] = OrderedDict(embedding=embedding)
    for number in range(1, size.layers + 1):
        layers[f"block{number}"] = PreNormBlock(size.hidden, size.heads, options.dropout, True, options.attention)
    layers["norm"] = nn.LayerNorm(size.hidden)
    layers["head"] = head = nn.Linear(size.hidden, vocabulary, bias=False)
    if options.tied:
        head.weight = embedding.tokens.weight
    return nn.Sequential(layers)


SEGMENTS = 2
"""Kinds of segments that BERT's embedding knows (Devlin et al. 2019, figure 2)."""


def bert_large(shape: DataShape, options: BertLargeOptions) -> nn.Sequential:
    """Return an encoder with a head that classifies the whole text: (n, classes).

    Raises:
        InputError: the data has a label for each token, more tokens than positions, or a larger vocabulary.

    Source: Devlin et al. 2019, section 3 and figure 4b.
    """
    check_bert_large(options, shape)
    hidden = options.hidden
    embedding = Embedding(options.vocabulary, options.positions, hidden, options.dropout, SEGMENTS, normalised=True)
    layers: OrderedDict[str, nn.Module] = OrderedDict(embedding=embedding)
    for number in range(1, options.layers + 1):
        layers[f"block{number}"] = PostNormBlock(hidden, options.heads, options.dropout, False, options.attention)
    layers["pooler"] = nn.Sequential(OrderedDict(first=FirstToken(), linear=nn.Linear(hidden, hidden), tanh=nn.Tanh()))
    layers["dropout"] = nn.Dropout(options.dropout)
    layers["classifier"] = nn.Linear(hidden, shape.classes)
    return nn.Sequential(layers)
