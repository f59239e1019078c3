"""SGD in plain Python: Python integers for the random numbers, lists for the blocks, float64 loops for the steps.

Imports nothing from lfm_np; the formulas of the losses stand here a second time.
"""

import bisect
import math

import numpy as np

MASK = 2**64 - 1
GAMMA, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
TRIES = 16


# ---- random numbers -------------------------------------------------------------------------------------------------


def mix(x):
    x = ((x ^ (x >> 30)) * MIX_1) & MASK
    x = ((x ^ (x >> 27)) * MIX_2) & MASK
    return x ^ (x >> 31)


def stream(seed, epoch, cell):
    key = mix((seed + GAMMA) & MASK)
    key = mix(((key ^ epoch) * MIX_2 + GAMMA) & MASK)
    return mix(((key ^ cell) * MIX_1 + GAMMA) & MASK)


def draw(key, position):
    return mix((key + (position + 1) * GAMMA) & MASK)


def below(bits, bound):
    return min(int((bits >> 11) * 2.0**-53 * float(bound)), bound - 1)


# ---- losses ---------------------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softplus(x):
    return x if x > 700 else math.log1p(math.exp(x))


def record_loss(name, fields, scores, x, negative_weight=1.0):
    """(loss, slopes by score) of one record: scores[0] of the stored cell of value x, then of the negatives."""
    positive, negatives = scores[0], scores[1:]
    if name in ("Squared", "Logistic", "Hinge", "Poisson"):
        weight = x if fields.get("weighted") else 1.0
        target = {"Logistic": 1.0, "Hinge": 1.0}.get(name, x)
        other = -1.0 if name == "Hinge" else 0.0
        pairs = [point(name, positive, target), *(point(name, s, other) for s in negatives)]
        weights = [weight] + [1.0] * len(negatives)
        return sum(w * v for w, (v, _) in zip(weights, pairs)), [w * g for w, (_, g) in zip(weights, pairs)]
    weight = x if fields.get("weighted") else 1.0
    if name in ("BPR", "MarginHinge", "WARP"):
        value, slopes = 0.0, [0.0] * len(scores)
        for m, s in enumerate(negatives, 1):
            d = positive - s
            if name == "BPR":
                v, g = softplus(-d), -sigmoid(-d)
            else:
                v, g = max(0.0, fields["margin"] - d), -1.0 if d < fields["margin"] else 0.0
            value += v
            slopes[0] += g
            slopes[m] -= g
        return weight * value, [weight * g for g in slopes]
    if name == "SampledSoftmax":
        logits = np.array(scores) / fields["temperature"]
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        slopes = shares / fields["temperature"]
        slopes[0] -= 1 / fields["temperature"]
        return weight * -math.log(shares[0]), list(weight * slopes)
    assert name == "CosineContrastive"
    part = fields["weight"] / len(negatives)
    value = 1 - positive + part * sum(max(0.0, s - fields["margin"]) for s in negatives)
    return weight * value, [-weight, *(weight * part * (s > fields["margin"]) for s in negatives)]


def point(name, s, x):
    if name == "Squared":
        return (s - x) ** 2 / 2, s - x
    if name == "Logistic":
        return softplus(s) - x * s, sigmoid(s) - x
    if name == "Hinge":
        return max(0.0, 1 - x * s), -x if x * s < 1 else 0.0
    return math.exp(s) - x * s + (x * math.log(x) - x if x > 0 else 0.0), math.exp(s) - x


# ---- blocks and draws -----------------------------------------------------------------------------------------------


