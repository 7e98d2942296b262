"""Keeps the parts of the hub running, each on its own.

Two levels. Inside a process: sources are started again with backoff (``sources``), loops go on
after a fault, a job's fault is recorded and costs nothing but that attempt (``faults``). Between
processes: the parent starts one child per role and starts the one that died again
(``processes``); what a dead process held is taken over (``takeover``).
"""
