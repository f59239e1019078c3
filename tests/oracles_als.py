"""ALS as in the papers: dense confidences and targets, float64, row after row. Imports nothing of ours."""

import numpy as np


def dense_problem(X, weighting, alpha, a0):
    """Confidence C, target P and the mask of stored cells, each m × n. X is a canonical scipy matrix."""
    m, n = X.shape
    C, P, stored = np.full((m, n), float(a0)), np.zeros((m, n)), np.zeros((m, n), bool)
    coo = X.tocoo()
    for u, i, x in zip(coo.row, coo.col, coo.data.astype(float)):
        stored[u, i] = True
        if weighting == "hu-koren":
            C[u, i], P[u, i] = 1 + alpha * x, 1
        elif weighting == "ials":
            C[u, i] = a0 + alpha * x
            P[u, i] = alpha * x / C[u, i] if C[u, i] else 0
        elif weighting == "confidence":
            C[u, i], P[u, i] = alpha * x, 1
        elif weighting == "ratings":
            C[u, i], P[u, i] = 1, x
    return C, P, stored


def penalties(stored, regularization, exponent, a0):
    m, n = stored.shape
    users = regularization * (stored.sum(axis=1) + a0 * n) ** float(exponent)
    items = regularization * (stored.sum(axis=0) + a0 * m) ** float(exponent)
    return users, items


def solve_side(C, P, stored, lam, Y):
    """Every row's normal equations (Σ_i c_i y_i y_iᵀ + λ I) x = Σ_i c_i p_i y_i over all cells; empty rows are zero."""
    X = np.zeros((len(C), Y.shape[1]))
    for u in range(len(C)):
        if stored[u].any():
            A = (Y.T * C[u]) @ Y + lam[u] * np.eye(Y.shape[1])
            X[u] = np.linalg.solve(A, Y.T @ (C[u] * P[u]))
    return X


def objective(C, P, lam_users, lam_items, U, V):
    residual = P - U @ V.T
    loss = float((C * residual**2).sum())
    return loss + float(lam_users @ (U**2).sum(axis=1)) + float(lam_items @ (V**2).sum(axis=1))


def als(X, V, weighting, alpha, a0, regularization, exponent, sweeps):
    """U, V and the objective after each half-sweep."""
    C, P, stored = dense_problem(X, weighting, alpha, a0)
    lam_users, lam_items = penalties(stored, regularization, exponent, a0)
    history = []
    for _ in range(sweeps):
        U = solve_side(C, P, stored, lam_users, V)
        users = objective(C, P, lam_users, lam_items, U, V)
        V = solve_side(C.T, P.T, stored.T, lam_items, U)
        history.append((users, objective(C, P, lam_users, lam_items, U, V)))
    return U, V, history


def als_with_biases(X, V, regularization, exponent, sweeps):
    """Ratings x ≈ μ + b_u + b_i + u·v: a row's factors and bias are one least-squares problem."""
    C, R, stored = dense_problem(X, "ratings", 1.0, 0.0)
    lam_users, lam_items = penalties(stored, regularization, exponent, 0.0)
    mean = R[stored].mean()
    V, item_bias = np.asarray(V, float), np.zeros(X.shape[1])
    history = []
    for _ in range(sweeps):
        both = solve_side(C, R - mean - item_bias, stored, lam_users, np.column_stack((V, np.ones(len(V)))))
        U, user_bias = both[:, :-1], both[:, -1]
        both = solve_side(
            C.T, (R - mean - user_bias[:, None]).T, stored.T, lam_items, np.column_stack((U, np.ones(len(U))))
        )
        V, item_bias = both[:, :-1], both[:, -1]
        scores = mean + user_bias[:, None] + item_bias + U @ V.T
        loss = float((stored * (R - scores) ** 2).sum())
        loss += float(lam_users @ ((U**2).sum(axis=1) + user_bias**2))
        loss += float(lam_items @ ((V**2).sum(axis=1) + item_bias**2))
        history.append(loss)
    return scores, history
