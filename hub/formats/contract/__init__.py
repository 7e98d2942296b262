"""The contract with vendors' services as JSON (docs/contract)."""
