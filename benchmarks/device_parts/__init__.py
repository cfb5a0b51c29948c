"""The parts of benchmarks/device.py: each has run(tell, seconds_left, smoke, out)."""
