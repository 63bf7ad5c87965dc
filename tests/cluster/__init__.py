"""Whole deployments, with everything that can happen to them.

They take every core there is, and beside them calls of other tests would be late: they run by themselves, with the
slow tests.
"""
