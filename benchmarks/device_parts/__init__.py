"""The parts of the suite device: each has run(tell, seconds_left, smoke, out)."""
