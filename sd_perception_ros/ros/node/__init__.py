"""What every node needs: parameters, QoS, diagnostics, shutdown."""
