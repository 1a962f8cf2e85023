"""Training of what meets a picture: the other layers stay the base's, and only the trained ones are shipped."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from threedgen.config.load import load_config
from threedgen.config.training import PriorNetwork, Trainable
from threedgen.core.errors import ConfigError
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.start import PICTURE_LAYERS, start_prior
from threedgen.runs.directory import open_run
from threedgen.tasks.training import train_prior
from threedgen.tasks.training.train_image_encoder import train_image_encoder

SETTINGS = (
    "num_threads=1",
    "camera.num_views=4",
    "views.num_inference_steps=1",
    "train.num_objects=2",
    "train.render_workers=1",
    "train.steps=3",
    "train.image_encoder_steps=0",
    "train.batch_objects=2",
    "train.warmup_steps=1",
    "train.sample_every=100",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picture")
    return load_config("train-video-i2v-mini.yaml", [*SETTINGS, f"output_root={folder}"])


@pytest.mark.slow
def test_only_what_meets_the_picture_is_trained_and_shipped(config, tmp_path):
    with open_run(tmp_path / "run", config) as run:
        trained = MultiViewPrior.from_pretrained(train_prior.run(config, run)["prior"])
    base = MultiViewPrior.from_pretrained("mini-video")
    theirs = base.unet.state_dict()
    moved = {name for name, value in trained.unet.state_dict().items()
             if name not in theirs or not torch.equal(value, theirs[name])}  # fmt: skip
    assert moved and all(PICTURE_LAYERS.fullmatch(name) for name in moved)
    for some in ("conv_in.weight", "transformer_in.proj_in.weight", "image_latents_proj_in.0.weight",
                 "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"):  # fmt: skip
        assert some in moved
    assert base.tokenizer.get_vocab() == trained.tokenizer.get_vocab()
    for part in ("text_encoder", "vae"):
        for name, value in getattr(base, part).named_parameters():
            assert torch.equal(value, getattr(trained, part).get_parameter(name)), name
    trained.save_pretrained(tmp_path / "shipped", base="mini-video")
    files = [path for path in (tmp_path / "shipped").rglob("*") if path.is_file()]
    assert not (tmp_path / "shipped/text_encoder").exists()
    assert sum(path.stat().st_size for path in files) < 6 * 2**20
    own = load_file(tmp_path / "shipped/unet/diffusion_pytorch_model.safetensors")
    assert own.keys() == moved


@pytest.mark.slow
@pytest.mark.parametrize("start", ["mini-video-i2v", "mini-video"])
def test_what_has_learned_to_read_pictures_stays_as_it_is(config, tmp_path, start):
    """The bundled encoder, and a new one after its own training; one that has had none learns with the network."""
    steps = 0 if start == "mini-video-i2v" else 2
    config = replace(config, train=replace(config.train, start_from=start, image_encoder_steps=steps))
    own = []

    def train_encoder(config, run, prior, sources):
        train_image_encoder(config, run, prior, sources)
        own.append({name: value.clone() for name, value in prior.state_dict().items()})

    with open_run(tmp_path, config) as run, pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_prior, "train_image_encoder", train_encoder)
        trained = MultiViewPrior.from_pretrained(train_prior.run(config, run)["prior"]).state_dict()
    before = own[0] if own else MultiViewPrior.from_pretrained(start).state_dict()
    assert len(own) == (steps > 0)
    kept = {name for name, value in trained.items() if torch.equal(value.half(), before[name].half())}
    reader = {name for name in trained if name.startswith(("image_encoder.", "unet.context_embedding."))}
    assert reader and reader <= kept
    assert not kept & {"unet.conv_in.weight", "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"}


def test_weights_that_are_shown_a_picture_go_on_being_shown_one():
    with pytest.raises(ConfigError, match=r"is shown a picture \(train.image_conditioning=true\)"):
        start_prior("mini-video-i2v", network=PriorNetwork.video)


def test_without_a_picture_there_is_nothing_that_meets_one(config, tmp_path):
    train = replace(config.train, image_conditioning=False)
    assert train.trainable is Trainable.picture
    with open_run(tmp_path, config) as run, pytest.raises(ConfigError, match=r"train\.trainable=picture"):
        train_prior.run(replace(config, train=train), run)
