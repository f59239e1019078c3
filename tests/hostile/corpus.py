"""Every case against lfm_np."""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import Any

import numpy as np

import lfm_np

from . import (
    cases_a_day_of_commands,
    cases_asked_in_a_shell,
    cases_asked_of_evaluators,
    cases_asked_of_implicit,
    cases_asked_of_rating_models,
    cases_asked_of_runtimes,
    cases_asked_of_scipy_and_tables,
    cases_asked_of_sgd_peers,
    cases_beside_torch_and_dask,
    cases_bytes_and_readers_recounted,
    cases_checkpoints_resealed,
    cases_cluster_files,
    cases_cluster_runs,
    cases_clusters,
    cases_commands,
    cases_companions_and_shells,
    cases_data,
    cases_days_beside_others,
    cases_days_gone_wrong,
    cases_days_of_exports,
    cases_days_of_small_things,
    cases_days_on_other_machinery,
    cases_days_under_attack,
    cases_days_with_clicks,
    cases_days_with_ratings,
    cases_disk_and_commands_recounted,
    cases_estimators_and_pictures,
    cases_evaluation,
    cases_extras,
    cases_files,
    cases_fits_beside_lstsq,
    cases_fitted_numbers,
    cases_forged_files,
    cases_formats,
    cases_gone_on,
    cases_hooks_and_callbacks,
    cases_ids_and_tables,
    cases_interrupted_and_crowded,
    cases_journeys,
    cases_lists,
    cases_losses,
    cases_matrices_and_ids,
    cases_metrics_by_counting,
    cases_model_files,
    cases_normal_equations_by_numpy,
    cases_odd_arguments,
    cases_odd_environments,
    cases_odd_matrices,
    cases_odd_states,
    cases_on_disk,
    cases_on_torch_dask_and_sklearn,
    cases_other_packages,
    cases_programs_at_night,
    cases_programs_of_losses,
    cases_programs_of_matrices,
    cases_programs_of_one_afternoon,
    cases_programs_of_tables,
    cases_programs_that_keep_files,
    cases_programs_that_serve,
    cases_programs_that_study,
    cases_programs_with_callbacks,
    cases_ranked_numbers,
    cases_rankings_by_sorting,
    cases_records_by_dictionaries,
    cases_results,
    cases_same_answer,
    cases_scarce_resources,
    cases_sealed_by_attackers,
    cases_sgd_steps_by_hand,
    cases_signals,
    cases_single_steps_and_brute_lists,
    cases_slopes_and_ranks_by_hand,
    cases_solvers,
    cases_splits_and_disks_recounted,
    cases_states,
    cases_steps_by_loops,
    cases_stopped_and_shared,
    cases_stops_and_crowds_again,
    cases_strange_paths,
    cases_surroundings,
    cases_sweeps_by_loops,
    cases_sweeps_by_stacked_lstsq,
    cases_tables,
    cases_tables_read,
    cases_tables_recounted,
    cases_torch_dask_sklearn_by_numpy,
    cases_users_mistakes,
    matrices,
    problems,
)
from .case import Case
from .solvers import solvers

MODULES: tuple[Any, ...] = (
    cases_solvers, cases_losses, cases_results, cases_evaluation, cases_data, cases_formats, cases_files,
    cases_odd_matrices, cases_odd_arguments, cases_lists, cases_ids_and_tables, cases_extras, cases_clusters,
    cases_cluster_runs, cases_cluster_files, cases_on_disk, cases_tables, cases_commands,
    cases_matrices_and_ids, cases_fitted_numbers, cases_ranked_numbers, cases_estimators_and_pictures,
    cases_surroundings, cases_other_packages, cases_model_files, cases_gone_on, cases_states, cases_odd_states,
    cases_tables_read,
    cases_asked_in_a_shell, cases_beside_torch_and_dask, cases_sweeps_by_loops, cases_steps_by_loops, cases_journeys,
    cases_same_answer, cases_users_mistakes,
    cases_scarce_resources, cases_signals, cases_hooks_and_callbacks, cases_strange_paths, cases_odd_environments,
    cases_fits_beside_lstsq, cases_sgd_steps_by_hand, cases_rankings_by_sorting, cases_records_by_dictionaries,
    cases_forged_files, cases_stopped_and_shared, cases_a_day_of_commands, cases_on_torch_dask_and_sklearn,
    cases_normal_equations_by_numpy, cases_single_steps_and_brute_lists, cases_tables_recounted,
    cases_disk_and_commands_recounted, cases_sealed_by_attackers, cases_interrupted_and_crowded,
    cases_torch_dask_sklearn_by_numpy, cases_metrics_by_counting,
    cases_asked_of_implicit, cases_asked_of_rating_models, cases_asked_of_sgd_peers, cases_asked_of_evaluators,
    cases_asked_of_scipy_and_tables, cases_asked_of_runtimes,
    cases_sweeps_by_stacked_lstsq, cases_slopes_and_ranks_by_hand, cases_bytes_and_readers_recounted,
    cases_checkpoints_resealed, cases_splits_and_disks_recounted, cases_stops_and_crowds_again,
    cases_companions_and_shells,
    cases_days_with_ratings, cases_days_with_clicks, cases_days_gone_wrong,
    cases_days_under_attack, cases_days_on_other_machinery, cases_days_beside_others,
    cases_days_of_exports, cases_days_of_small_things,
    cases_programs_at_night, cases_programs_of_losses, cases_programs_of_matrices, cases_programs_of_one_afternoon,
    cases_programs_of_tables, cases_programs_that_keep_files, cases_programs_that_serve, cases_programs_that_study,
    cases_programs_with_callbacks,
)  # fmt: skip


def cases() -> list[Case]:
    found = [case for solver in solvers() for case in problems.cases(solver)]
    for module in MODULES:
        found += module.cases()
    names = [case.name for case in found]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"cases must have distinct names: {sorted(repeated)}")
    return found


PACKAGES = (
    "distributed", "faiss", "lfm_np.distributed", "lfm_np.report", "lfm_np.sklearn", "narwhals", "pandas",
    "polars", "pyarrow.dataset", "rich", "torch", "typer", "usearch.index",
)  # fmt: skip


def warm_up() -> None:
    """Load packages and, on one thread, kernels once, so that the forked processes have them.

    They are compiled in a process that ends: what a compiler leaves in memory makes every fork slower.
    """
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    compiles = os.fork()
    if not compiles:
        try:
            _run_kernels()
        finally:
            os._exit(0)
    os.waitpid(compiles, 0)
    _run_kernels()


def _run_kernels() -> None:
    for dtype in (np.float32, np.float64):
        for make in (matrices.plain, matrices.FINITE["full"]):  # short rows and long ones
            als = lfm_np.als(make(), factors=4, iterations=1, num_threads=1, dtype=dtype)
        sgd = lfm_np.sgd(matrices.plain(), factors=4, epochs=1, num_threads=1, dtype=dtype)
        for factors in (als, sgd):
            factors.recommend([0], num_threads=1)
            factors.similar_items([0], num_threads=1)
            lfm_np.evaluate(factors, None, matrices.plain(), num_threads=1)
