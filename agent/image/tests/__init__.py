"""Tests of agent/image; selftest runs them."""
