"""The parts of commands that need torch; they run after the arguments are read."""
