"""The small systems of ALS rows, a batch at a time: normal equations by Cholesky, or Woodbury's form of them.

With Y the other side, G = α₀YᵀY, d = c − α₀ and t = c·p, a row solves (G + λI + Y_uᵀ D Y_u) x = Y_uᵀ t. Rows with fewer
cells than factors solve the n × n system instead (see `lfm_np.row_plan`), for which Y has been rotated so that G is
diagonal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from lfm_np.half_sweep import PIVOT_LOSS
from lfm_np.kernels.als_cells import LEFT
from lfm_np.kernels.als_primal import BROUGHT_DOWN
from lfm_np.row_plan import Weights
from lfm_np.torch_backend.batches import Batch, Cells
from lfm_np.torch_backend.device import torch

SPLIT = 1e-3  # τ: r = t/√d only where d ≥ τ|t|, or d·K_ii ≥ 1: √D w + t₀ would cancel
CG_EXTRA = 2  # steps of CG beyond k, in multiples of k: rounding costs some


class Fixed(NamedTuple):
    """The fixed side of a half-sweep."""

    Y: torch.Tensor  # (n, k)
    G: torch.Tensor  # (k, k)
    shift: torch.Tensor | None  # (n,) subtracted from the targets of ratings
    weights: Weights
    basis: torch.Tensor | None  # (k, k) orthogonal: Y is the given matrix times it
    old: torch.Tensor  # (m, k) the rows before, in the basis of the given matrix


class Solved(NamedTuple):
    """The rows of a batch."""

    x: torch.Tensor  # (R, k)
    loss: torch.Tensor  # () wide: without the fixed side's penalty
    penalty: torch.Tensor  # () wide: Σ λ‖x‖²
    failed: torch.Tensor  # (R,) bool


def gathered(batch: Batch, fixed: Fixed) -> Iterator[tuple[Any, ...]]:
    """Y_u, d, t and the cells of a batch (of its row, piece by piece)."""
    for own in batch.cells():
        d, t = coefficients(own, fixed, fixed.Y.dtype)
        yield torch.nn.functional.embedding(own.columns, fixed.Y), d, t, own


def coefficients(own: Cells, fixed: Fixed, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """d and t of cells, 0 on the padding."""
    d0, d1, t0, t1, _ = fixed.weights
    inside, values = own.inside.to(dtype), own.values.to(dtype)
    t = t0 + t1 * values
    if fixed.shift is not None:
        t = t - fixed.shift[own.columns]
    return (d0 + d1 * values) * inside, t * inside


def solve_primal(
    batch: Batch, fixed: Fixed, lam: torch.Tensor, wide: torch.dtype, direct: bool, rescue: bool = False
) -> Solved:
    """Solve the k × k systems of a batch; a heavy row is gathered piece by piece.

    With ``rescue`` by eigenvalues instead of Cholesky: the last resort, in float64.
    """
    k = fixed.Y.shape[1]
    A = fixed.G.repeat(len(lam), 1, 1)
    A.diagonal(dim1=1, dim2=2).add_(lam[:, None])
    before = A.diagonal(dim1=1, dim2=2).clone()
    b = torch.zeros(len(lam), k, 1, dtype=lam.dtype, device=lam.device)
    for part in gathered(batch, fixed):
        rows, d, t, _ = part
        b.baddbmm_(rows.mT, t[:, :, None])
        A.baddbmm_((rows * d[:, :, None]).mT, rows)
    if rescue:
        x, failed = by_eigenvalues(A, b, lam)
    elif direct:
        L, info = torch.linalg.cholesky_ex(A)
        x, failed = torch.cholesky_solve(b, L)[:, :, 0], (info != 0) | lossy(L, before_cancelling(A, before))
    else:
        x, failed = conjugate_gradients(A, b[:, :, 0])
    if rescue or not direct:
        failed = failed | cancelled(A, before)
    if batch.pieces == 1:
        return measured(fixed, lam, x, failed, [part], wide)
    del part, rows, d, t
    return measured(fixed, lam, x, failed, gathered(batch, fixed), wide)


def before_cancelling(A: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """The diagonals of a batch, raised where cells of negative d have brought them down from ``before`` them."""
    diagonal = A.diagonal(dim1=1, dim2=2)
    down = (diagonal < BROUGHT_DOWN * before).any(dim=1, keepdim=True)
    return torch.where(down, torch.maximum(diagonal, before.amax(dim=1, keepdim=True)), diagonal)


def lossy(L: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
    """The factors of a batch of which a pivot has lost more digits of the diagonal than allowed."""
    limit = PIVOT_LOSS / torch.finfo(L.dtype).eps
    return (diagonal > limit * L.diagonal(dim1=1, dim2=2) ** 2).any(dim=1)


def cancelled(A: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """As `lfm_np.half_sweep.cancelled`, of a batch of rows."""
    diagonal = A.diagonal(dim1=1, dim2=2)
    least = before.amax(dim=1) * (torch.finfo(A.dtype).eps / PIVOT_LOSS)
    return (diagonal < BROUGHT_DOWN * before).any(dim=1) & (diagonal.amin(dim=1) < least)


def by_eigenvalues(A: torch.Tensor, b: torch.Tensor, lam: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve A x = b with the eigenvalues of A raised to λ and to the rounding of A, which may have brought them below.

    Fails where λ = 0 and the smallest one vanishes, as in `lfm_np.half_sweep`.
    """
    finite = torch.isfinite(A).all(dim=2).all(dim=1)
    values, basis = torch.linalg.eigh(torch.where(finite[:, None, None], A, torch.eye(A.shape[1]).to(A)))
    rounding = A.shape[1] * torch.finfo(A.dtype).eps * values[:, -1]
    singular = (lam == 0) & (values[:, 0] <= rounding)
    x = basis @ ((basis.mT @ b) / torch.maximum(values, torch.maximum(lam, rounding)[:, None])[:, :, None])
    return x[:, :, 0], singular | ~finite


