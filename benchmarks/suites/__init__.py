"""The suites, one file each: ``define(parser)`` adds its flags, ``run(options, report)`` measures and gives the status.

A suite has no import on top that opens a device: the runner reads all of a suite's flags before that. ``PEERS`` are the
libraries that it can be set beside, ``REPORTS`` says whether its rows go into a report, which is tables and the file
--out, and ``IN_CHILDREN`` that its processes open the devices, which a TPU allows to one alone.
"""

SUITES = {
    "train": "a training step and a forward pass, beside diffusers and denoising-diffusion-pytorch",
    "sample": "a whole chain, an image, beside their pipelines",
    "data": "images a second that the input gives",
    "startup": "the import, the help, the first image cold and warm; what an installation takes",
    "compile": "compiling, the cache, and the time of an image against batch, resolution and steps",
    "device": "all that a GPU or TPU rented by the minute is to tell; docs/device.md",
    "scaling": "time a step with more devices and processes",
    "quality": "how good samples are after as many images seen, beside diffusers' training script",
    "few_steps": "how few steps a sampler needs",
    "lossless": "how short a model makes its held-out images, beside PNG and lzma",
    "features": "images a second that a network of features takes",
    "text_to_image": "what the parts of text to image can do",
}
"""Each with what it measures."""
