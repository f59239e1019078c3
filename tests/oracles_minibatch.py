"""Minibatch SGD in plain Python, on top of the sequential oracle: a batch's gradients, then its moves.

Imports nothing from lfm_np.
"""

import math

import numpy as np
from oracles_sgd import Run, below, draw, pick, record_loss, stream

ORDER, NEGATIVES = 1, 0


def signed(word):
    return word - 2**64 if word >= 2**63 else word


class MinibatchRun(Run):
    """The arguments of Run, and ``batch``."""

    def epoch(self, e):
        """Epoch e = 1, 2, …; returns the sum of the losses."""
        self.eta = self.rate / (1 + (e - 1) / 10) if self.schedule == "inverse" else self.rate
        cells = [(u, i, x) for u, row in enumerate(self.rows) for i, x in row.items()]
        key = stream(self.seed, e, ORDER)
        order = sorted(range(len(cells)), key=lambda t: signed(draw(key, t)))
        order = [t for t in order if self.free[cells[t][0]] > 0]
        total = 0.0
        for start in range(0, len(order), self.batch):
            total += self.minibatch(e, [(t, *cells[t]) for t in order[start : start + self.batch]], len(cells))
        return total

    def minibatch(self, e, records, stored):
        key, moves, total = stream(self.seed, e, NEGATIVES), [], 0.0
        self.move = lambda name, row, gradient, square: moves.append((name, row, np.array(gradient), square))
        old = [W.copy() for W in (self.U, self.V, self.bu, self.bi)]
        for t, u, i, x in records:
            ids, weight = [i], 1.0
            outside = [j for j in range(self.n) if j not in self.rows[u]]
            trials = self.fields.get("trials", 0)
            for number in range(max(self.negatives, trials) if self.sampler is not None else 0):
                tried = []
                for which in range(number * self.candidates, (number + 1) * self.candidates):
                    tried.append(pick(outside, self.masses, below(draw(key, t + stored * which), self.free[u])))
                scores = [self.score(u, j) for j in tried]
                j = tried[scores.index(max(scores))]
                if not trials:
                    ids.append(j)
                elif self.fields["margin"] - (self.score(u, i) - self.score(u, j)) > 0:
                    ids.append(j)
                    weight = math.log(1 + max(1, (self.n - 1) // (number + 1)))
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
        for W, was in zip((self.U, self.V, self.bu, self.bi), old):
            assert np.array_equal(W, was)
        self.apply(moves)
        return total

    def apply(self, moves):
        """All squares first, then all moves."""
        if self.schedule == "adagrad":
            for name, row, _, square in moves:
                self.squares[name][row] += square
        for name, row, gradient, _ in moves:
            eta = self.eta / math.sqrt(self.squares[name][row]) if self.schedule == "adagrad" else self.eta
            getattr(self, name)[row] -= eta * gradient
