"""What a person would write in an afternoon: two ``nn.Embedding``, minibatches, autograd, Adagrad."""

from __future__ import annotations

import scipy.sparse as sp

import lfm_np
from benchmarks.solvers import Entry
from benchmarks.tasks import Task

PACKAGES = ("torch",)
BATCH = 4096


class Bpr:
    def __init__(self, train: sp.csr_array, task: Task) -> None:
        import torch

        torch.set_num_threads(task.threads)
        torch.manual_seed(task.seed)
        coo = sp.coo_matrix(train)
        self._device = torch.device(task.device)
        self._pairs = torch.stack([torch.from_numpy(ids.astype("int64")) for ids in (coo.row, coo.col)]).to(
            self._device
        )
        self._U, self._V = (
            torch.nn.Embedding(size, task.factors, sparse=True, device=self._device) for size in train.shape
        )
        for table in (self._U, self._V):
            torch.nn.init.normal_(table.weight, std=0.1 / task.factors**0.5)
        self._optimizer = torch.optim.Adagrad([self._U.weight, self._V.weight], lr=task.learning_rate)
        self._penalty = task.regularization / 2

    def step(self) -> None:
        import torch

        n = self._V.num_embeddings
        order = torch.randperm(self._pairs.shape[1], device=self._device)
        for batch in order.split(BATCH):
            users, items = self._pairs[:, batch]
            negatives = torch.randint(n, items.shape, device=self._device)  # not verified
            u, i, j = self._U(users), self._V(items), self._V(negatives)
            loss = torch.nn.functional.softplus((u * (j - i)).sum(1)).sum()
            loss = loss + self._penalty * (u.square().sum() + i.square().sum() + j.square().sum())
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()

    def factors(self) -> lfm_np.Factors:
        U, V = (table.weight.detach().cpu().numpy().copy() for table in (self._U, self._V))
        return lfm_np.Factors(U, V)


SOLVERS = {"torch-autograd": Entry("bpr", Bpr, "embeddings, autograd, Adagrad, unverified negatives")}
