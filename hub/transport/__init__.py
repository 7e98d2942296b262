"""How parts of the hub call others: by HTTP that is bounded in time and length, by TLS, with
signatures. Connectors and model adapters share it, a stranger's too.
"""
