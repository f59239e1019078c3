"""One minibatch step of `sgd`: scores, slopes, and the moves of all rows that the records touch.

Every record moves its rows as `lfm_np.kernels.sgd_cells` says, all of them from the factors before the batch:

    u ← u − η(Σ_m a_m v_m + (λ_u + c_u) u),    v_m ← v_m − η(a_m u + (λ_m + c_m) v_m).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from lfm_np.sgd_plan import Plan
from lfm_np.torch_backend import losses
from lfm_np.torch_backend.device import picked, torch


@dataclass
class Model:
    """What a step writes; None are parts that the model does not have."""

    users: torch.Tensor
    items: torch.Tensor
    user_bias: torch.Tensor | None
    item_bias: torch.Tensor | None
    squares: dict[str, torch.Tensor]  # Adagrad: 1 + Σ mean(g²) of every row; empty without

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that there are, by name."""
        parts = {name: part for name, part in vars(self).items() if isinstance(part, torch.Tensor)}
        return parts | {f"{name}_squares": part for name, part in self.squares.items()}

    def copy(self) -> Model:
        """All of it, apart from later steps."""
        return copy.deepcopy(self)


@dataclass(frozen=True)
class Records:
    """B stored cells and the negatives of each."""

    users: torch.Tensor  # (B,)
    ids: torch.Tensor  # (B, 1 + M): the stored item, then its negatives
    values: torch.Tensor  # (B,)
    rank_weight: torch.Tensor | None = None  # (B,) of WARP; 0: no negative violates, nothing moves
    log_q: torch.Tensor | None = None  # (B, M) what logQ correction takes off the scores of the negatives


def score(model: Model, plan: Plan, users: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Scores (B, …) of items (B, …) in the dtype of the factors."""
    return _score(model, plan, users, ids, picked(model.users, users), picked(model.items, ids))


def _score(
    model: Model, plan: Plan, users: torch.Tensor, ids: torch.Tensor, u: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """From the rows u of users and v of items."""
    scores = _dots(v.flatten(1, -2), u).view(ids.shape)
    per_user = (-1,) + (1,) * (ids.ndim - 1)
    if plan.rule.cosine:
        scores = scores * _inverse_norm(u).view(per_user) * _inverse_norm(v)
    if model.item_bias is not None:
        scores = scores + picked(model.item_bias, ids)
    if model.user_bias is not None:
        scores = scores + (plan.rule.mean + picked(model.user_bias, users)).view(per_user)
    return scores


# A batched product of matrices with a row or two costs a CPU several times the elementwise operations; with more rows
# the copies that those make cost more.
FEW = 8


def _dots(v: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """⟨v_m, u⟩ (B, M) for v (B, M, k) and u (B, k)."""
    return (v * u[:, None, :]).sum(-1) if v.shape[1] <= FEW else (v @ u[:, :, None])[:, :, 0]


def _combined(a: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Σ_m a_m v_m (B, k) for a (B, M) and v (B, M, k)."""
    if v.shape[1] > FEW:
        return (a[:, None, :] @ v)[:, 0]
    total = a[:, 0, None] * v[:, 0]
    for m in range(1, v.shape[1]):
        total.addcmul_(a[:, m, None], v[:, m])
    return total


def _inverse_norm(rows: torch.Tensor) -> torch.Tensor:
    """1/|row|, and 0 for a zero row."""
    squares = (rows * rows).sum(-1)
    return torch.where(squares > 0, squares.rsqrt(), 0)


def step(model: Model, plan: Plan, loss: Any, records: Records, rate: float, wide: torch.dtype) -> torch.Tensor:
    """Move the rows of the records; returns the sum of the records' losses before, wide."""
    users, ids = records.users, records.ids
    u, v = picked(model.users, users), picked(model.items, ids)
    scores = _score(model, plan, users, ids, u, v).to(wide)
    corrected = scores
    if records.log_q is not None:
        corrected = torch.cat([scores[:, :1], scores[:, 1:] - records.log_q], 1)
    values, slopes = losses.evaluate(loss, plan.protocol, corrected, records.values.to(wide), records.rank_weight)
    pulls, item_shrink, user_shrink = _to_factors(plan, u, v, scores, slopes)
    moving = None if records.rank_weight is None else (records.rank_weight > 0).to(u.dtype)
    user_moves = _combined(pulls, v).addcmul_(user_shrink, u)
    item_moves = v.mul_(item_shrink[:, :, None]).addcmul_(pulls[:, :, None], u[:, None, :])
    moves: list[tuple[str, torch.Tensor, torch.Tensor]] = [
        ("users", users, user_moves),
        ("items", ids.reshape(-1), item_moves.reshape(-1, v.shape[2])),
    ]
    slopes = slopes.to(u.dtype)
    if model.item_bias is not None:
        moves.append(
            ("item_bias", ids.reshape(-1), (slopes + plan.rule.bias * picked(model.item_bias, ids)).reshape(-1))
        )
    if model.user_bias is not None:
        moves.append(("user_bias", users, slopes.sum(1) + plan.rule.bias * picked(model.user_bias, users)))
    for part, rows, gradient in moves:
        if moving is not None:
            gradient = gradient * _per_move(moving, gradient)
        _move(model, part, rows, gradient, rate)
    return values.sum()


def _per_move(moving: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """``moving`` of the records, repeated for each of the moves that a record makes."""
    repeated = moving.repeat_interleave(len(gradient) // len(moving))
    return repeated if gradient.ndim == 1 else repeated[:, None]


def _to_factors(
    plan: Plan, u: torch.Tensor, v: torch.Tensor, scores: torch.Tensor, slopes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """a (B, 1 + M), λ + c of the items (B, 1 + M) and of the users (B, 1), in the dtype of the factors."""
    rule = plan.rule
    item_shrink = torch.full_like(slopes, rule.negative)
    item_shrink[:, 0] = rule.item
    user_shrink = torch.full_like(slopes[:, :1], rule.user)
    pulls = slopes
    if rule.cosine:
        inverse_u, inverse_v = _inverse_norm(u.to(slopes.dtype))[:, None], _inverse_norm(v.to(slopes.dtype))
        user_shrink = user_shrink - (slopes * scores).sum(1, keepdim=True) * inverse_u**2
        item_shrink = item_shrink - slopes * scores * inverse_v**2
        pulls = slopes * inverse_u * inverse_v
    return pulls.to(u.dtype), item_shrink.to(u.dtype), user_shrink.to(u.dtype)


def _move(model: Model, part: str, rows: torch.Tensor, gradient: torch.Tensor, rate: float) -> None:
    """W[rows] −= rate · gradient, summed over repeated rows; with Adagrad after the squares of all have been added."""
    W: torch.Tensor = getattr(model, part)
    if model.squares:
        squares = model.squares[part]
        own = gradient * gradient if gradient.ndim == 1 else (gradient * gradient).mean(1)
        squares.index_add_(0, rows, own)
        scale = picked(squares, rows).rsqrt()
        gradient = gradient * (scale if gradient.ndim == 1 else scale[:, None])
    if gradient.ndim == 1:
        W.index_add_(0, rows, gradient, alpha=-rate)
    else:  # the same sum; on a CPU index_add_ of rows has one thread and takes five times as long
        W.scatter_add_(0, rows[:, None].expand_as(gradient), gradient.mul_(-rate))
