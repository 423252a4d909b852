"""Shared by all nodes: parameters, QoS, diagnostics, shutdown."""
