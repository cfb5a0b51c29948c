"""A published checkpoint, with adapters that are trained on your own images: LoRA.

Paper      Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685
Command    marble train --config configs/lora.py --workdir runs/lora --config.data.source=DIR, where the config names
           the checkpoint as its variant: --config configs/lora.py:sd15
Hardware   for Stable Diffusion 1.x one GPU of 16 GB or more, with --config.model.dtype=bfloat16; never timed
Expected   pictures of what your images show, for the texts they were trained with, in WORKDIR/samples; 1,594,368
           numbers are trained for Stable Diffusion 1.x. Never run to its end on real weights: no figure is known
Variants   :CHECKPOINT is needed, as for configs/finetune.py, which says what else can be changed

What to change
  rank             --config.lora.rank=16; --config.lora.alpha=16 multiplies what is learned by alpha / rank
  what is adapted  --config.lora.targets="(r'attention(_\\d+)?/(query|key|value|proj)/kernel$',)": regular expressions,
                   searched for in the paths of the network's kernels
"""

from ml_collections import ConfigDict

from marble.configs import finetune


def get_config(variant: str | None = None) -> ConfigDict:
    """The config for the checkpoint that variant names."""
    config = finetune.get_config(variant)
    config.lora = ConfigDict({"rank": 8})
    config.optimizer.learning_rate = 1e-4
    return config
