"""Finding and choosing: the indexes, how their rankings are fused, and which sentences are quoted.

Everything here is synchronous and knows neither actors nor the store; the roles call it from threads.
"""
