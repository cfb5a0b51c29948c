"""Timesteps that improved-diffusion's respacing gives (Nichol & Dhariwal 2021)."""

from marble.sampling import timesteps


def test_ddim25_is_the_spacing_leading():
    # "ddim25" takes every 40th of 1000 steps from 0 up, which Song, Meng & Ermon 2021 did, and never the last one.
    rising = timesteps(1000, 25, "leading")[::-1]
    assert rising.tolist() == list(range(0, 961, 40))
