"""Weights of other libraries, both ways: one table of names an architecture, read from a file and written to one.

Reading order: tensors -> names -> an architecture -> files -> folder -> pipeline_folder. Which file to open for what:

- ``tensors``: the arrays of a file, not read yet. ``names``: what a table is made of, and the two ways to read one
- an architecture: ``ddpm``, ``adm``, ``dit``, ``conditional_unet``, ``autoencoder_kl``, ``taesd``, ``clip``, ``bert``,
  ``dinov2``, each with ``table``, ``model_of`` and ``config_of``; what is below one has its name first
  (``ddpm_names``). ``inception`` and ``efficientnet`` are of one network each. What several have: ``blocks``,
  ``unet_places``. Files that need more than a table: ``compvis`` (Stable Diffusion as one
  file), ``open_clip``, ``flax_names``; ``lora`` for adapters
- configs: ``published`` for diffusers', ``transformers_config``, and ``scheduler``; files without one: ``reading``
- formats: ``files`` tells them apart, ``safetensors_file``, ``msgpack_file``, ``torch_pickle`` and ``npz_file`` read
  one each; below them ``stored`` (bytes, checked), ``nested``, and ``pickle_machine``, which runs nothing
- ``kinds`` has the classes that ``folder``, of one network, and ``pipeline_folder`` know; ``text`` and ``latents`` open
  the parts that stay as they are
"""