def pairs_of(blocks):
    """{(p, q): number}: a round-robin tournament, and p with itself where p meets its first opponent."""
    if blocks == 1:
        return {(0, 0): 0}
    number, last = {}, blocks - 1
    for turn in range(last):
        matches = [(last, turn)] + [((turn + s) % last, (turn - s) % last) for s in range(1, blocks // 2)]
        for slot, (p, q) in enumerate(matches):
            number[p, q] = number[q, p] = turn * (blocks // 2) + slot
            if turn == 0:
                number[p, p] = number[q, q] = slot
    return number


def masses_of(sampler, beta, counts):
    if sampler != "Popularity":
        return [1] * len(counts)
    q = [float(c) ** beta for c in counts]
    scale = 2.0**52 / sum(q)
    return [max(1, round(v * scale)) if v > 0 else 0 for v in q]


def pick(items, masses, x):
    """The item on whose stretch of mass x falls, walking."""
    for j in items:
        if x < masses[j]:
            return j
        x -= masses[j]
    raise AssertionError("x is beyond the mass of the items")


# ---- training -------------------------------------------------------------------------------------------------------


class Run:
    """sgd with the arguments of the library, as plain attributes. ``rows``: one {item: value} a user, in item order."""

    def __init__(self, rows, n, loss, fields, seed, G, **options):
        self.rows, self.n, self.loss, self.fields, self.seed, self.G = rows, n, loss, fields, seed, G
        defaults = {"sampler": "Uniform", "beta": 0.75, "candidates": 1, "negatives": 1, "k": 3, "rate": 0.1}
        defaults |= {"schedule": "constant", "user": 0.0, "item": 0.0, "negative": 0.0, "bias": 0.0, "biases": False}
        defaults |= {"mean": 0.0}
        self.__dict__.update(defaults | options)
        m = len(rows)
        self.counts = [sum(j in row for row in rows) for j in range(n)]
        self.masses = masses_of(self.sampler, self.beta, self.counts)
        self.free = [sum(w for j, w in enumerate(self.masses) if j not in row) for row in rows]
        if self.sampler is None:
            self.free = [1] * m
        active = [bool(row) and free > 0 for row, free in zip(rows, self.free)]
        brought = [any(a and j in row for a, row in zip(active, rows)) for j in range(n)]
        self.U, self.V = self.initial(0, active), self.initial(1, brought)
        self.bu, self.bi = np.zeros(m), np.zeros(n)
        self.squares = {name: np.ones(size) for name, size in (("U", m), ("V", n), ("bu", m), ("bi", n))}

    def initial(self, cell, mask):
        key = stream(self.seed, 0, cell)
        bound = (3 / self.k) ** 0.5 * (1.0 if self.loss == "CosineContrastive" else 0.1)
        return np.array(
            [
                [bound * (2 * ((draw(key, r * self.k + f) >> 11) * 2.0**-53) - 1) * bool(on) for f in range(self.k)]
                for r, on in enumerate(mask)
            ]
        ).reshape(len(mask), self.k)

    def epoch(self, e):
        """Epoch e = 1, 2, …; returns the sum of the losses."""
        self.eta = self.rate / (1 + (e - 1) / 10) if self.schedule == "inverse" else self.rate
        G, seed = self.G, self.seed
        blocks = 2 * G if G > 1 else 1
        number = pairs_of(blocks)
        lengths = [len(row) for row in self.rows]
        indptr = [sum(lengths[:r]) for r in range(len(lengths) + 1)]
        first_rows = [bisect.bisect_left(indptr, indptr[-1] * g / G) for g in range(G)] + [len(self.rows)]
        first_rows[0] = 0
        strata = sorted(range(self.n), key=lambda j: (-self.counts[j], j))
        key = stream(seed, e, 1)
        order = sorted(range(self.n), key=lambda p: (p // blocks, draw(key, p)))
        block_of = {strata[order[p]]: p % blocks for p in range(self.n)}
        members = [[j for j in range(self.n) if block_of[j] == b] for b in range(blocks)]

        cells, key, t = {}, stream(seed, e, 0), 0
        for u, row in enumerate(self.rows):
            g = max(b for b in range(G) if first_rows[b] <= u and first_rows[b] < first_rows[b + 1])
            for i, x in row.items():
                j = i
                if self.sampler is not None and self.free[u] > 0:
                    j = pick([j for j in range(self.n) if j not in row], self.masses, below(draw(key, t), self.free[u]))
                if self.free[u] > 0:
                    cells.setdefault((g, number[block_of[i], block_of[j]]), []).append((u, i, j, x))
                t += 1

        key, matchings, total = stream(seed, e, 2), max(1, blocks - 1), 0.0
        bits = [draw(key, p) for p in range(matchings * G)]
        for p in sorted(range(matchings * G), key=bits.__getitem__):
            turn, shift = divmod(p, G)
            for slot in range(G):
                pair, g = turn * G + slot, (slot + shift) % G
                base = 3 + 2 * (pair * G + g)
                records = cells.get((g, pair), [])
                total += self.cell(records, stream(seed, e, base), stream(seed, e, base + 1), block_of, members)
        return total

    def cell(self, records, shuffle_key, key, block_of, members):
        for r in range(len(records) - 1, 0, -1):
            s = below(draw(shuffle_key, r), r + 1)
            records[r], records[s] = records[s], records[r]
        trials = self.fields.get("trials", 0)
        width = max(self.negatives, trials) * self.candidates * TRIES
        total = 0.0
        for r, (u, i, first, x) in enumerate(records):
            row, pool = self.rows[u], members[block_of[first]]

            def candidate(which, r=r, row=row, pool=pool, first=first):
                for attempt in range(TRIES) if which else ():
                    bits = draw(key, r * width + which * TRIES + attempt)
                    j = pick(pool, self.masses, below(bits, sum(self.masses[j] for j in pool)))
                    if j not in row:
                        return j
                return first

            def negative(which, u=u, candidate=candidate):
                picks = [candidate(which * self.candidates + c) for c in range(self.candidates)]
                scores = [self.score(u, j) for j in picks]
                return picks[scores.index(max(scores))]  # the first of equals

            weight, ids = 1.0, [i]
            if self.sampler is not None and not trials:
                ids += [negative(m) for m in range(self.negatives)]
            for trial in range(trials):
                j = negative(trial)
                if (
                    record_loss(self.loss, {**self.fields, "weighted": False}, [self.score(u, i), self.score(u, j)], 1)[
                        0
                    ]
                    > 0
                ):
                    ids.append(j)
                    weight = math.log(1 + max(1, (self.n - 1) // (trial + 1)))
                    break
            if trials and len(ids) == 1:
                continue
            scores = [self.score(u, j) for j in ids]
            if self.loss == "SampledSoftmax" and self.fields["correct_logq"]:
                for m, j in enumerate(ids[1:], 1):
                    scores[m] -= self.fields["temperature"] * math.log(self.negatives * self.masses[j] / self.free[u])
            value, slopes = record_loss(self.loss, self.fields, scores, x)
            total += weight * value
            self.step(u, ids, [weight * g for g in slopes])
        return total

    def score(self, u, j):
        s = float(self.U[u] @ self.V[j])
        if self.loss == "CosineContrastive":
            norms = np.linalg.norm(self.U[u]) * np.linalg.norm(self.V[j])
            return s / norms if norms > 0 else 0.0
        return s + (self.bi[j] if self.biases else 0.0) + (self.bu[u] + self.mean if self.biases is True else 0.0)

    def step(self, u, ids, slopes):
        """All gradients at the old user row; item rows one after the other, as the same item may come twice."""
        old, gathered = self.U[u].copy(), np.zeros(self.k)
        cosine = self.loss == "CosineContrastive"
        vectors = [self.V[j].copy() for j in ids]
        for m, (j, slope, v) in enumerate(zip(ids, slopes, vectors)):
            by_u, by_v, turn = slope * v, slope * old, 0.0
            if cosine:
                a, b = np.linalg.norm(old), np.linalg.norm(v)
                s = old @ v / (a * b) if a * b > 0 else 0.0
                by_u = slope * (v / (a * b) - s * old / a**2) if a * b > 0 else np.zeros(self.k)
                by_v = slope * old / (a * b) if a * b > 0 else np.zeros(self.k)
                turn = -slope * s / b**2 if b > 0 else 0.0
            gathered += by_u
            gradient = by_v + (turn + (self.item if m == 0 else self.negative)) * self.V[j]
            self.move("V", j, gradient, np.mean(gradient**2))
            if self.biases:
                gradient = slope + self.bias * self.bi[j]
                self.move("bi", j, gradient, gradient**2)
        gradient = gathered + self.user * old
        self.move("U", u, gradient, np.mean(gradient**2))
        if self.biases is True:
            gradient = sum(slopes) + self.bias * self.bu[u]
            self.move("bu", u, gradient, gradient**2)

    def move(self, name, row, gradient, square):
        eta = self.eta
        if self.schedule == "adagrad":
            self.squares[name][row] += square
            eta /= math.sqrt(self.squares[name][row])
        getattr(self, name)[row] -= eta * gradient
