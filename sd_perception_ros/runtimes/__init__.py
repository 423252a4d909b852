"""What runs a model: the device, its number format, and what replays or compiles it."""
