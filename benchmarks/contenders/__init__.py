"""The same work done in different ways: each module has a class `Contender` with the same methods."""
