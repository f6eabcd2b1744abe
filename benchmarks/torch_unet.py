"""The U-Net of `jaxgen.families.diffusion.unet` in PyTorch, for a side-by-side measurement."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def group_norm(channels):
    return nn.GroupNorm(min(32, max(1, channels // 4)), channels, eps=1e-5)


class ResidualBlock(nn.Module):
    def __init__(self, incoming, channels, embedding):
        super().__init__()
        self.norm_in = group_norm(incoming)
        self.convolution_in = nn.Conv2d(incoming, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm_out = group_norm(channels)
        self.convolution_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(incoming, channels, 1) if incoming != channels else nn.Identity()

    def forward(self, picture, embedding):
        hidden = self.convolution_in(F.silu(self.norm_in(picture)))
        scale, shift = self.modulation(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm_out(hidden) * (1 + scale) + shift
        return self.shortcut(picture) + self.convolution_out(F.silu(hidden))


class Attention(nn.Module):
    def __init__(self, channels, head_dim):
        super().__init__()
        self.heads = channels // head_dim
        self.norm = group_norm(channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, picture):
        batch, channels, height, width = picture.shape
        places = self.norm(picture).flatten(2).transpose(1, 2)
        query, key, value = (
            layer(places).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = self.output(mixed.transpose(1, 2).flatten(2))
        return picture + mixed.transpose(1, 2).reshape(batch, channels, height, width)


class UNet(nn.Module):
    """The digits' one: one residual block a level, attention between the lowest blocks."""

    def __init__(self, image_channels, widths, classes, head_dim=32):
        super().__init__()
        embedding = 4 * widths[0]
        self.widths = widths
        self.time_0 = nn.Linear(widths[0], embedding)
        self.time_1 = nn.Linear(embedding, embedding)
        self.told = nn.Linear(classes, embedding, bias=False)
        self.first = nn.Conv2d(image_channels, widths[0], 3, padding=1)
        skips, channels = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            setattr(self, f"down_{level}_0", ResidualBlock(channels, width, embedding))
            channels = width
            skips.append(channels)
            if level < len(widths) - 1:
                down = nn.Conv2d(width, width, 3, stride=2, padding=1)
                setattr(self, f"downsample_{level}", down)
                skips.append(channels)
        self.middle_0 = ResidualBlock(channels, channels, embedding)
        self.middle_attention = Attention(channels, head_dim)
        self.middle_1 = ResidualBlock(channels, channels, embedding)
        for level in reversed(range(len(widths))):
            for index in range(2):
                block = ResidualBlock(channels + skips.pop(), widths[level], embedding)
                setattr(self, f"up_{level}_{index}", block)
                channels = widths[level]
            if level:
                up = nn.Conv2d(channels, channels, 3, padding=1)
                setattr(self, f"upsample_{level}", up)
        self.norm_last = group_norm(channels)
        self.last = nn.Conv2d(channels, image_channels, 3, padding=1)

    def forward(self, picture, time, told):
        half = self.widths[0] // 2
        frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half) / half)
        angles = 1000.0 * time[:, None] * frequencies
        hidden = self.time_0(torch.cat([angles.cos(), angles.sin()], dim=1))
        embedding = self.time_1(F.silu(hidden)) + self.told(told)
        picture = self.first(picture)
        skips = [picture]
        for level in range(len(self.widths)):
            picture = getattr(self, f"down_{level}_0")(picture, embedding)
            skips.append(picture)
            if level < len(self.widths) - 1:
                picture = getattr(self, f"downsample_{level}")(picture)
                skips.append(picture)
        picture = self.middle_1(self.middle_attention(self.middle_0(picture, embedding)), embedding)
        for level in reversed(range(len(self.widths))):
            for index in range(2):
                picture = torch.cat([picture, skips.pop()], dim=1)
                picture = getattr(self, f"up_{level}_{index}")(picture, embedding)
            if level:
                upsample = getattr(self, f"upsample_{level}")
                picture = upsample(F.interpolate(picture, scale_factor=2, mode="nearest"))
        return self.last(F.silu(self.norm_last(picture)))
