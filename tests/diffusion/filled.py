"""Networks from tensors under their original names."""

from threedgen.diffusion.formats.tensor_files import stored_tensors


def filled(match, config, state_dict):
    """The network that `match_ldm_unet` or another `match_*` finds for the config's words, with the tensors in it."""
    matched = match(config, stored_tensors(state_dict), "the state_dict")
    matched.fill()
    return matched.module.eval()
