"""The composition root: settings in, running parts out. The only place that builds things.

One module per role, so that a process imports no more than it runs: ``receiver`` (and it neither
database nor models), ``indexer``, ``worker``; ``hub`` is the store that all but the receiver
share, ``roles`` the parent of them all.
"""
