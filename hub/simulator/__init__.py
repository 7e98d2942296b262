"""A vendor's service that speaks the contract (docs/contract), well or badly: a real HTTP server
for tests, and for integrators who want to see what the hub does with it. No part of a hub that
serves patients: `caidx simulate vendor` starts it.
"""
