"""ALS rows improved from their old values, a batch at a time: by conjugate gradients or by blocks of factors (iALS++).

The arithmetic is that of `lfm_np.kernels.als_cg` and `lfm_np.kernels.als_subspace`, in the basis in which the shared
part E = α₀Λ + λI is diagonal. A batch's rows of Y are gathered once and kept, those of a row too heavy for the budget
piece by piece in every pass. Nothing waits for the host: a row that is solved goes on with steps of length 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lfm_np import row_plan
from lfm_np.torch_backend.batches import Batch
from lfm_np.torch_backend.device import torch
from lfm_np.torch_backend.systems import Fixed, Solved, conjugate_gradients, gathered, lossy, measured, too_wide

LEAST_ENTRY = 1e-3  # of E: what stands in for a diagonal entry that d < 0 cancels


def step_cg(batch: Batch, fixed: Fixed, lam: torch.Tensor, wide: torch.dtype, direct: bool) -> Solved:
    """CG_STEPS steps with the diagonal of a row's system as the preconditioner."""
    x, passes = _old(batch, fixed), _passes(batch, fixed)
    E = fixed.G.diagonal() + lam[:, None]
    residual, diagonal = -E * x, E.clone()
    for rows, d, t, _ in passes():
        residual += _sums(rows, t - d * _scores(rows, x))
        diagonal += _sums(rows * rows, d)
    diagonal = torch.maximum(diagonal, LEAST_ENTRY * E)
    inverse = torch.where(diagonal > 0, 1 / diagonal, 0)
    p = inverse * residual
    rz = _inner(residual, p, wide)
    for _ in range(row_plan.CG_STEPS):
        q = E * p
        for rows, d, *_ in passes():
            q += _sums(rows, d * _scores(rows, p))
        curvature = _inner(p, q, wide)
        go = (rz > 0) & (curvature > 0)
        step = torch.where(go, rz / curvature, 0).to(p.dtype)[:, None]
        x, residual = x + step * p, residual - step * q
        before, rz = rz, _inner(residual, inverse * residual, wide)
        p = inverse * residual + torch.where(go, rz / before, 0).to(p.dtype)[:, None] * p
    return measured(fixed, lam, x, too_wide(E, lam), passes(), wide)


def step_subspace(batch: Batch, fixed: Fixed, lam: torch.Tensor, wide: torch.dtype, direct: bool) -> Solved:
    """One pass over the blocks of factors, each solved with the others as they are."""
    x, passes = _old(batch, fixed), _passes(batch, fixed)
    E = fixed.G.diagonal() + lam[:, None]
    failed, s = too_wide(E, lam), None
    for block in blocks(x.shape[1]):
        A, b = torch.diag_embed(E[:, block]), -(E * x)[:, block]
        for rows, d, t, _ in passes():
            part = rows[:, :, block]
            if s is None or batch.pieces > 1:
                s = _scores(rows, x)
            b += _sums(part, t - d * s)
            A.baddbmm_((part * d[:, :, None]).mT, part)
        if direct:
            L, info = torch.linalg.cholesky_ex(A)
            delta, bad = (
                torch.cholesky_solve(b[:, :, None], L)[:, :, 0],
                (info != 0) | lossy(L, A.diagonal(dim1=1, dim2=2)),
            )
        else:
            delta, bad = conjugate_gradients(A, b)
        x[:, block] += delta
        failed = failed | bad
        if s is not None and batch.pieces == 1:
            s = s + _scores(part, delta)
    return measured(fixed, lam, x, failed, passes(), wide)


STEPS = {"cg": step_cg, "subspace": step_subspace}


def row_bytes(solver: str, k: int, size: int) -> tuple[int, int]:
    """(a, b): a step of a row of n padded cells takes a + b·n bytes, beside its cells' own."""
    if solver == "cg":
        return 10 * k * size, 2 * k * size
    width = row_plan.subspace_width(k)
    return (8 * k + 4 * width * width) * size, (k + 2 * width) * size


def blocks(k: int) -> Iterator[slice]:
    """The columns that are solved for together: those of the Numba side, which pads k to whole vectors."""
    ld = row_plan.padded(k)
    width = row_plan.subspace_width(ld)
    for edge in range(0, ld, width):
        start = min(edge, ld - width)
        if start < k:
            yield slice(start, min(start + width, k))


def _old(batch: Batch, fixed: Fixed) -> torch.Tensor:
    """The rows before, in the basis of Y; a copy."""
    x = fixed.old[batch.rows]
    return x if fixed.basis is None else x @ fixed.basis


def _passes(batch: Batch, fixed: Fixed) -> Callable[[], Iterator[tuple[torch.Tensor, ...]]]:
    """Y_u, d, t and the cells, as often as they are asked for."""
    if batch.pieces > 1:
        return lambda: gathered(batch, fixed)
    kept = list(gathered(batch, fixed))
    return lambda: iter(kept)


def _scores(rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """y·x of every cell."""
    return (rows @ x[:, :, None])[:, :, 0]


def _sums(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ weight·y over the cells of a row."""
    return (rows.mT @ weights[:, :, None])[:, :, 0]


def _inner(a: torch.Tensor, b: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    return (a.to(wide) * b.to(wide)).sum(1)
