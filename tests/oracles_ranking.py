"""What ranking and evaluation must give: plain loops over dense float64 lists. Imports nothing from lfm_np."""

import math


def score(U, V, u, i, user_bias=None, item_bias=None, global_bias=None):
    """(score, Σ of its absolute terms): the second bounds the rounding of any way to compute the first."""
    terms = [float(a) * float(b) for a, b in zip(U[u], V[i])]
    terms += [float(bias[row]) for bias, row in ((user_bias, u), (item_bias, i)) if bias is not None]
    terms += [] if global_bias is None else [float(global_bias)]
    return math.fsum(terms), math.fsum(map(abs, terms))


def best(scores, forbidden, N):
    """(ids, scores) of the N best allowed items, the lower id first where scores are equal, padded with −1 and −inf."""
    allowed = [i for i in range(len(scores)) if i not in forbidden]
    allowed.sort(key=lambda i: (-scores[i], i))
    ids = allowed[:N]
    missing = N - len(ids)
    return ids + [-1] * missing, [scores[i] for i in ids] + [-math.inf] * missing


def cosine(a, b):
    norms = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
    return math.fsum(x * y for x, y in zip(a, b)) / norms if norms else 0.0


def ranks_and_auc(scores, candidates, relevant):
    """Ascending ranks of the relevant items among the candidates (from 1), and the share of pairs won, ties half."""
    order = sorted(candidates, key=lambda i: (-scores[i], i))
    ranks = [place for place, i in enumerate(order, 1) if i in relevant]
    won = [
        1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
        for i in relevant
        for j in candidates
        if j not in relevant
    ]
    return ranks, math.fsum(won) / len(won) if won else math.nan


def metric(name, ranks, auc):
    """A metric of one user by its definition, from the ranks of all relevant items."""
    kind, _, cutoff = name.partition("@")
    k = int(cutoff) if cutoff else 10**9
    total, hits = len(ranks), [r for r in ranks if r <= k]
    ideal = sum(1 / math.log2(j + 1) for j in range(1, min(k, total) + 1))
    return {
        "recall": len(hits) / total,
        "capped_recall": len(hits) / min(k, total),
        "precision": len(hits) / k,
        "hit_rate": float(bool(hits)),
        "ndcg": sum(1 / math.log2(r + 1) for r in hits) / ideal,
        "map": sum(sum(1 for q in hits if q <= r) / r for r in hits) / min(k, total),
        "mrr": 1 / min(hits) if hits else 0.0,
        "auc": auc,
    }[kind]


def evaluate(scores, train, test, names, negatives=None):
    """{name: (mean, standard error)} over users with relevant items; scores and the others are lists, one a user."""
    values = {name: [] for name in names}
    for u, row in enumerate(scores):
        relevant = set(test[u]) - set(train[u])
        if not relevant:
            continue
        pool = range(len(row)) if negatives is None else {j for j in negatives[u] if j >= 0 and j not in test[u]}
        candidates = (set(pool) - set(train[u])) | relevant
        ranks, auc = ranks_and_auc(row, candidates, relevant)
        for name in names:
            values[name].append(metric(name, ranks, auc))
    return {name: mean_and_error([v for v in column if not math.isnan(v)]) for name, column in values.items()}


def mean_and_error(column):
    count = len(column)
    mean = math.fsum(column) / count if count else math.nan
    if count < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in column) / (count - 1) / count)
