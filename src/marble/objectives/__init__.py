"""What is trained, one file an objective: its part of a config, its loss, its log, and what it is used through.

objective.py is the protocol. diffusion.py is the main member; what its loss is made of lies in draws.py, denoising.py
and learned_schedule.py, and what a config says of it in diffusion_config.py and samplers.py. vae.py is the comparison.
"""
