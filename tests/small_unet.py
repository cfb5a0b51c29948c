"""The arguments of a small UNet2DConditionModel of diffusers'."""

SMALL = dict(
    sample_size=8,
    block_out_channels=(16, 32),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    norm_num_groups=8,
    cross_attention_dim=20,
    attention_head_dim=(2, 4),
)
