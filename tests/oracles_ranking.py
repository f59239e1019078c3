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
