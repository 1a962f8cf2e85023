"""3D-aware denoising: views that agree because they are, for a moment, pictures of one thing (VideoMV, section 3.3)."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor

from threedgen.diffusion.denoising import Denoised, Denoiser, Guided
from threedgen.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class Reconstructed:
    """At some timesteps x0 is replaced by what a 3D reconstruction of it shows to its cameras; a `Denoiser`.

    reconstruct: latents x0 [B, 4, h, w] -> latents of the reconstruction, [B, 4, h, w].
    timesteps: those at which it is asked.
    blend: 0: x0 stays, 1: it is replaced wholly, as in the paper.
    before: guidance first, then one reconstruction of the guided x0. Otherwise, as the released code has it, both the
    conditional and the unconditional x0 are reconstructed, and guidance leads from one to the other, which multiplies
    what the autoencoder and the reconstruction get wrong by its scale.
    The noise returned is the one that belongs to the new x0.
    """

    inner: Denoiser  # `Guided` where `before` is False
    reconstruct: Callable[[Tensor], Tensor]
    timesteps: Collection[int]
    blend: float = 1.0
    before: bool = True

    @property
    def schedule(self) -> NoiseSchedule:
        return self.inner.schedule

    @property
    def num_views(self) -> int:
        return self.inner.num_views

    def __call__(self, noisy: Tensor, timestep: Tensor) -> Denoised:
        if int(timestep[0]) not in self.timesteps:
            return self.inner(noisy, timestep)
        alpha, sigma = self.schedule.level(timestep)
        if self.before:
            x0 = self.inner(noisy, timestep).x0
            shown = self.reconstruct(x0)
        else:
            assert isinstance(self.inner, Guided)
            both, scale = self.inner.both(noisy, timestep).x0, self.inner.scale_at(int(timestep[0]))
            x0, shown = (self.inner.away(x, scale) for x in (both, self.reconstruct(both)))
        x0 = x0 + self.blend * (shown - x0)
        return Denoised((noisy - alpha * x0) / sigma, x0)
