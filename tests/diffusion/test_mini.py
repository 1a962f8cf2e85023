"""The mini model's networks before any training, and the training objective in closed form."""

import torch

from threedgen.data.miniworld import vocabulary
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.mini import new_mini_prior, new_mini_vae


def test_loss_is_zero_for_the_true_velocity_and_its_square_for_silence(monkeypatch):
    torch.manual_seed(0)
    prior = new_mini_prior(vocabulary(), new_mini_vae())
    latents, noise, timestep = torch.randn(4, 4, 16, 16), torch.randn(4, 4, 16, 16), torch.tensor([0, 10, 500, 999])
    alpha_bar = prior.alphas_cumprod[timestep].reshape(-1, 1, 1, 1)
    velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents
    for answer, expected in ((velocity, torch.zeros(4)), (velocity * 0, velocity.square().mean((1, 2, 3)))):
        monkeypatch.setattr(prior.unet, "forward", lambda *args, answer=answer: answer)
        torch.testing.assert_close(prior.losses(latents, noise, timestep, Conditions(torch.zeros(1, 1, 96))), expected)


def test_new_vae_starts_as_a_blur_that_keeps_colours():
    """Before any training, an even image comes back in its own colour, brighter and darker ones in order."""
    torch.manual_seed(0)
    vae = new_mini_vae().eval()
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]])
    images = colours[:, :, None, None].expand(-1, -1, 64, 64) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.mean).sample[:, :, 16:48, 16:48].mean((2, 3))
    assert posterior.std.mean() < 0.1
    assert (decoded[:3].argmax(1) == torch.arange(3)).all()
    assert decoded[3].std() < 0.7 * decoded[:3].std(1).min()
