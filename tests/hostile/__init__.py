"""Hostile input for every public function: what must be refused, and what must be right.

``python -m tests.hostile`` runs every case in a process of its own and prints the table of outcomes, for lfm_np and for
the peers that are installed.
"""