def conjugate_gradients(A: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve A x = b for a batch by Jacobi-preconditioned CG, for devices without Cholesky.

    A fixed number of steps, so that nothing waits for the host; a row that has converged moves no more. The second
    result tells which rows have not converged.
    """
    tiny, eps = torch.finfo(b.dtype).tiny, torch.finfo(b.dtype).eps
    scale = A.diagonal(dim1=1, dim2=2).clamp_min(tiny).rsqrt()
    A, b = A * scale[:, :, None] * scale[:, None, :], b * scale
    x, r = torch.zeros_like(b), b.clone()
    p, rr = r.clone(), (r * r).sum(1)
    goal = rr * eps**2
    for _ in range((1 + CG_EXTRA) * b.shape[1]):
        Ap = (A @ p[:, :, None])[:, :, 0]
        step = torch.where(rr > goal, rr / (p * Ap).sum(1).clamp_min(tiny), 0)[:, None]
        x, r = x + step * p, r - step * Ap
        before, rr = rr, (r * r).sum(1)
        p = r + (rr / before.clamp_min(tiny))[:, None] * p
    residual = ((A @ x[:, :, None])[:, :, 0] - b).norm(dim=1)
    return x * scale, residual > 64 * eps * b.shape[1] * b.norm(dim=1)


def solve_dual(batch: Batch, fixed: Fixed, lam: torch.Tensor, wide: torch.dtype, direct: bool) -> Solved:
    """Solve the n × n systems of a batch of rows with d ≥ 0: (I + √D K √D) w = r − √D K t₀, x = E⁻¹Yᵀ(√D w + t₀)."""
    (part,) = gathered(batch, fixed)
    rows, d, t, _ = part
    E = fixed.G.diagonal() + lam[:, None]
    root = d.sqrt()
    K = (rows * E.reciprocal()[:, None, :]) @ rows.mT
    split = (d >= SPLIT * t.abs()) | (d * K.diagonal(dim1=1, dim2=2) >= 1)
    r = torch.where(split & (d > 0), t / root, 0)
    t0 = torch.where(split, 0, t)
    right = r - root * (K @ t0[:, :, None])[:, :, 0]
    K.mul_(root[:, :, None]).mul_(root[:, None, :])
    K.diagonal(dim1=1, dim2=2).add_(1)
    L, info = torch.linalg.cholesky_ex(K)
    w = torch.cholesky_solve(right[:, :, None], L)[:, :, 0]
    x = (rows.mT @ (root * w + t0)[:, :, None])[:, :, 0] / E
    failed = (info != 0) | lossy(L, K.diagonal(dim1=1, dim2=2)) | too_wide(E, lam)
    return measured(fixed, lam, x, failed, [part], wide)


def too_wide(E: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """Rows whose E spans more than float32 holds, as in the Numba kernels; in float64 of λ = 0 and a singular G."""
    least, most = E.amin(dim=1), E.amax(dim=1)
    rounding = E.shape[1] * torch.finfo(E.dtype).eps * most
    return least < rounding if E.dtype == torch.float32 else (lam == 0) & (least <= rounding) & (most > 0)


def measured(
    fixed: Fixed,
    lam: torch.Tensor,
    x: torch.Tensor,
    failed: torch.Tensor,
    parts: Iterable[tuple[Any, ...]],
    wide: torch.dtype,
) -> Solved:
    """Σ over the cells of c(p − s)² − α₀s² + xᵀ(G + λ)x; c(p − s)² − α₀s² = t²/c − 2ts + ds².

    A row of which too few digits are left in float32 has failed.
    """
    penalty = (lam * (x * x).sum(1)).to(wide)
    shared = ((x @ fixed.G) * x).sum(1, dtype=wide) + penalty
    loss = shared
    for rows, _, _, own in parts:
        s = (rows @ x[:, :, None])[:, :, 0].to(wide)
        d, t = coefficients(own, fixed, wide)
        c = fixed.weights.c0 + fixed.weights.d1 * own.values.to(wide)
        loss = loss + (torch.where(c > 0, t * t / c, 0) - 2 * t * s + d * s * s).sum(1)
    if x.dtype != wide:
        failed = failed | ((lam > 0) & (loss * PIVOT_LOSS < LEFT * torch.finfo(x.dtype).eps * shared))
    return Solved(x, loss.sum(), penalty.sum(), failed | ~torch.isfinite(x).all(dim=1))
