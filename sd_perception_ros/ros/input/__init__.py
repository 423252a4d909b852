"""From topics to frames: cameras, reference sensors, transforms."""
