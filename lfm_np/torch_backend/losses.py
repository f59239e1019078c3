"""The losses of `lfm_np.losses` on batches of scores, with their slopes.

Every function takes scores (B, 1 + M), the stored item's first, the target or value x (B,), and the loss; it returns
values (B,) and slopes by score (B, 1 + M). The formulas stand here a second time, and `crosscheck` holds them to the
first. A loss of your own needs a ``torch_value`` method with the parameters of ``value``, written with torch functions
for tensors of any shape (of a list loss: ``positive`` (B,) and ``negatives`` (B, M), to (B,)); autograd does the rest.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from lfm_np import losses
from lfm_np.losses.protocol import Protocol
from lfm_np.torch_backend.device import torch
from lfm_np.validation import shown

Scalar = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def _squared(loss: Any, s: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return 0.5 * (s - x) ** 2, s - x


def _logistic(loss: Any, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sign = 1 - 2 * y
    return s.clamp_min(0) - y * s + s.abs().neg().exp().log1p(), sign * (sign * s).sigmoid()  # σ(s) − y, uncancelled


def _hinge(loss: Any, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (1 - y * s).clamp_min(0), torch.where(y * s < 1, -y, 0)


def _poisson(loss: Any, s: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rate = s.clamp_max(30).exp()
    value = rate * (1 + (s - 30).clamp_min(0)) - x * s + torch.where(x > 0, torch.xlogy(x, x) - x, 0)
    return value, rate - x


def _bpr(loss: Any, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return d.neg().clamp_min(0) + d.abs().neg().exp().log1p(), -d.neg().sigmoid()


def _margin(loss: Any, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (loss.margin - d).clamp_min(0), -(d < loss.margin).to(d.dtype)


def _softmax(loss: Any, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = s / loss.temperature
    slopes = logits.softmax(1)
    slopes[:, 0] = -slopes[:, 1:].sum(1)  # share − 1, without cancellation
    ahead = logits[:, 0] - logits[:, 1:].logsumexp(1)  # the difference of both sums would round to 0
    return ahead.neg().clamp_min(0) + ahead.abs().neg().exp().log1p(), slopes / loss.temperature


def _contrastive(loss: Any, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    part, others = loss.weight / (s.shape[1] - 1), s[:, 1:]
    value = 1 - s[:, 0] + part * (others - loss.margin).clamp_min(0).sum(1)
    slopes = part * (s > loss.margin).to(s.dtype)
    slopes[:, 0] = -1
    return value, slopes


BUILT_IN: dict[type, Scalar] = {
    losses.Squared: _squared,
    losses.Logistic: _logistic,
    losses.Hinge: _hinge,
    losses.Poisson: _poisson,
    losses.BPR: _bpr,
    losses.MarginHinge: _margin,
    losses.WARP: _margin,
    losses.SampledSoftmax: _softmax,
    losses.CosineContrastive: _contrastive,
}


def check_loss(loss: Any) -> None:
    """Refuse a loss that has no form for torch."""
    if type(loss) not in BUILT_IN and not callable(getattr(loss, "torch_value", None)):
        raise TypeError(
            f"loss needs a method torch_value to run on torch: value, written with torch functions; got {shown(loss)}"
        )


def frozen(loss: Any, read: Protocol) -> Any:
    """A copy that keeps the numbers of now, as compiled code does, whatever a callback sets.

    Those of the class too, where instances have a ``__dict__``.
    """
    own = copy.copy(loss)
    getattr(own, "__dict__", {}).update({name: getattr(loss, name) for name in read.parameters})
    return own


def _formula(loss: Any, kind: str, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and slopes by the first input."""
    if type(loss) in BUILT_IN:
        return BUILT_IN[type(loss)](loss, *inputs)
    with torch.inference_mode(False), torch.enable_grad():
        scores, *rest = (tensor.clone() for tensor in inputs)
        scores.requires_grad_()
        own = (scores[:, 0], scores[:, 1:]) if kind == "list" else (scores, *rest)
        value = loss.torch_value(*own)
        (slopes,) = torch.autograd.grad(value.sum(), scores)
    return value.detach(), slopes


def evaluate(
    loss: Any, read: Protocol, scores: torch.Tensor, x: torch.Tensor, rank_weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of records and their slopes by score.

    Parameters
    ----------
    scores : (B, 1 + M) float64
        Of the stored item, then of the negatives.
    x : (B,)
        Stored values.
    rank_weight : (B,), optional
        Of WARP.

    Returns
    -------
    values (B,), slopes (B, 1 + M)
    """
    weight = x if read.weighted else torch.ones_like(x)
    weight = weight if rank_weight is None else weight * rank_weight
    if read.kind == "pointwise":
        stored, negative = read.targets or (None, 0.0)
        targets = torch.full_like(scores, negative)
        targets[:, 0] = x if stored is None else stored
        values, slopes = _formula(loss, read.kind, scores, targets)
        weights = torch.ones_like(scores)
        weights[:, 0] = weight
        return (weights * values).sum(1), weights * slopes
    if read.kind == "pairwise":
        values, slope = _formula(loss, read.kind, scores[:, :1] - scores[:, 1:])
        slopes = torch.cat([slope.sum(1, keepdim=True), -slope], 1)
        return weight * values.sum(1), weight[:, None] * slopes
    values, slopes = _formula(loss, read.kind, scores)
    return weight * values, weight[:, None] * slopes
